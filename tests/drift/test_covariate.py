from pathlib import Path

import numpy as np
import pytest

from lobsmith.drift.covariate import check_covariate_drift, check_level
from lobsmith.drift.null_distribution import PastStore
from lobsmith.drift.reference import RawRows, Scaling
from lobsmith.drift.verdict import DriftVerdict, Finding
from lobsmith.errors import DataContractError
from tests.drift.drift_rows import FEATURES, NAMES, S, drift_params, market

OLD, NEW = 1000, 250
SECONDS = OLD + 46 * NEW
SCALING = Scaling(np.zeros(FEATURES, np.float32), np.ones(FEATURES, np.float32))


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The past pairs of `market(SECONDS)`, which are the same whatever its newest rows are."""
    path = tmp_path_factory.mktemp("past") / "past.jsonl"
    check(market(SECONDS), path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def known_at_rest(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The past pairs of `at_rest()`."""
    path = tmp_path_factory.mktemp("past") / "past.jsonl"
    check(at_rest(), path)
    return path.read_bytes()


def at_rest() -> RawRows:
    """A market with a feature that never changes."""
    rows = market(SECONDS)
    raw = rows.raw.copy()
    raw[:, 2] = 7.0
    return RawRows(rows.time_ns, rows.segment, raw)


def check(rows: RawRows, path: Path, known: bytes = b"", **changes: float) -> DriftVerdict:
    """The newest rows beside those before them; what is earlier is the past."""
    cut = int(rows.time_ns[-1]) + S - NEW * S
    old, new = rows.between(0, cut), rows.between(cut, cut + NEW * S)
    path.write_bytes(path.read_bytes() if path.exists() else known)
    return check_covariate_drift(
        old, new, rows, SCALING, PastStore(path), drift_params(**changes), level=0.05, names=NAMES
    )


def changed(rows: RawRows, column: int, shift: float) -> RawRows:
    raw = rows.raw.copy()
    raw[-NEW:, column] += shift
    return RawRows(rows.time_ns, rows.segment, raw)


def test_a_shift_is_found_and_named(tmp_path: Path, known: bytes) -> None:
    verdict = check(changed(market(SECONDS), 3, 3.0), tmp_path / "past.jsonl", known)
    assert verdict.finding is Finding.DRIFT
    assert verdict.moved[0].name == "feature_3"
    assert verdict.past >= 40
    assert verdict.value
    assert verdict.value > max(verdict.null)


def test_the_same_market_is_none(tmp_path: Path, known: bytes) -> None:
    assert check(market(SECONDS), tmp_path / "past.jsonl", known).finding is Finding.NO_DRIFT


def test_a_constant_feature_is_no_drift_and_has_not_moved(tmp_path: Path, known_at_rest: bytes) -> None:
    verdict = check(at_rest(), tmp_path / "past.jsonl", known_at_rest)
    still = next(shift for shift in verdict.moved if shift.name == "feature_2")
    assert verdict.finding is Finding.NO_DRIFT
    assert (still.wasserstein, still.importance) == (0.0, 0.0)
    assert still.psi < 0.01


def test_a_constant_that_becomes_another_is_drift(tmp_path: Path, known_at_rest: bytes) -> None:
    verdict = check(changed(at_rest(), 2, 1.0), tmp_path / "past.jsonl", known_at_rest)
    assert verdict.finding is Finding.DRIFT
    assert verdict.moved[0].name == "feature_2"


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataContractError, match="feature_1"):
        check(changed(market(SECONDS), 1, np.nan), tmp_path / "past.jsonl")


def test_too_little_past_is_never_no_drift(tmp_path: Path) -> None:
    verdict = check(market(OLD + 20 * NEW), tmp_path / "past.jsonl")
    assert verdict.finding is Finding.INSUFFICIENT
    assert verdict.past == 19
    assert verdict.value is not None


def test_too_few_recent_rows_are_missing_data(tmp_path: Path) -> None:
    rows = market(SECONDS)
    kept = np.r_[: SECONDS - NEW, SECONDS - 16 : SECONDS]
    thin = RawRows(rows.time_ns[kept], rows.segment[kept], rows.raw[kept])
    assert check(thin, tmp_path / "past.jsonl").finding is Finding.MISSING


def test_a_check_measures_so_many_pairs_and_the_next_goes_on(tmp_path: Path, known: bytes) -> None:
    rows = market(SECONDS)
    first = check(rows, tmp_path / "past.jsonl", pairs_a_look=25)
    second = check(rows, tmp_path / "past.jsonl", pairs_a_look=25)
    assert (first.finding, first.past) == (Finding.INSUFFICIENT, 25)
    assert (second.finding, second.past) == (Finding.NO_DRIFT, 45)
    # As if one check had measured all of them.
    assert second == check(rows, tmp_path / "other.jsonl", known)


def test_drift_stays_out_of_the_null_distribution(tmp_path: Path) -> None:
    rows = market(SECONDS + 4 * NEW)
    raw = rows.raw.copy()
    raw[SECONDS:, 3] += 3.0
    rows = RawRows(rows.time_ns, rows.segment, raw)
    old = rows.between(0, SECONDS * S)
    store = PastStore(tmp_path / "past.jsonl")
    for end in range(SECONDS + NEW, SECONDS + 4 * NEW + 1, NEW):
        recent = rows.between((end - NEW) * S, end * S)
        verdict = check_covariate_drift(
            old, recent, rows.between(0, end * S), SCALING, store, drift_params(), level=0.05, names=NAMES, gap_s=0
        )
        assert verdict.finding is Finding.DRIFT


def test_the_budget_of_a_day_is_shared_by_its_checks() -> None:
    params = drift_params(false_alarms_a_day=2.0, look_s=300.0)
    assert check_level(params) * 3 * 86_400 / 300 == pytest.approx(2.0)

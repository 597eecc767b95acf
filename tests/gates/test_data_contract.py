import multiprocessing
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from lobsmith.errors import DataContractError
from lobsmith.features.dataset import Dataset, build_dataset
from lobsmith.features.definitions import NAMES
from lobsmith.gates.data_contract import DataContract, require
from lobsmith.market.events import LEVEL, TRADE, Events
from lobsmith.market.session import Accounting, Session
from lobsmith.market.simulator import simulate
from lobsmith.params import ContractParams
from tests.small import small_params

PARAMS = small_params()


@pytest.fixture(scope="module")
def session() -> Session:
    return simulate(seed=5, seconds=60)


@pytest.fixture(scope="module")
def dataset(session: Session) -> Dataset:
    return build_dataset(session, PARAMS)


def check_events(session: Session, **thresholds: object) -> tuple[int, str]:
    """Number of failures, and the error's text."""
    params: ContractParams = msgspec.structs.replace(PARAMS.contract, **thresholds)
    result = DataContract(params).check_events("x:Y", session.events, session.accounting)
    if not result.failures:
        assert result.verdict.passed
        return 0, ""
    assert not result.verdict.passed
    with pytest.raises(DataContractError) as raised:
        require(result)
    assert "\n" not in str(raised.value)
    return len(result.failures), str(raised.value)


def edited(session: Session, column: str, change: Callable[[np.ndarray], None]) -> Session:
    values = getattr(session.events, column).copy()
    change(values)
    return replace(session, events=replace(session.events, **{column: values}))


def test_a_good_session_passes(session: Session) -> None:
    assert check_events(session) == (0, "")


def put(where: Callable[[Events], np.ndarray], count: int, value: float) -> Callable[[Session, str], Session]:
    def change(session: Session, column: str) -> Session:
        places = np.flatnonzero(where(session.events))[5 : 5 + count]

        def write(values: np.ndarray) -> None:
            values[places] = value

        return edited(session, column, write)

    return change


@pytest.mark.parametrize(
    ("column", "change", "pattern"),
    [
        ("price", put(lambda e: e.kind == LEVEL, 3, 0), r"price: 3 of [\d,]+ rows .*row \d+ is 0"),
        ("size", put(lambda e: e.kind == LEVEL, 2, -1.0), r"size: 2 of .*is -1\.0"),
        ("size", put(lambda e: e.kind == LEVEL, 1, np.nan), r"size: 1 of .*null"),
        ("size", put(lambda e: e.kind == LEVEL, 1, np.inf), r"size: 1 of .*inf"),
        ("size", put(lambda e: e.kind == TRADE, 4, 0.0), r"traded_size: 4 of "),
        ("kind", put(lambda e: e.kind == TRADE, 1, 77), r"kind: 1 of .*is 77"),
        ("side", put(lambda e: e.kind == TRADE, 1, 5), r"side: 1 of .*is 5"),
        ("local_time", put(lambda e: e.kind == TRADE, 1, 0), r"local_time_step_ns: 1 of "),
        ("exchange_time", put(lambda e: e.kind == TRADE, 1, 1), r"latency_s: 1 of "),
    ],
)
def test_what_is_wrong_with_events_is_named(
    session: Session, column: str, change: Callable[[Session, str], Session], pattern: str
) -> None:
    _, message = check_events(change(session, column))
    assert re.search(pattern, message), message


@pytest.mark.parametrize(
    ("account", "pattern"),
    [
        ({"kept": 10}, "set_aside_share: 1 of 1"),
        ({"segments": 90}, "gaps_per_hour: 1 of 1"),
        ({"crossed": 10**6}, "crossed_share"),
        ({"seconds": 3.0, "segments": 1}, "seconds: 1 of 1 rows .*is 3.0"),
        ({"clock_offset_ns": -20 * 10**9}, "clock_offset_s"),
    ],
)
def test_what_is_wrong_with_the_account_is_named(session: Session, account: dict[str, int], pattern: str) -> None:
    changed: Accounting = msgspec.structs.replace(session.accounting, **account)
    _, message = check_events(replace(session, accounting=changed))
    assert re.search(pattern, message), message


def test_a_message_stays_short_however_much_is_wrong(session: Session) -> None:
    broken = replace(session, events=replace(session.events, price=session.events.price * 0))
    broken = edited(broken, "size", lambda values: values.fill(-1.0))
    count, message = check_events(broken, minimum_seconds=1e6, maximum_clock_offset_s=1e-9, maximum_latency_s=1e-9)
    assert count > 5
    assert "more" in message
    assert len(message) < 2000


def features_message(dataset: Dataset, **thresholds: object) -> str:
    params: ContractParams = msgspec.structs.replace(PARAMS.contract, **thresholds)
    result = DataContract(params).check_features(dataset)
    if not result.failures:
        return ""
    with pytest.raises(DataContractError) as raised:
        require(result)
    return str(raised.value)


def test_good_features_pass(dataset: Dataset) -> None:
    assert features_message(dataset) == ""


def test_what_is_wrong_with_features_is_named(dataset: Dataset) -> None:
    raw, scores = dataset.rows.raw.copy(), dataset.rows.features.copy()
    places = np.flatnonzero(dataset.rows.complete)
    raw[places[7], NAMES.index("flow_1_4")] = np.nan
    raw[places[8:10], NAMES.index("spread")] = -1.0
    scores[places[3], NAMES.index("event_rate")] = 9.0
    message = features_message(replace(dataset, rows=replace(dataset.rows, raw=raw, features=scores)))
    assert "flow_1_4: 1 of" in message
    assert "spread: 2 of" in message
    assert "row 8 is -1.0" in message
    assert "event_rate (z): 1 of" in message


def test_constant_columns_are_named(dataset: Dataset) -> None:
    raw = dataset.rows.raw.copy()
    raw[:, NAMES.index("trade_flow_1")] = 0.0
    message = features_message(replace(dataset, rows=replace(dataset.rows, raw=raw)), maximum_constant_columns=0)
    assert re.search(r"constant columns: .*trade_flow_1", message)


def test_one_sided_labels_are_named(dataset: Dataset) -> None:
    labels = np.where(dataset.labels == 0, 1, dataset.labels).astype(np.int8)
    assert "label down after 100 ms" in features_message(replace(dataset, labels=labels))


def _validate_many(directory: Path, events: Events, account: Accounting, good: bool) -> None:
    if not good:
        events = replace(events, size=-events.size)
    for _ in range(3):
        contract = DataContract(PARAMS.contract)
        assert contract.check_events("x:Y", events, account).verdict.passed == good
        contract.build_data_docs(directory)


@pytest.mark.slow
def test_runs_in_parallel_do_not_disturb_each_other(tmp_path: Path, session: Session) -> None:
    context = multiprocessing.get_context("spawn")
    runs = [
        context.Process(target=_validate_many, args=(tmp_path / "docs", session.events, session.accounting, good))
        for good in (True, False)
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join(timeout=280)
    assert [run.exitcode for run in runs] == [0, 0]
    page = (tmp_path / "docs" / "index.html").read_text()
    # One run's page and nothing of the other's or of an unfinished one.
    assert ("All 13 expectations hold." in page) != ("Refused: 2 of 13 expectations do not hold" in page)
    assert [path.name for path in (tmp_path / "docs").iterdir()] == ["index.html"]
    assert [path.name for path in tmp_path.iterdir()] == ["docs"]


def test_data_docs_show_what_was_expected_and_found(tmp_path: Path, session: Session) -> None:
    broken = edited(session, "price", lambda values: values.fill(0))
    contract = DataContract(PARAMS.contract)
    contract.check_events("x:Y", broken.events, broken.accounting)
    page = contract.build_data_docs(tmp_path / "docs").read_text()
    assert "Refused: 1 of 13 expectations do not hold, of price." in page
    assert re.search(
        r'<th scope="row">price</th><td[^>]*>at least 1</td><td[^>]*>0 to 1<span class="ci">row \d+ is 0', page
    )
    assert "all 5 expectations hold in 1 row." in page
    assert not re.search(r"(src|href)=.?https?:|<script|<link", page)

"""Shadow versions answer as if asked directly, and give a reason where they cannot."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lobsmith.features.definitions import COUNT as F
from lobsmith.features.definitions import definitions_sha256
from lobsmith.monitoring.log.writer import Role
from lobsmith.params import ClientParams, Params
from lobsmith.release.repository.repository import Repository
from lobsmith.trading.client.stream import Reason, StreamClient, newest, second_newest
from lobsmith.trading.recorder.ring import PRIME, RESET, entry_dtype
from lobsmith.trading.recorder.shadow import ShadowAnswers, ShadowReplica
from lobsmith.trading.transport.inprocess import InProcessTransport
from lobsmith.workspace import Workspace
from tests.served import PRIME_ROWS, publish_small
from tests.small import small_params
from tests.trading.recorded import ROWS, probabilities, published

N = 400


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return published(tmp_path_factory.mktemp("shadow"))


@pytest.fixture
def params() -> Params:
    return small_params(**{"client.poll_s": 1e-9})


def replica(workspace: Workspace, params: Params, role: Role = Role.CANDIDATE) -> ShadowReplica:
    transport = InProcessTransport(Repository.of(workspace))
    return ShadowReplica(
        role,
        transport,
        "lob_candidate" if role is Role.CANDIDATE else "lob",
        choose=newest if role is Role.CANDIDATE else second_newest,
        definitions_sha256=definitions_sha256(params.features, params.labels),
        feature_count=F,
        params=params.client,
    )


def entries(start: int = 0, stop: int = N, horizons: int = 2) -> np.ndarray:
    """The entries of one stream, the first of which begins it."""
    stream = np.zeros(stop - start, entry_dtype(F, horizons))
    stream["sequence"] = stream["row"] = np.arange(start, stop)
    stream["segment"] = 1
    stream["features"] = ROWS[start:stop]
    stream["flags"] = np.where(stream["sequence"] == 0, RESET, 0)
    return stream


def in_chunks(shadow: ShadowReplica, stream: np.ndarray, size: int = 90) -> Iterator[ShadowAnswers]:
    for start in range(0, len(stream), size):
        yield from shadow.answer(stream[start : start + size])


def joined(answered: Iterator[ShadowAnswers]) -> tuple[np.ndarray, list]:
    parts = list(answered)
    return np.concatenate([part.entries["row"] for part in parts]), [p for part in parts for p in part.predictions]


def directly(workspace: Workspace, model: str, rows: np.ndarray, **choose) -> np.ndarray:
    client = StreamClient.open(
        InProcessTransport(Repository.of(workspace)), model, ClientParams(deadline_s=5, poll_s=1), **choose
    )
    return probabilities(client.predict(rows))


@pytest.mark.parametrize("role", [Role.CANDIDATE, Role.FALLBACK])
def test_a_stream_in_chunks_is_answered_as_a_client_would_be(template, params, role) -> None:
    row, predictions = joined(in_chunks(replica(template, params, role), entries()))
    np.testing.assert_array_equal(row, np.arange(N))
    assert not any(prediction.reason for prediction in predictions)
    if role is Role.CANDIDATE:
        expected = directly(template, "lob_candidate", ROWS[:N])
    else:
        expected = directly(template, "lob", ROWS[:N], choose=second_newest)
        assert {prediction.version for prediction in predictions} == {Repository.of(template).listed("lob")[0]}
    np.testing.assert_allclose(probabilities(predictions), expected, atol=1e-5)


def test_a_reset_begins_the_stream_anew_and_its_first_answers_count(template, params) -> None:
    stream = entries()
    stream["flags"][200] = RESET
    stream["segment"][200:] = 2
    _, predictions = joined(in_chunks(replica(template, params), stream))
    assert not any(prediction.reason for prediction in predictions)
    expected = [directly(template, "lob_candidate", part) for part in (ROWS[:200], ROWS[200:N])]
    np.testing.assert_allclose(probabilities(predictions), np.concatenate(expected), atol=1e-5)


def test_after_a_hole_answers_count_once_the_version_is_primed(template, params) -> None:
    stream = np.delete(entries(), slice(150, 170))
    row, predictions = joined(in_chunks(replica(template, params), stream))
    priming = np.array([prediction.reason is Reason.PRIMING for prediction in predictions])
    # 64 rows make a cold start as good as a warm one for every version that the tests publish.
    np.testing.assert_array_equal(row[priming], np.arange(170, 170 + PRIME_ROWS))
    counted = ~priming
    assert not any(prediction.reason for prediction, counts in zip(predictions, counted, strict=True) if counts)
    expected = directly(template, "lob_candidate", ROWS[:N])[row]
    np.testing.assert_allclose(probabilities(predictions)[counted], expected[counted], atol=2e-3)


def test_a_shadow_that_begins_in_the_middle_primes_first(template, params) -> None:
    _, predictions = joined(in_chunks(replica(template, params), entries(100)))
    assert [prediction.reason for prediction in predictions] == [Reason.PRIMING] * PRIME_ROWS + [None] * (
        N - 100 - PRIME_ROWS
    )


def test_rows_that_prime_move_the_state_and_get_no_answer(template, params) -> None:
    stream = entries()
    stream["flags"][:100] |= PRIME
    row, predictions = joined(in_chunks(replica(template, params), stream))
    np.testing.assert_array_equal(row, np.arange(100, N))
    np.testing.assert_allclose(
        probabilities(predictions), directly(template, "lob_candidate", ROWS[:N])[100:], atol=1e-5
    )


def test_a_candidate_may_come_change_and_go(tmp_path: Path, params: Params) -> None:
    workspace = published(tmp_path, candidate=False)
    followed = replica(workspace, params)
    candidate = small_params()
    assert followed.answer(entries(0, 100)) == []
    assert followed.version is None
    first = publish_small(workspace, candidate, seed=3, model="lob_candidate").version
    (shadow,) = followed.answer(entries(100, 200))
    # It has been primed with the rows from before it came.
    assert {(p.version, p.reason) for p in shadow.predictions} == {(first, None)}
    np.testing.assert_allclose(
        probabilities(shadow.predictions), directly(workspace, "lob_candidate", ROWS[:200])[100:], atol=1e-5
    )
    second = publish_small(workspace, candidate, seed=4, model="lob_candidate").version
    (shadow,) = followed.answer(entries(200, 300))
    assert {(p.version, p.reason) for p in shadow.predictions} == {(second, None)}
    np.testing.assert_allclose(
        probabilities(shadow.predictions), directly(workspace, "lob_candidate", ROWS[:300])[200:], atol=2e-3
    )
    Repository.of(workspace).config_path("lob_candidate").unlink()
    assert followed.answer(entries(300, 350)) == []
    assert followed.version is None


def test_a_candidate_made_for_other_labels_is_refused_not_asked(tmp_path: Path, params: Params) -> None:
    workspace = published(tmp_path, candidate=False)
    other = {"labels.horizons_ms": [200, 2000]}
    version = publish_small(workspace, small_params(**other), seed=3, model="lob_candidate").version
    (shadow,) = replica(workspace, params).answer(entries(0, 50))
    assert {(p.version, p.reason) for p in shadow.predictions} == {(version, Reason.REFUSED)}


def test_a_candidate_of_another_size_takes_over(tmp_path: Path, params: Params) -> None:
    workspace = published(tmp_path)
    followed = replica(workspace, params)
    followed.answer(entries(0, 100))
    repository = Repository.of(workspace)
    repository.config_path("lob_candidate").unlink()
    version = publish_small(workspace, small_params(**{"model.hidden": 16}), seed=3, model="lob_candidate").version
    _, predictions = joined(in_chunks(followed, entries(100)))
    assert predictions[-1].version == version
    assert predictions[-1].reason is None
    np.testing.assert_allclose(
        predictions[-1].probabilities, directly(workspace, "lob_candidate", ROWS[:N])[-1], atol=1e-5
    )


def test_probes_time_both_versions_whichever_goes_first(template, params) -> None:
    followed = replica(template, params)
    (active,) = Repository.of(template).listed("lob")[-1:]
    assert followed.probe("lob", active, ROWS[0], swap=False) is None
    followed.answer(entries(0, 10))
    for swap in (False, True):
        probe = followed.probe("lob", active, ROWS[0], swap=swap)
        assert probe is not None
        assert (probe.active, probe.model, probe.version) == (active, "lob_candidate", followed.version)
        assert min(probe.active_ns, probe.latency_ns) > 0
    assert followed.probe("lob", 17, ROWS[0], swap=False) is None

"""What may be acted on, mode by mode; the answers themselves are the client's own."""

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import numpy as np
import pytest

from lobsmith.errors import DeadlineError, RequestError
from lobsmith.monitoring.mode.hit_rates import HitRates
from lobsmith.monitoring.mode.machine import Mode
from lobsmith.online.ab_test import arm
from lobsmith.trading.client.ab import AbClient
from lobsmith.trading.client.stream import StreamClient
from lobsmith.trading.guard.effective_mode import Abstain
from lobsmith.trading.guard.guarded_client import GuardedClient
from tests.trading.client.test_ab import ROW_NS, Two, split
from tests.trading.client.test_stream import Clock, F, Summing, client, rows, truth, ups
from tests.trading.guard.test_guard import guarding
from tests.trading.scores import Modes, Scores, record

DATA = rows(60)
RAW = np.zeros((60, F), np.float32)
MS = 1_000_000


def likely(least: float) -> HitRates:
    """Counts of answers that always came true from a confidence on."""
    edges = tuple(np.linspace(1 / 3, 1, 21).tolist())
    sure = tuple(1000 if edge >= least - 1e-9 else 0 for edge in edges[:-1])
    return HitRates(version=1, horizons_ms=(100,), edges=edges, counts=((1000,) * 20,), wins=(sure,))


@contextmanager
def guarded(stream: StreamClient | AbClient, modes: Modes, scores: Scores | None = None) -> Iterator[GuardedClient]:
    scores = scores or Scores()
    horizon = {"labels.horizons_ms": [100], "train.horizon_weights": [1], "modes.minimum_count": 500}
    with guarding(modes, lambda: scores, **horizon, features=F) as guard:
        yield GuardedClient(stream, guard, model="lob", horizons=1)


def steps(guarded_client: GuardedClient, data: np.ndarray, raw: np.ndarray = RAW, *, every_ns: int = MS) -> list:
    out = []
    for index, (row, raw_row) in enumerate(zip(data, raw, strict=False)):
        out.append(guarded_client.step(row, raw_row, index * every_ns))
        guarded_client._guard.throttle()
    return out


@pytest.mark.parametrize(
    ("mode", "abstain"), [(Mode.NORMAL, None), (Mode.CONSERVATIVE, Abstain.CONSERVATIVE), (Mode.PAUSED, Abstain.PAUSED)]
)
def test_answers_come_in_every_mode_and_may_be_acted_on_in_one(mode: Mode, abstain: Abstain | None) -> None:
    with guarded(client(Summing(), Clock()), Modes(record(mode))) as stream:
        gated = steps(stream, DATA)
    np.testing.assert_allclose(ups([answer.prediction for answer in gated]), truth(DATA), atol=1e-6)
    # The first row may come before any check of its version.
    assert {(answer.mode, answer.actionable, answer.abstain) for answer in gated[1:]} == {
        (mode, (mode is Mode.NORMAL,), abstain)
    }


def test_conservative_acts_at_the_confidences_that_came_true() -> None:
    published = msgspec.structs.replace(record(Mode.CONSERVATIVE), win_rates=likely(0.8))
    with guarded(client(Summing(), Clock()), Modes(published)) as stream:
        gated = steps(stream, DATA)[1:]
    confidence = np.maximum(truth(DATA), 1 - truth(DATA))[1:]
    edge = np.linspace(1 / 3, 1, 21)
    sure = confidence >= edge[edge >= 0.8 - 1e-9][0]
    assert 0 < sure.sum() < len(sure)
    assert [answer.actionable for answer in gated] == [(bool(certain),) for certain in sure]
    assert [answer.abstain for answer in gated] == [None if certain else Abstain.CONSERVATIVE for certain in sure]


def test_paused_acts_on_nothing_however_sure() -> None:
    published = msgspec.structs.replace(record(Mode.PAUSED), win_rates=likely(1 / 3))
    with guarded(client(Summing(), Clock()), Modes(published)) as stream:
        assert not any(any(answer.actionable) for answer in steps(stream, DATA))


def test_hit_rates_of_another_version_allow_nothing() -> None:
    published = msgspec.structs.replace(record(Mode.CONSERVATIVE), win_rates=likely(1 / 3), version=2)
    with guarded(client(Summing(), Clock()), Modes(msgspec.structs.replace(published))) as stream:
        assert any(any(answer.actionable) for answer in steps(stream, DATA))
    with guarded(client(Summing(served=[2]), Clock()), Modes(published)) as stream:
        assert not any(any(answer.actionable) for answer in steps(stream, DATA))


def test_what_has_no_answer_and_what_is_no_number_may_not_be_acted_on() -> None:
    transport, data, raw = Summing(), DATA[:20].copy(), RAW[:20].copy()
    data[5, 0] = np.nan
    raw[8, 1] = np.inf
    with guarded(client(transport, Clock()), Modes(record())) as stream:
        gated = steps(stream, data[:10], raw)
        transport.failures = [DeadlineError("late")]
        gated += steps(stream, data[10:], raw[10:])
    codes = {index: answer.abstain for index, answer in enumerate(gated) if index and answer.abstain}
    assert codes == {5: Abstain.NO_ANSWER, 8: Abstain.NO_SIGNAL, 10: Abstain.NO_ANSWER}
    assert not any(any(gated[index].actionable) for index in codes)
    assert gated[8].prediction.probabilities is not None


def test_a_row_of_another_kind_is_refused() -> None:
    with (
        guarded(client(Summing(), Clock()), Modes(record())) as stream,
        pytest.raises(RequestError, match="raw: expected float32"),
    ):
        stream.step(DATA[0], RAW[0, :-1], 0)


def test_a_guard_that_fails_costs_no_answer() -> None:
    with guarded(client(Summing(), Clock()), Modes(record())) as stream:
        steps(stream, DATA[:5])
        stream._guard._block = None
        gated = stream.step(DATA[5], RAW[5], 5 * MS)
        assert gated.prediction.probabilities is not None
        assert (gated.mode, gated.actionable, gated.abstain) == (Mode.CONSERVATIVE, (False,), Abstain.NO_SIGNAL)
        assert stream.faults == 1
        stream.reset()
        assert [answer.abstain for answer in steps(stream, DATA[:5])][1:] == [None] * 4


def test_the_candidate_answers_within_the_mode_of_production_but_is_never_sure_enough() -> None:
    theirs = np.array([arm("simulator:SIM", i * ROW_NS, block_s=1.0, share=0.5, salt="s") for i in range(60)])
    scores = Scores()
    for mode, table in ((Mode.NORMAL, None), (Mode.CONSERVATIVE, likely(1 / 3))):
        published = msgspec.structs.replace(record(mode), win_rates=table)
        with guarded(split(Two(), Clock()), Modes(published), scores) as stream:
            gated = steps(stream, DATA, every_ns=ROW_NS)
        first = int(np.flatnonzero(~theirs)[0]) + 1
        for other, answer in list(zip(theirs, gated, strict=True))[first:]:
            sure = mode is Mode.NORMAL or (not other and abs(answer.prediction.probabilities[0, 2] - 0.5) > 1e-6)
            assert answer.actionable == (sure,)
    # Blocks are compared with the production version's reference window, whichever version answers.
    assert {version for version, _ in scores.asked} == {1}

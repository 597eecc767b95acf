"""What a client makes of the monitor's word and of its own rows."""

import pytest

from lobsmith.errors import ModeError, ServingError
from lobsmith.monitoring.mode.machine import Mode
from lobsmith.trading.guard.drift_score import LocalReading, LocalStatus
from lobsmith.trading.guard.effective_mode import Abstain, effective_mode
from lobsmith.trading.guard.monitor_mode import ModeWatch
from tests.trading.client.test_stream import Clock
from tests.trading.scores import NOW_NS, Modes, record

S = 1_000_000_000
STALE_S = 900.0
N, C, P = Mode.NORMAL, Mode.CONSERVATIVE, Mode.PAUSED
CALM, ALARM, UNKNOWN = LocalStatus
STALE_NS = NOW_NS - 901 * S
GONE = {
    "missing": None,
    "corrupt": ModeError("no record"),
    "unreachable": ServingError("refused"),
    "stale": record(N, looked_ns=STALE_NS),
    "never looked": record(N, looked_ns=0),
    "of another version": record(N, version=2),
    "ahead of the clock": record(N, looked_ns=NOW_NS + 901 * S),
}


def watch(source: Modes, clock: Clock | None = None, wall: Clock | None = None) -> ModeWatch:
    return ModeWatch(source, STALE_S, clock=clock or Clock(), wall=wall or Clock(NOW_NS))


@pytest.mark.parametrize(
    ("mode", "own", "expected"),
    [
        (N, CALM, (N, None)),
        (N, UNKNOWN, (N, None)),
        (N, ALARM, (C, Abstain.REFERENCE)),
        *((C, own, (C, Abstain.CONSERVATIVE)) for own in LocalStatus),
        *((P, own, (P, Abstain.PAUSED)) for own in LocalStatus),
    ],
)
def test_a_fresh_record_and_own_rows(mode: Mode, own: LocalStatus, expected: tuple[Mode, Abstain | None]) -> None:
    found = effective_mode(watch(Modes(record(mode, looked_ns=NOW_NS - 899 * S))).read(1), LocalReading(own, ""))
    assert (found.mode, found.abstain) == expected


@pytest.mark.parametrize("gone", GONE.values(), ids=GONE)
def test_without_a_monitor_own_rows_decide_and_nothing_known_is_never_normal(gone: object) -> None:
    word = watch(Modes(gone)).read(1)
    assert not word.fresh
    found = [effective_mode(word, LocalReading(own, "")) for own in (CALM, ALARM, UNKNOWN)]
    assert [(one.mode, one.abstain) for one in found] == [(N, None), (C, Abstain.REFERENCE), (C, Abstain.NO_SIGNAL)]


@pytest.mark.parametrize("mode", [C, P])
@pytest.mark.parametrize(
    "then",
    [
        None,
        ModeError("no record"),
        ServingError("refused"),
        pytest.param({"looked_ns": STALE_NS}, id="stale"),
        pytest.param({"version": 2}, id="of another version"),
    ],
)
def test_caution_outlasts_the_monitor_that_asked_for_it(mode: Mode, then: object) -> None:
    source = Modes(record(mode))
    watched = watch(source)
    assert watched.read(1).fresh
    source.says = record(mode, **then) if isinstance(then, dict) else then
    word = watched.read(1)
    assert not word.fresh
    assert effective_mode(word, LocalReading(CALM, "")).mode is mode


def test_an_outdated_record_takes_no_caution_back_and_a_word_by_hand_does() -> None:
    source = Modes(record(P))
    watched = watch(source)
    watched.read(1)
    source.says = record(N, looked_ns=STALE_NS, since_ns=STALE_NS)
    word = watched.read(1)
    assert (word.mode, word.fresh) == (P, False)
    assert "older" in word.detail
    source.says = record(N, looked_ns=STALE_NS, since_ns=NOW_NS + S)
    assert watched.read(1).mode is N


def test_a_monitor_that_is_back_is_heard_again() -> None:
    source = Modes(record(P))
    watched = watch(source)
    watched.read(1)
    source.says = ServingError("refused")
    watched.read(1)
    source.says = record(N)
    assert effective_mode(watched.read(1), LocalReading(UNKNOWN, "")).mode is N


def test_a_clock_that_is_set_back_makes_no_old_record_young() -> None:
    clock, wall, source = Clock(), Clock(NOW_NS), Modes(record())
    watched = watch(source, clock, wall)
    assert watched.read(1).fresh
    for _ in range(10):
        clock.now += 100 * S
        wall.now = NOW_NS - 60 * S
        word = watched.read(1)
    assert not word.fresh
    assert "no new look has come for" in word.detail
    source.says = record(looked_ns=NOW_NS - 70 * S)
    assert watched.read(1).fresh

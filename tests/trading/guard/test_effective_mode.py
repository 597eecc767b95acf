"""The effective mode, by the monitor's status and the client's own rows."""

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
    "corrupt": ModeError("no mode"),
    "unreachable": ServingError("refused"),
    "stale": record(N, looked_ns=STALE_NS),
    "never checked": record(N, looked_ns=0),
    "of another version": record(N, version=2),
    "ahead of the clock": record(N, looked_ns=NOW_NS + 901 * S),
}


def watch(source: Modes, clock: Clock | None = None, wall: Clock | None = None) -> ModeWatch:
    return ModeWatch(source, STALE_S, clock=clock or Clock(), wall=wall or Clock(NOW_NS))


@pytest.mark.parametrize(
    ("mode", "local", "expected"),
    [
        (N, CALM, (N, None)),
        (N, UNKNOWN, (N, None)),
        (N, ALARM, (C, Abstain.REFERENCE)),
        *((C, local, (C, Abstain.CONSERVATIVE)) for local in LocalStatus),
        *((P, local, (P, Abstain.PAUSED)) for local in LocalStatus),
    ],
)
def test_a_fresh_mode_and_own_rows(mode: Mode, local: LocalStatus, expected: tuple[Mode, Abstain | None]) -> None:
    effective = effective_mode(watch(Modes(record(mode, looked_ns=NOW_NS - 899 * S))).read(1), LocalReading(local, ""))
    assert (effective.mode, effective.abstain) == expected


@pytest.mark.parametrize("gone", GONE.values(), ids=GONE)
def test_without_a_monitor_own_rows_decide_and_nothing_known_is_never_normal(gone: object) -> None:
    status = watch(Modes(gone)).read(1)
    assert not status.fresh
    modes = [effective_mode(status, LocalReading(local, "")) for local in (CALM, ALARM, UNKNOWN)]
    assert [(effective.mode, effective.abstain) for effective in modes] == [
        (N, None),
        (C, Abstain.REFERENCE),
        (C, Abstain.NO_SIGNAL),
    ]


@pytest.mark.parametrize("mode", [C, P])
@pytest.mark.parametrize(
    "then",
    [
        None,
        ModeError("no mode"),
        ServingError("refused"),
        pytest.param({"looked_ns": STALE_NS}, id="stale"),
        pytest.param({"version": 2}, id="of another version"),
    ],
)
def test_caution_outlasts_the_monitor_that_asked_for_it(mode: Mode, then: object) -> None:
    source = Modes(record(mode))
    reader = watch(source)
    assert reader.read(1).fresh
    source.says = record(mode, **then) if isinstance(then, dict) else then
    status = reader.read(1)
    assert not status.fresh
    assert effective_mode(status, LocalReading(CALM, "")).mode is mode


def test_an_outdated_mode_undoes_no_caution_and_a_mode_set_by_hand_does() -> None:
    source = Modes(record(P))
    reader = watch(source)
    reader.read(1)
    source.says = record(N, looked_ns=STALE_NS, since_ns=STALE_NS)
    status = reader.read(1)
    assert (status.mode, status.fresh) == (P, False)
    assert "older" in status.detail
    source.says = record(N, looked_ns=STALE_NS, since_ns=NOW_NS + S)
    assert reader.read(1).mode is N


def test_a_monitor_that_is_back_counts_again() -> None:
    source = Modes(record(P))
    reader = watch(source)
    reader.read(1)
    source.says = ServingError("refused")
    reader.read(1)
    source.says = record(N)
    assert effective_mode(reader.read(1), LocalReading(UNKNOWN, "")).mode is N


def test_a_clock_that_is_set_back_makes_no_old_mode_fresh() -> None:
    clock, wall, source = Clock(), Clock(NOW_NS), Modes(record())
    reader = watch(source, clock, wall)
    assert reader.read(1).fresh
    for _ in range(10):
        clock.now += 100 * S
        wall.now = NOW_NS - 60 * S
        status = reader.read(1)
    assert not status.fresh
    assert "no new drift check for" in status.detail
    source.says = record(looked_ns=NOW_NS - 70 * S)
    assert reader.read(1).fresh

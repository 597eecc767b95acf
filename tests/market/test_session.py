from dataclasses import replace

from lobsmith.market.events import RESTATED
from lobsmith.market.session import Fingerprint, account, fingerprint, without_restated
from lobsmith.market.simulator import simulate


def test_fingerprint_covers_instrument_and_columns() -> None:
    session = simulate(5, 2)
    other = session.events.size.copy()
    other[3] += 1
    prints = {
        fingerprint(session),
        fingerprint(replace(session, events=replace(session.events, size=other))),
        fingerprint(
            replace(session, instrument=type(session.instrument)(venue="x", symbol="y", tick_size=1, lot_size=1))
        ),
    }
    assert len(prints) == 3
    assert fingerprint(simulate(5, 2)) in prints


def test_fingerprint_does_not_depend_on_the_cuts() -> None:
    session = simulate(5, 2)
    parts = Fingerprint(session.instrument)
    for start in range(0, len(session.events), 77):
        parts.update(session.events.slice(start, start + 77))
    assert parts.hexdigest() == fingerprint(session)


def test_what_a_day_repeats_is_left_out() -> None:
    events = simulate(5, 2).events
    flags = events.flags.copy()
    flags[10:20] |= RESTATED
    assert len(without_restated(replace(events, flags=flags))) == len(events) - 10
    assert without_restated(events) is events


def test_the_account_adds_up() -> None:
    a = account(simulate(5, 20).events)
    assert a.records == a.kept == a.depth_messages + a.tickers + a.trades + a.snapshots
    assert (a.quarantined, a.faults, a.crossed, a.segments) == ({}, {}, 0, 1)
    assert 19 < a.seconds < 21
    assert a.mid_changes > 0

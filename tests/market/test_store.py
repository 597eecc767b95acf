import threading
from dataclasses import fields
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from lobsmith.errors import CaptureError, DataError
from lobsmith.features.stream import FeatureStream
from lobsmith.market.book import new_book, replay, touch
from lobsmith.market.events import CLEAR, GAP, RESTATED, Events, concatenate
from lobsmith.market.readers import open_captures, read_captures, screen_session
from lobsmith.market.session import fingerprint
from lobsmith.market.simulator import simulate
from lobsmith.market.store import Store
from lobsmith.params import DataParams, load_params
from lobsmith.stages.ingest import ingest
from tests.market.venues.captured import SPOT, T0, write
from tests.small import params_file, small_params

DAY_NS = 86_400_000_000_000
TO_MIDNIGHT_MS = (DAY_NS - T0 % DAY_NS) // 1_000_000


def data(**changes: object) -> DataParams:
    return load_params(
        params_file(), {f"data.{name.replace('__', '.')}": value for name, value in changes.items()}
    ).data


def assert_equal(a: Events, b: Events) -> None:
    for field in fields(a):
        first, other = getattr(a, field.name), getattr(b, field.name)
        assert first.dtype == other.dtype
        np.testing.assert_array_equal(first, other)


def stamp(line: bytes, milliseconds: int) -> bytes:
    """Move a line's local time."""
    return str(int(line[:19]) + milliseconds * 1_000_000).encode() + line[19:]


def over_midnight() -> list[bytes]:
    """A capture whose last four lines lie in the next day."""
    return [stamp(line, TO_MIDNIGHT_MS - 5) for line in SPOT]


def test_what_comes_out_is_what_went_in(tmp_path: Path) -> None:
    session = simulate(5, 20)
    store = Store(tmp_path / "deep" / "market")
    ingested = store.ingest(lambda listing: screen_session(session, None, listing))
    assert store.instruments() == [session.instrument]
    assert ingested.days == ("2024-01-01",)
    back = store.session(session.instrument)
    assert_equal(back.events, session.events)
    assert (back.instrument, back.sources) == (session.instrument, session.sources)
    assert back.accounting == ingested.accounting
    assert ingested.fingerprint == fingerprint(session)
    assert sorted(path.name for path in (tmp_path / "deep" / "market").iterdir()) == ["simulator"]


def test_a_day_that_begins_within_a_segment_can_be_read_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gz", *over_midnight())
    store = Store(tmp_path / "market")
    ingested = store.ingest(lambda listing: open_captures([path], None, listing))
    instrument = ingested.instrument
    assert ingested.days == ("2024-08-08", "2024-08-09")
    whole = concatenate(list(store.events(instrument)))
    assert_equal(whole, read_captures([path]).events)
    assert ingested.fingerprint == fingerprint(read_captures([path]))
    second = concatenate(list(store.events(instrument, since_ns=int(whole.local_time[-1]))))
    assert second.kind[0] == CLEAR
    assert second.flags[0] & RESTATED
    books = []
    for events in (whole, second):
        books.append(new_book())
        replay(books[-1], events.kind, events.side, events.price, events.size, events.sequence, events.flags)
    assert touch(books[0]) == touch(books[1])


def test_features_do_not_see_midnight(tmp_path: Path) -> None:
    session = simulate(5, 20)
    shift = DAY_NS - int(session.events.local_time[len(session.events) // 2]) % DAY_NS
    session.events.local_time[:] += shift
    store = Store(tmp_path)
    store.ingest(lambda listing: screen_session(session, None, listing))
    assert len(store.days(session.instrument)) == 2
    params = small_params().features
    kept = concatenate(list(store.events(session.instrument)))
    first, other = (FeatureStream(session.instrument, params).push(events) for events in (session.events, kept))
    np.testing.assert_array_equal(first.raw, other.raw)
    np.testing.assert_array_equal(first.segment, other.segment)


def test_other_tools_can_read_a_day(tmp_path: Path) -> None:
    session = simulate(5, 5)
    Store(tmp_path).ingest(lambda listing: screen_session(session, None, listing))
    frame = pl.read_parquet(tmp_path / "simulator" / "SIM" / "2024-01-01.parquet")
    assert frame.height == len(session.events)
    assert frame.columns == [field.name for field in fields(session.events)]


def test_the_same_again_changes_nothing_and_other_data_are_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "market")
    first = write(tmp_path / "a.gz", *SPOT)
    other = write(tmp_path / "b.gz", *(stamp(line, 20) for line in SPOT))
    for _ in range(2):
        ingested = store.ingest(lambda listing: open_captures([first], None, listing))
    before = {path: path.read_bytes() for path in (tmp_path / "market").rglob("*") if path.is_file()}
    with pytest.raises(DataError, match="--replace"):
        store.ingest(lambda listing: open_captures([other], None, listing))
    assert {path: path.read_bytes() for path in (tmp_path / "market").rglob("*") if path.is_file()} == before
    replaced = store.ingest(lambda listing: open_captures([other], None, listing), replace=True)
    assert [entry.fingerprint for entry in store.ingests(ingested.instrument)] == [replaced.fingerprint]
    assert len(list((tmp_path / "market").rglob("*.quarantine.csv"))) == 1


def test_between_two_ingests_lies_a_gap(tmp_path: Path) -> None:
    store = Store(tmp_path / "market")
    first = write(tmp_path / "a.gz", *SPOT)
    second = write(tmp_path / "b.gz", *(stamp(line, 86_400_000) for line in SPOT))
    for path in (first, second):
        ingested = store.ingest(lambda listing, path=path: open_captures([path], None, listing))
    events = concatenate(list(store.events(ingested.instrument)))
    assert np.count_nonzero(events.kind == GAP) == 1
    assert np.count_nonzero(events.kind == CLEAR) == 2
    assert len(store.ingests(ingested.instrument)) == 2


def test_the_quarantine_names_what_was_quarantined(tmp_path: Path) -> None:
    lines = [*SPOT, SPOT[7]]
    path = write(tmp_path / "a, b.gz", *lines)
    store = Store(tmp_path / "market")
    ingested = store.ingest(lambda listing: open_captures([path], None, listing))
    (listing,) = (tmp_path / "market").rglob("*.quarantine.csv")
    frame = pl.read_csv(listing)
    assert frame.height == sum(ingested.accounting.quarantined.values())
    assert ingested.accounting.records == ingested.accounting.kept + frame.height
    assert set(frame["file"]) == {"a, b.gz"}
    quarantined = {(line, reason) for line, reason in frame.select("line", "reason").rows()}
    assert (10, "duplicate") in quarantined
    assert (3, "before the snapshot") in quarantined


def test_a_changed_day_is_refused(tmp_path: Path) -> None:
    session = simulate(5, 2)
    Store(tmp_path).ingest(lambda listing: screen_session(session, None, listing))
    path = tmp_path / "simulator" / "SIM" / "2024-01-01.parquet"
    table = pq.read_table(path)
    pq.write_table(table.slice(1).replace_schema_metadata(pq.read_metadata(path).metadata), path)
    with pytest.raises(DataError, match="fingerprint"):
        list(Store(tmp_path).events(session.instrument))


@pytest.mark.parametrize("content", [b"", b"PAR1 but no more", b"x" * 100])
def test_what_is_no_day_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "simulator" / "SIM" / "2024-01-01.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"2024-01-01\.parquet"):
        Store(tmp_path).instruments()


def test_an_empty_store_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="lobsmith data ingest"):
        Store(tmp_path / "absent").instruments()


def test_a_failed_ingest_leaves_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "a", *SPOT[:4], b"garbage\n")
    with pytest.raises(CaptureError, match="a:5"):
        Store(tmp_path / "market").ingest(lambda listing: open_captures([path], None, listing))
    assert list((tmp_path / "market").rglob("*")) == []


def test_two_ingests_at_once(tmp_path: Path) -> None:
    session = simulate(5, 20)
    errors = []

    def run() -> None:
        try:
            Store(tmp_path / "market").ingest(lambda listing: screen_session(session, None, listing))
        except DataError as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert_equal(Store(tmp_path / "market").session(session.instrument).events, session.events)


def test_ingest_simulates(tmp_path: Path) -> None:
    ingested = ingest(data(simulator__seed=3, simulator__seconds=10), None, tmp_path)
    assert list(ingested.done) == ["simulator:SIM"]
    assert_equal(Store(tmp_path).session(simulate(3, 10).instrument).events, simulate(3, 10).events)


def test_ingest_takes_captures_over_the_parameters(tmp_path: Path) -> None:
    ingested = ingest(data(), [write(tmp_path / "a.gz", *SPOT)], tmp_path / "market")
    assert ingested.done["binance-spot:BTCUSDT"].sources == ("a.gz",)


def test_ingest_expands_patterns_in_order(tmp_path: Path) -> None:
    write(tmp_path / "a-1.gz", *SPOT[:4])
    write(tmp_path / "a-2.gz", *SPOT[4:6])
    write(tmp_path / "[b].gz", *SPOT[6:])
    patterns = (str(tmp_path / "a-*.gz"), str(tmp_path / "[b].gz"))
    ingested = ingest(data(source="captures", captures=patterns), None, tmp_path / "market")
    assert ingested.done["binance-spot:BTCUSDT"].sources == ("a-1.gz", "a-2.gz", "[b].gz")


def test_one_failing_symbol_does_not_fail_the_rest(tmp_path: Path) -> None:
    other = [line.replace(b"BTCUSDT", b"XRPUSDT") for line in SPOT]
    files = [
        write(tmp_path / "x.gz", *other[:2]),  # no snapshot
        write(tmp_path / "a-1.gz", *SPOT[:4]),
        tmp_path / "absent.gz",
        write(tmp_path / "a-2.gz", *SPOT[4:]),
    ]
    ingested = ingest(data(), files, tmp_path / "market")
    assert list(ingested.done) == ["binance-spot:BTCUSDT"]
    assert ingested.done["binance-spot:BTCUSDT"].sources == ("a-1.gz", "a-2.gz")
    assert "no depth snapshot" in ingested.failed["binance-spot:XRPUSDT"]
    assert "no such file" in ingested.failed[str(tmp_path / "absent.gz")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "captures"}, "data.captures"),
        ({"source": "captures", "captures": ("absent-*.gz",)}, "absent-"),
    ],
)
def test_ingest_names_the_parameter_that_is_wrong(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        ingest(data(**changes), None, tmp_path / "market")
    assert not (tmp_path / "market").exists()


@pytest.mark.recorded
def test_all_recorded_sessions_of_an_exchange_at_once(tmp_path: Path, recorded: Path) -> None:
    ingested = ingest(data(), sorted((recorded / "binance").glob("*.gz")), tmp_path)
    assert list(ingested.done) == ["binance-spot:BTCUSDT", "binance-usdm:BTCUSDT", "binance-usdm:ETHUSDT"]
    assert ingested.failed == {}
    spot = ingested.done["binance-spot:BTCUSDT"]
    files = [recorded / "binance" / name for name in spot.sources]
    assert fingerprint(read_captures(files)) == spot.fingerprint
    for entry in ingested.done.values():
        assert entry.accounting.records == entry.accounting.kept + sum(entry.accounting.quarantined.values())

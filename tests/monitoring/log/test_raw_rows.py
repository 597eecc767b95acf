"""Raw rows of live traffic: what was written is read, one row a slot, from logs old and new, until it expires."""

import sqlite3
import threading
from contextlib import closing
from itertools import count

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from lobsmith.drift.reference import thinned
from lobsmith.errors import PredictionLogError
from lobsmith.features.definitions import COUNT as F
from lobsmith.features.definitions import NAMES
from lobsmith.monitoring.log import retention
from lobsmith.monitoring.log.export import export_raw_rows
from lobsmith.monitoring.log.raw_rows import count_raw_rows, newest_raw_ns, raw_rows
from lobsmith.monitoring.log.reader import EVER, NEVER, PredictionLog, answers
from lobsmith.monitoring.log.retention import expire
from lobsmith.monitoring.log.writer import LogWriter
from tests.monitoring.logged import MODEL, PARAMS, START_NS, add, begin, writer

EVERY_MS = 500
SLOT_NS = EVERY_MS * 1_000_000
DAY_NS = 86_400_000_000_000
T0 = START_NS - START_NS % SLOT_NS

SCHEMA_1 = """PRAGMA page_size = 8192; PRAGMA journal_mode = WAL;
PRAGMA application_id = 1280262739; PRAGMA user_version = 1;
CREATE TABLE horizons (horizon_ms INTEGER PRIMARY KEY);
INSERT INTO horizons VALUES (50), (1000);
CREATE TABLE sessions (id INTEGER PRIMARY KEY, session TEXT NOT NULL UNIQUE, source TEXT NOT NULL,
    instrument TEXT NOT NULL, started_ns INTEGER NOT NULL);
CREATE TABLE streams (id INTEGER PRIMARY KEY, session INTEGER NOT NULL, model TEXT NOT NULL, version INTEGER NOT NULL,
    role TEXT NOT NULL, UNIQUE (session, model, version, role));
CREATE TABLE predictions (stream INTEGER NOT NULL, asked_ns INTEGER NOT NULL, row INTEGER NOT NULL,
    time_ns INTEGER NOT NULL, segment INTEGER NOT NULL, mid INTEGER NOT NULL, latency_ns INTEGER NOT NULL,
    rows INTEGER NOT NULL, reason TEXT, p_down_50ms REAL, p_unchanged_50ms REAL, p_up_50ms REAL, p_down_1000ms REAL,
    p_unchanged_1000ms REAL, p_up_1000ms REAL, PRIMARY KEY (stream, asked_ns, row)) WITHOUT ROWID;
CREATE TABLE outcomes (session INTEGER NOT NULL, row INTEGER NOT NULL, known_ns INTEGER NOT NULL,
    label_50ms INTEGER, label_1000ms INTEGER, PRIMARY KEY (session, row)) WITHOUT ROWID;
CREATE TABLE probes (session INTEGER NOT NULL, asked_ns INTEGER NOT NULL, first_model TEXT NOT NULL,
    first_version INTEGER NOT NULL, first_ns INTEGER NOT NULL, second_model TEXT NOT NULL,
    second_version INTEGER NOT NULL, second_ns INTEGER NOT NULL);
CREATE TABLE drops (session INTEGER NOT NULL, noted_ns INTEGER NOT NULL, place TEXT NOT NULL, count INTEGER NOT NULL);
INSERT INTO sessions VALUES (1, 'old', 'live', 'binance:BTCUSDT', 0);
INSERT INTO streams VALUES (1, 1, 'lob', 20260301000000, 'primary');
INSERT INTO predictions VALUES (1, 5, 0, 5, 0, 1000, 20, 1, NULL, 0.2, 0.3, 0.5, 0.2, 0.3, 0.5);
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lob.db"


@pytest.fixture
def old(path):
    """A log of the schema before raw rows were kept, with one prediction."""
    with closing(sqlite3.connect(path)) as log:
        log.executescript(SCHEMA_1)
    return path


def values(row) -> np.ndarray:
    """Raw features that identify their row."""
    return (np.asarray(row)[:, None] + np.arange(F) / 128).astype(np.float32)


def add_raw(log: LogWriter, session: str, slots, *, shift_ns: int = 0, **changed) -> None:
    """Add a row in each of these slots; a segment has 100 slots."""
    slots = np.asarray(slots)
    given = {"row": slots, "time_ns": T0 + slots * SLOT_NS + shift_ns, "segment": slots // 100, "raw": values(slots)}
    log.add_raw(session, **({"asked_ns": given["time_ns"] + 500} | given | changed))


def read(path, *sessions: str, since_ns: int = EVER, until_ns: int = NEVER):
    with PredictionLog(path) as log:
        return raw_rows(log, sessions, every_ms=EVERY_MS, since_ns=since_ns, until_ns=until_ns)


def slots_of(rows) -> np.ndarray:
    return (rows.time_ns - T0) // SLOT_NS


def test_reads_what_was_written_of_the_sessions_and_times_asked_for(path) -> None:
    with writer(path) as log:
        for session in ("a", "b"):
            begin(log, session)
        add_raw(log, "a", np.arange(250))
        add_raw(log, "b", np.arange(300, 310))
    got = read(path, "a")
    assert_array_equal(got.raw, values(np.arange(250)))
    assert_array_equal(slots_of(got), np.arange(250))
    assert_array_equal(got.segment, np.repeat([0, 1, 2], [100, 100, 50]))
    assert (got.raw.dtype, got.time_ns.dtype) == (np.float32, np.int64)
    part = read(path, "a", "b", since_ns=T0 + 240 * SLOT_NS, until_ns=T0 + 305 * SLOT_NS)
    assert_array_equal(slots_of(part), np.r_[240:250, 300:305])
    assert_array_equal(part.segment, np.repeat([0, 1], [10, 5]))
    with PredictionLog(path) as log:
        newest = [newest_raw_ns(log, names) for names in (["a"], ["a", "b"], ["c"], [])]
        assert newest == [T0 + 249 * SLOT_NS, T0 + 309 * SLOT_NS, None, None]
        assert (count_raw_rows(log), count_raw_rows(log, T0 + 300 * SLOT_NS)) == (260, 10)
    assert len(read(path, "c")) == len(read(path)) == len(read(path, "a", since_ns=NEVER)) == 0


def test_sessions_that_overlap_see_the_same_rows_and_the_earliest_counts(path) -> None:
    with writer(path) as log:
        for session in ("first", "second"):
            begin(log, session)
        # Each client has a clock of its own.
        add_raw(log, "second", np.arange(50, 150), segment=0, raw=-values(np.arange(50, 150)))
        add_raw(log, "first", np.r_[0:70, 75:100], segment=0, shift_ns=1000)
    got = read(path, "second", "first")
    taken = slots_of(got)
    assert_array_equal(taken, np.arange(150))
    from_second = got.raw[:, 0] < 0
    assert_array_equal(taken[from_second], np.r_[70:75, 100:150])
    assert_array_equal(got.segment, np.repeat([0, 1, 2, 3], [70, 5, 25, 50]))
    assert (np.diff(got.time_ns) > 0).all()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A log that many examples share, with a number for the session of each."""
    return tmp_path_factory.mktemp("shared") / "lob.db", count()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-700, 1500), min_size=1, max_size=40), st.integers(4, 15))
def test_rows_in_any_portions_are_thinned_as_a_whole_session_is(shared, steps_ms, portion) -> None:
    path, numbers = shared
    session = str(next(numbers))
    time_ns = T0 + np.cumsum(steps_ms) * 1_000_000
    with writer(path) as log:
        begin(log, session)
        for start in range(0, len(steps_ms), portion):
            rows = np.arange(start, min(start + portion, len(steps_ms)))
            for _ in range(2):  # as a recorder does that takes up what one before it had not released
                log.add_raw(
                    session, row=rows, time_ns=time_ns[rows], asked_ns=time_ns[rows], segment=0, raw=values(rows)
                )
                log.flush()
    got = read(path, session)
    order = np.argsort(time_ns, kind="stable")
    kept = order[thinned(time_ns[order], EVERY_MS)]
    assert_array_equal(got.time_ns, time_ns[kept])
    assert_array_equal(got.raw, values(kept))
    with PredictionLog(path) as log:
        query = "SELECT count(*) FROM raw_rows JOIN sessions ON id = raw_rows.session WHERE sessions.session = ?"
        assert log._rows(query, (session,)) == [(len(steps_ms),)]


def test_export_is_what_was_written(path, tmp_path) -> None:
    file = tmp_path / "raw.parquet"
    with writer(path) as log:
        for session in ("a", "b"):
            begin(log, session)
            add_raw(log, session, np.arange(30), segment=2)
    with PredictionLog(path) as log:
        assert export_raw_rows(log, file, since_ns=T0 + 10 * SLOT_NS) == 40
    table = pl.read_parquet(file)
    assert table["session"].to_list() == ["a"] * 20 + ["b"] * 20
    assert_array_equal(table.select(NAMES).to_numpy(), values(np.r_[10:30, 10:30]))
    assert_array_equal(table["time_ns"].cast(pl.Int64), T0 + np.r_[10:30, 10:30] * SLOT_NS)
    assert (table["row"].to_list(), set(table["segment"])) == ([*range(10, 30)] * 2, {2})


def test_rows_that_are_not_finite_are_no_rows(path) -> None:
    raw = values(np.arange(10))
    raw[3, 5], raw[7, 0] = np.nan, np.inf
    with writer(path) as log:
        begin(log, "a")
        add_raw(log, "a", np.arange(10), raw=raw)
    got = read(path, "a")
    assert_array_equal(slots_of(got), [0, 1, 2, 4, 5, 6, 8, 9])
    assert_array_equal(got.raw, values(slots_of(got)))


@pytest.mark.parametrize("blob", [b"", b"x" * (4 * F - 1), "text"])
def test_a_row_of_other_features_is_named_and_never_left_out(path, blob) -> None:
    with writer(path) as log:
        begin(log, "a")
        add_raw(log, "a", np.arange(10))
    with closing(sqlite3.connect(path)) as log, log:
        log.execute("UPDATE raw_rows SET raw = ? WHERE row = 4", (blob,))
    with pytest.raises(PredictionLogError, match=rf"lob\.db: .*{T0 + 4 * SLOT_NS}.*{len(blob)} bytes.*{F} features"):
        read(path, "a")
    assert len(read(path, "a", until_ns=T0 + 4 * SLOT_NS)) == 4


def test_a_log_from_before_has_no_raw_rows_until_a_writer_comes(old) -> None:
    with PredictionLog(old) as log:
        assert (len(raw_rows(log, ["old"], every_ms=EVERY_MS)), newest_raw_ns(log, ["old"])) == (0, None)
        assert count_raw_rows(log) == 0
        with pytest.raises(PredictionLogError, match=r"lob\.db: from before"):
            export_raw_rows(log, old.with_suffix(".parquet"))
        assert len(answers(log, *MODEL).time_ns) == 1
        with writer(old) as more:
            begin(more, "old")
            add_raw(more, "old", [1, 2])
            add(more, "old", MODEL, 10, 12)
        # The reader was there before.
        assert_array_equal(raw_rows(log, ["old"], every_ms=EVERY_MS).raw, values([1, 2]))
        assert len(answers(log, *MODEL).time_ns) == 3


def test_writers_that_meet_at_a_log_from_before(old) -> None:
    errors = []
    together = threading.Barrier(6)

    def write(name: str, slot: int) -> None:
        together.wait()
        try:
            with writer(old) as log:
                begin(log, name)
                add_raw(log, name, [slot])
        except PredictionLogError as error:
            errors.append(error)

    names = [f"session {index}" for index in range(6)]
    threads = [threading.Thread(target=write, args=(name, slot)) for slot, name in enumerate(names)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert_array_equal(slots_of(read(old, *names)), np.arange(6))
    with closing(sqlite3.connect(old)) as log:
        assert log.execute("PRAGMA user_version").fetchall() == [(3,)]


def test_raw_rows_expire_by_the_time_they_were_asked_about(path, monkeypatch) -> None:
    monkeypatch.setattr(retention, "_AT_ONCE", 16)
    now_ns = START_NS + DAY_NS
    slots = np.arange(100)
    with writer(path) as log:
        for session in ("live", "replay"):
            begin(log, session)
        add(log, "live", MODEL, 0, 100)
        add_raw(log, "live", slots, asked_ns=START_NS + slots)
        # Recorded long ago, and replayed in this hour.
        add_raw(log, "replay", slots, time_ns=T0 - 400 * DAY_NS + slots * SLOT_NS, asked_ns=now_ns - 50 + slots)
    assert expire(path, PARAMS, now_ns, raw_keep_days=1.0 - 60e-9 / 86_400) == 0
    assert_array_equal(slots_of(read(path, "live")), slots[60:])
    assert len(read(path, "replay")) == 100
    expire(path, PARAMS, now_ns, raw_keep_days=1e-18)
    assert len(read(path, "live")) == 0
    assert_array_equal(read(path, "replay").raw, values(slots[50:]))

"""The ring between two processes: what was put in comes out, once, in order, whole; what did not fit is counted."""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lobsmith.drift.reference import thinned
from lobsmith.errors import ServingError
from lobsmith.trading.recorder.ring import HAS_RAW, PRIME, RESET, RingReader, RingWriter

F, H = 3, 2

WRITER = """
import sys, time
from pathlib import Path
from tests.trading.recorder.test_ring import RingWriter, put, F, H
ring = RingWriter(Path(sys.argv[1]), int(sys.argv[2]), F, H)
print("made", flush=True)
number = 0
while number < int(sys.argv[3]):
    # A full ring drops, and the next attempt is another entry.
    put(ring, number)
    number += 1
    if number % 64 == 0:
        time.sleep(0.0005)
ring.close()
"""


def put(ring: RingWriter, number: int) -> bool:
    """Put an entry whose parts all hold its number."""
    values = np.full(F, number, np.float32)
    answers = np.full((H, 3), number, np.float32), np.full((H, 5), number, np.float32)
    return ring.put(number, number, number, number, number, number, number, 1, 5, RESET | PRIME, values, *answers)


def numbers(entries: np.ndarray) -> list[int]:
    """Return the numbers of entries after a check of all their parts."""
    for name in ("time_ns", "asked_ns", "segment", "mid", "version", "latency_ns"):
        np.testing.assert_array_equal(entries[name], entries["row"])
    for name in ("features", "probabilities", "outlook"):
        flat = entries[name].reshape(len(entries), np.prod(entries[name].shape[1:]))
        np.testing.assert_array_equal(flat, np.repeat(entries["row"][:, None], flat.shape[1], axis=1))
    for name, value in (("candidate", 1), ("reason", 5), ("flags", RESET | PRIME)):
        assert (entries[name] == value).all()
    return [int(number) for number in entries["row"]]


def started(path: Path, capacity: int, count: int) -> subprocess.Popen[str]:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(capacity), str(count)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "made\n"
    return writer


@given(
    st.integers(1, 9),
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.integers(1, 12)),
            st.tuples(st.sampled_from(["read", "release", "reopen"]), st.integers(1, 12)),
        )
    ),
)
def test_it_does_what_a_bounded_queue_does(tmp_path_factory, capacity: int, actions) -> None:
    path = tmp_path_factory.mktemp("ring") / "ring"
    writer = RingWriter(path, capacity, F, H)
    reader = RingReader(path)
    unread: deque[int] = deque()
    unreleased: deque[int] = deque()
    number = dropped = 0
    for action, count in actions:
        if action == "put":
            for _ in range(count):
                fits = len(unread) + len(unreleased) < capacity
                assert put(writer, number) is fits
                if fits:
                    unread.append(number)
                dropped += not fits
                number += 1
        elif action == "read":
            got = numbers(reader.read(count))
            assert got == [unread.popleft() for _ in got]
            assert got or not unread
            unreleased.extend(got)
        elif action == "release":
            reader.release()
            unreleased.clear()
        else:
            # After a crash of the reader the next reader begins after the last released entry.
            reader.close()
            reader = RingReader(path)
            unread.extendleft(reversed(unreleased))
            unreleased.clear()
        assert (writer.dropped, reader.dropped) == (dropped, dropped)
        assert (reader.waiting, reader.unreleased) == (len(unread), len(unread) + len(unreleased))


@pytest.mark.parametrize("capacity", [100, 5000])
def test_between_two_processes_every_entry_arrives_whole_or_is_counted(tmp_path: Path, capacity: int) -> None:
    path, count = tmp_path / "ring", 20_000
    writer = started(path, capacity, count)
    reader, got, sequence = RingReader(path), [], []
    while True:
        finished = reader.finished
        entries = reader.read(97)
        got += numbers(entries)
        sequence += entries["sequence"].tolist()
        if len(got) % 5 == 0:
            reader.release()
        if finished and not len(entries) and not reader.waiting:
            break
    assert writer.wait() == 0
    assert len(got) + reader.dropped == count
    # The numbers of what was dropped are missing, and no others.
    assert got == sequence
    assert got == sorted(set(got))


def test_a_writer_that_is_killed_leaves_only_whole_entries(tmp_path: Path) -> None:
    path = tmp_path / "ring"
    writer = started(path, 200_000, 10**9)
    reader = RingReader(path)
    while reader.waiting < 500:
        time.sleep(0.001)
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    got: list[int] = []
    while reader.waiting:
        got += numbers(reader.read(1000))
    assert got == list(range(len(got)))
    assert len(got) >= 500
    assert not reader.finished


@given(st.lists(st.tuples(st.integers(-3, 7), st.booleans(), st.booleans()), max_size=60))
def test_the_first_row_of_each_interval_keeps_its_raw_features(tmp_path_factory, steps) -> None:
    path = tmp_path_factory.mktemp("ring") / "ring"
    writer = RingWriter(path, 4, F, H, raw_every_ms=5)
    reader = RingReader(path)
    held, got, time_ns = [], [], 1_772_000_000_000_000_000
    for number, (step_ms, empties, has_raw) in enumerate(steps):
        time_ns += step_ms * 1_000_000
        nothing = np.full(F, np.nan, np.float32)
        raw = np.full(F, number, np.float32) if has_raw else None
        if writer.put(number, time_ns, 0, 0, 0, 0, 0, 0, 0, RESET, nothing, np.nan, np.nan, raw) and has_raw:
            held.append((number, time_ns))
        if empties or number == len(steps) - 1:
            got.append(reader.read(4))
            reader.release()
            got.append(reader.read(4))
    expected = [held[place][0] for place in thinned(np.array([time for _, time in held], np.int64), 5)]
    entries = [entry for part in got for entry in part if entry["flags"] & HAS_RAW]
    assert [int(entry["row"]) for entry in entries] == expected
    assert all((entry["raw"] == entry["row"]).all() for entry in entries)


def test_what_the_reader_counts_outlives_it(tmp_path: Path) -> None:
    writer = RingWriter(tmp_path / "ring", 4, F, H)
    for number in (3, 4):
        reader = RingReader(tmp_path / "ring")
        reader.count(14, number)
        reader.close()
    assert writer.tally(14) == 7


@pytest.mark.parametrize("content", [b"", b"x" * 10_000])
def test_a_file_that_is_no_ring_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ring").write_bytes(content)
    with pytest.raises(ServingError, match="not a ring"):
        RingReader(tmp_path / "ring")


def test_a_ring_is_made_once_and_is_private(tmp_path: Path) -> None:
    RingWriter(tmp_path / "ring", 4, F, H)
    assert (tmp_path / "ring").stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        RingWriter(tmp_path / "ring", 4, F, H)


def test_a_ring_has_one_reader(tmp_path: Path) -> None:
    RingWriter(tmp_path / "ring", 4, F, H)
    reader = RingReader(tmp_path / "ring")
    with pytest.raises(ServingError, match="another process"):
        RingReader(tmp_path / "ring")
    reader.close()
    RingReader(tmp_path / "ring").close()

"""The log under the faults of a real machine: killed writers, several at once, locks, full disks, foreign files."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from lobsmith.errors import PredictionLogError
from lobsmith.monitoring.log.export import export_parquet
from lobsmith.monitoring.log.reader import PredictionLog, answers
from lobsmith.monitoring.log.writer import LogWriter
from tests.monitoring.logged import HORIZONS, MODEL, PARAMS, START_NS, STEP_NS, add, begin, random_probabilities, writer

ROOT = Path(__file__).parents[3]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lob.db"


def start_writer(path: Path, rows: int) -> subprocess.Popen:
    """Start a process that adds a row every few milliseconds and prints its number and when it was added."""
    command = [sys.executable, "-m", "tests.monitoring.logged", str(path), str(rows)]
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def hold_lock(path: Path) -> subprocess.Popen:
    """Start a process that holds the log's write lock until it gets a line."""
    code = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute('BEGIN IMMEDIATE'); "
    command = [sys.executable, "-c", code + "print(flush=True); sys.stdin.readline()", str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    return process


def rows_of(path: Path) -> np.ndarray:
    with PredictionLog(path) as log:
        return (answers(log, *MODEL).time_ns - START_NS) // STEP_NS


def test_a_killed_writer_loses_no_more_than_the_flush_interval(path) -> None:
    process = start_writer(path, 100_000)
    lines = [process.stdout.readline() for _ in range(200)]
    process.send_signal(signal.SIGKILL)
    lines += process.stdout.readlines()
    process.wait()
    process.stdout.close()
    added = np.array([line.split() for line in lines if line.endswith("\n")], np.int64)
    due = added[added[:, 1] < added[-1, 1] - PARAMS.flush_s * 1e9, 0]
    logged = rows_of(path)
    assert_array_equal(logged, np.arange(len(logged)))
    assert len(logged) > due.max() > 0
    with writer(path) as log:  # the file goes on
        begin(log, "next")
        add(log, "next", MODEL, 0, 5)
    assert len(rows_of(path)) == len(logged) + 5


def test_two_writers_and_a_reader_at_once(path) -> None:
    processes = [start_writer(path, 600) for _ in range(2)]
    counts = [0]
    while any(process.poll() is None for process in processes):
        if path.exists():
            counts.append(len(rows_of(path)))
        time.sleep(0.02)
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [0, 0]
    assert counts == sorted(counts)
    assert any(0 < count < 1200 for count in counts)
    assert_array_equal(rows_of(path), [*range(600), *range(600)])


def test_writers_that_meet_at_a_missing_file(path) -> None:
    errors = []

    def write(name: str) -> None:
        try:
            with writer(path) as log:
                begin(log, name)
                add(log, name, MODEL, 0, 10)
        except PredictionLogError as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(f"session {index}",)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(rows_of(path)) == 80
    assert [file.name for file in path.parent.iterdir() if not file.name.startswith("lob.db")] == []


def test_a_locked_log_keeps_rows_for_later(path) -> None:
    impatient = type(PARAMS)(flush_s=0.1, keep_days=1.0, busy_s=0.05)
    with LogWriter(path, HORIZONS, impatient) as log:
        begin(log, "a")
        add(log, "a", MODEL, 0, 10)
        other = hold_lock(path)
        with pytest.raises(PredictionLogError, match=r"lob\.db: .*locked.*busy_s"):
            log.flush()
        add(log, "a", MODEL, 10, 20)
        assert log.waiting == 20
        other.communicate("\n")
        log.flush()
        assert log.waiting == 0
    assert_array_equal(rows_of(path), np.arange(20))


def test_rows_beyond_what_may_wait_are_counted(path) -> None:
    with writer(path, most_waiting=100) as log:
        begin(log, "a")
        for start in range(0, 250, 50):
            add(log, "a", MODEL, start, start + 50)
        assert log.lost == {"predictions": 150}
    assert_array_equal(rows_of(path), np.arange(100))
    with PredictionLog(path) as log:
        assert log.drops() == {"log predictions": 150}


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_leaves_what_was_committed(small_disk) -> None:
    path = small_disk / "lob.db"
    with writer(path) as log:
        begin(log, "a")
        add(log, "a", MODEL, 0, 500)
        log.flush()
        add(log, "a", MODEL, 500, 20_000)
        with pytest.raises(PredictionLogError, match=r"lob\.db: .*full.*free space"):
            log.flush()
        assert_array_equal(rows_of(path), np.arange(500))
        subprocess.run(["mount", "-o", "remount,size=32m", small_disk], check=True)
    assert_array_equal(rows_of(path), np.arange(20_000))


@pytest.mark.parametrize("content", [b"", b"no database " * 1000], ids=["empty", "text"])
def test_a_foreign_file_is_refused_and_kept(path, content) -> None:
    path.write_bytes(content)
    for open_it in (writer, PredictionLog):
        with pytest.raises(PredictionLogError, match=r"lob\.db: .*move"):
            open_it(path)
    assert path.read_bytes() == content


def test_another_database_is_refused(path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE predictions (x)")
    with pytest.raises(PredictionLogError, match="not a prediction log"):
        writer(path)


def test_another_schema_is_refused(path) -> None:
    writer(path).close()
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version = 99")
    with pytest.raises(PredictionLogError, match=r"schema 99.*move the file away"):
        PredictionLog(path)


@pytest.mark.parametrize("damage", [0.05, 0.9], ids=["first batch", "later"])
def test_a_damaged_log_is_named(path, tmp_path, damage) -> None:
    with writer(path) as log:
        begin(log, "a")
        add(log, "a", MODEL, 0, 100_000)
    content = bytearray(path.read_bytes())
    start = int(damage * len(content) / 8192) * 8192
    content[start : start + 10 * 8192] = b"\xff" * 10 * 8192
    path.write_bytes(content)
    with pytest.raises(PredictionLogError, match=r"lob\.db: .*damaged"):
        rows_of(path)
    with PredictionLog(path) as log, pytest.raises(PredictionLogError, match=r"lob\.db: .*damaged"):
        export_parquet(log, tmp_path / "out" / "lob.parquet")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_missing_log_is_no_empty_one(path) -> None:
    with pytest.raises(PredictionLogError, match="no prediction log"):
        PredictionLog(path)
    assert not path.exists()


def test_an_unannounced_session_is_refused(path) -> None:
    with writer(path) as log, pytest.raises(ValueError, match="was not announced"):
        log.add_predictions(
            "b", *MODEL, "primary", row=0, time_ns=0, asked_ns=0, segment=0, mid=0, latency_ns=0, rows=1,
            probabilities=random_probabilities(1),
        )  # fmt: skip

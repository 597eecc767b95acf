"""Logs are cut by size, and read from their end while they grow."""

from itertools import islice
from pathlib import Path

import pytest

from lobsmith.services import logs
from lobsmith.services.logs import OLD_LOGS, Output, follow, last_lines, rotate


def test_a_large_log_is_rotated_and_its_writer_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "one.log"
    with path.open("ab", buffering=0) as writer:
        for number in range(OLD_LOGS + 2):
            writer.write(f"{number}\n".encode() * 10)
            rotate(path, largest_bytes=10)
        writer.write(b"after\n")
    assert path.read_bytes() == b"after\n"
    kept = {old.name: old.read_text()[0] for old in tmp_path.iterdir() if old != path}
    assert kept == {f"one.log.{age}": str(OLD_LOGS + 2 - age) for age in range(1, OLD_LOGS + 1)}


def test_a_small_log_stays(tmp_path: Path) -> None:
    path = tmp_path / "one.log"
    rotate(path)
    path.write_text("few\n")
    rotate(path)
    assert [*tmp_path.iterdir()] == [path]


def test_on_a_full_disk_a_log_is_cut_without_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, target: Path) -> None:
        target.write_bytes(b"a part")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(logs.shutil, "copyfile", full)
    path = tmp_path / "one.log"
    path.write_text("many\n" * 10)
    rotate(path, largest_bytes=10)
    assert path.read_text() == ""
    assert [*tmp_path.iterdir()] == [path]


def test_last_lines(tmp_path: Path) -> None:
    path = tmp_path / "one.log"
    assert last_lines(path, 2) == []
    path.write_text("a\nb\nc\nd")
    assert last_lines(path, 2) == ["c", "d"]


def test_following_gives_old_lines_then_new_ones_also_of_a_log_that_was_cut(tmp_path: Path) -> None:
    a, b = tmp_path / "a.log", tmp_path / "b.log"
    a.write_text("old\nolder\n")
    lines = follow({"a": a, "b": b}, lines=1)
    assert next(lines) == ("a", "older")
    with a.open("a") as file:
        file.write("ne")
    b.write_text("first\n")
    assert next(lines) == ("b", "first")
    with a.open("a") as file:
        file.write("w\nnewer\n")
    assert list(islice(lines, 2)) == [("a", "new"), ("a", "newer")]
    a.write_text("cut\n")
    assert next(lines) == ("a", "cut")


def test_the_output_of_a_run_begins_where_it_was_started(tmp_path: Path) -> None:
    path = tmp_path / "one.log"
    path.write_text("ready\n")
    output = Output(path)
    assert output.lines() == []
    with path.open("a") as file:
        file.write("not ready\nready: now\n")
    assert output.lines() == ["not ready", "ready: now"]

import multiprocessing

import pytest

from lobsmith.errors import ReleaseError
from lobsmith.release import journal
from lobsmith.release.journal import Entry
from tests.release import toy


def entry(version, **changes):
    fields = {
        "time_ns": 1,
        "action": journal.PUBLISHED,
        "model": "toy",
        "version_from": None,
        "version_to": version,
        "artifact_id": "a" * 64,
        "who": "someone",
        "verdicts": (toy.PASSED,),
        "reason": "two\nlines",
    }
    return Entry(**fields | changes)


def test_gives_back_what_was_added(tmp_path):
    path = tmp_path / "new" / "journal.jsonl"
    assert journal.read(path) == []
    for version in (1, 2):
        journal.append(path, entry(version))
    assert journal.read(path) == [entry(1), entry(2)]


def test_never_changes_what_is_there(tmp_path):
    path = tmp_path / "journal.jsonl"
    journal.append(path, entry(1))
    before = path.read_bytes()
    journal.append(path, entry(2))
    assert path.read_bytes().startswith(before)


@pytest.mark.parametrize("lost", [1, 2, 30, 10_000])
def test_a_line_that_a_crash_cut_short_costs_only_itself(tmp_path, lost):
    path = tmp_path / "journal.jsonl"
    journal.append(path, entry(1))
    whole = path.read_bytes()
    journal.append(path, entry(2))
    cut = path.read_bytes()
    cut = cut[: max(len(whole), len(cut) - lost)]
    path.write_bytes(cut)
    # Without only its line feed, the second entry is whole.
    survivors = [entry(1), entry(2)] if lost == 1 else [entry(1)]
    assert journal.read(path) == survivors
    journal.append(path, entry(3))
    journal.append(path, entry(4))
    assert journal.read(path) == [*survivors, entry(3), entry(4)]
    assert path.read_bytes().startswith(cut)


def test_a_damaged_line_is_not_passed_over(tmp_path):
    path = tmp_path / "journal.jsonl"
    journal.append(path, entry(1))
    path.write_bytes(path.read_bytes() + b'{"time_ns": "yesterday"}\n')
    with pytest.raises(ReleaseError, match=r"journal.jsonl:2: not a journal entry"):
        journal.read(path)


def test_names_the_place_that_cannot_be_written(tmp_path):
    (tmp_path / "journal.jsonl").mkdir()
    with pytest.raises(ReleaseError, match=r"journal.jsonl: Is a directory"):
        journal.append(tmp_path / "journal.jsonl", entry(1))


def append_many(path, start):
    for version in range(start, start + 50):
        journal.append(path, entry(version))


def test_writers_do_not_mix_their_lines(tmp_path):
    path = tmp_path / "journal.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=append_many, args=(path, start)) for start in (0, 100, 200)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    versions = [one.version_to for one in journal.read(path)]
    assert sorted(versions) == [*range(50), *range(100, 150), *range(200, 250)]
    assert all(one == sorted(one) for one in ([v for v in versions if v // 100 == w] for w in range(3)))

import multiprocessing

import pytest

from lobsmith.errors import ReleaseError
from lobsmith.release.repository import journal
from lobsmith.release.repository.journal import Entry
from tests.release import toy


def entry(version, **changes):
    fields = {
        "time_ns": 1,
        "action": journal.PUBLISHED,
        "model": "toy",
        "version_from": None,
        "version_to": version,
        "artifact_id": "a" * 64,
        "actor": "someone",
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
    versions = [entry.version_to for entry in journal.read(path)]
    assert sorted(versions) == [*range(50), *range(100, 150), *range(200, 250)]
    assert all(part == sorted(part) for part in ([v for v in versions if v // 100 == w] for w in range(3)))


def entries(*lines):
    """Return entries of the model `toy`, one a second, from (action, version before, version that it is about)."""
    times = range(1, len(lines) + 1)
    return [
        entry(about, time_ns=time_ns, action=action, version_from=before)
        for time_ns, (action, before, about) in zip(times, lines, strict=True)
    ]


HISTORY = entries(
    ("published", None, 1),
    ("promoted", 1, 2),
    ("refused", 2, 3),
    ("promoted", 2, 4),
    ("retired", 4, 1),
    ("faulty", 4, 2),
    ("rolled back", 4, 2),
    ("promoted", 2, 5),
    ("repaired", 5, 2),
    ("set aside", 2, 5),
)


def test_the_journal_says_what_was_serving_and_why():
    states = [journal.state_at(HISTORY, "toy", time_ns) for time_ns in range(12)]
    assert [None if entry is None else (entry.action, entry.version_to) for entry in states] == [
        None,
        ("published", 1),
        *[("promoted", 2)] * 2,
        *[("promoted", 4)] * 3,
        ("rolled back", 2),
        ("promoted", 5),
        *[("repaired", 2)] * 3,
    ]
    assert journal.state_at(HISTORY, "other", 99) is None


def test_the_entry_of_a_crashed_writer_may_come_late():
    history = entries(("promoted", None, 1), ("promoted", 1, 2))
    late = [*history, entry(1, time_ns=1, action="published")]
    assert journal.state_at(late, "toy", 9).version_to == 2
    deployment = entries(("published", None, 1), ("published", 1, 2), ("retired", 2, 1), ("rejected", 2, 2))
    assert journal.state_at(deployment, "toy", 9) is None


def test_the_next_version_below_is_active_after_one_that_left_alone():
    history = entries(("published", None, 1), ("published", 1, 2), ("published", 2, 3), ("set aside", 2, 3))
    assert journal.state_at(history, "toy", 9).version_to == 2
    assert journal.state_at([*history, *entries(("retired", 2, 1), ("set aside", 2, 2))], "toy", 9) is None


def test_the_journal_says_what_became_of_each_version():
    assert journal.version_status(HISTORY, "toy") == {
        1: "retired",
        2: "promoted",
        3: "refused",
        4: "rolled back",
        5: "set aside",
    }

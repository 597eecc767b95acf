"""The record of a mode and its journal: what is written, in which order, and what a crash leaves."""

import multiprocessing
import os
import shutil
from itertools import count, pairwise

import pytest
from msgspec.structs import replace

from lobsmith.errors import LobsmithError, ModeError
from lobsmith.monitoring.mode.hit_rates import HitRates
from lobsmith.monitoring.mode.machine import Mode, ModeChange
from lobsmith.monitoring.mode.store import (
    apply,
    changes,
    decode_mode,
    forget_retrain,
    journal_path,
    mode_at,
    read_mode,
    set_auto,
    set_mode,
    state_path,
)
from lobsmith.params import load_params
from lobsmith.release.repository import journal
from lobsmith.workspace import Workspace
from tests.monitoring.drift.checks import CALM, DRIFT, MISSING, UNKNOWN, at, check
from tests.small import params_file

PARAMS = load_params(
    params_file(),
    {"modes.drift_looks": 1, "modes.paused_looks": 2, "modes.calm_looks": 2, "modes.retrain_every_s": 900},
)
N, C, P = Mode.NORMAL, Mode.CONSERVATIVE, Mode.PAUSED
RATES = HitRates(version=1, horizons_ms=(100,), edges=(1 / 3, 1.0), counts=((7,),), wins=((5,),))


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace(tmp_path)


def take(workspace: Workspace, number: int, *findings, rates=None, **changed):
    return apply(workspace, PARAMS, check(number, *findings, **changed), rates, "monitor flow", now_ns=at(number))


def written(workspace: Workspace) -> list[tuple[Mode | None, Mode]]:
    return [(entry.mode_from, entry.mode_to) for entry in journal.read_lines(journal_path(workspace), ModeChange)]


def test_every_check_is_a_heartbeat_and_every_change_a_line(workspace: Workspace) -> None:
    assert read_mode(workspace, "lob") is None
    for number, finding in enumerate([UNKNOWN, DRIFT, CALM, CALM]):
        change = take(workspace, number, finding, UNKNOWN, UNKNOWN, rates=RATES if number == 2 else None)
        assert change.after == read_mode(workspace, "lob")
        assert change.after.looked_ns == at(number)
        assert change.retrain == (number == 1)
    assert written(workspace) == [(None, N), (N, C), (C, N)]
    assert read_mode(workspace, "lob").win_rates == RATES
    assert [mode_at(workspace, "lob", at(number)) for number in (-1, 0)] == [None, changes(workspace, "lob")[0]]
    assert [mode_at(workspace, "lob", at(number)).mode_to for number in (1, 2, 3, 9)] == [C, C, N, N]
    assert mode_at(workspace, "other", at(9)) is None


def test_win_rates_of_another_version_are_forgotten(workspace: Workspace) -> None:
    take(workspace, 0, CALM, rates=RATES)
    assert take(workspace, 1, CALM, version=2).after.win_rates is None


def test_a_hand_holds_until_auto_and_is_journaled(workspace: Workspace) -> None:
    take(workspace, 0, CALM)
    with pytest.raises(ModeError, match="needs a reason"):
        set_mode(workspace, "lob", C, " \n", "a person")
    assert set_mode(workspace, "lob", C, "news at\nnoon", "a person").changed
    for number in range(1, 6):
        assert take(workspace, number, CALM).after.mode is C
    for number in (6, 7):
        held = take(workspace, number, CALM, CALM, DRIFT).after
    assert (held.mode, held.held) == (P, True)
    assert not set_auto(workspace, "lob", "", "a person").after.held
    assert not set_auto(workspace, "lob", "", "a person").changed
    assert [take(workspace, number, CALM).after.mode for number in range(8, 12)] == [P, C, C, N]
    lines = changes(workspace, "lob")
    assert [(line.mode_to, line.held, line.actor) for line in lines[1:4]] == [
        (C, True, "a person"),
        (P, True, "monitor flow"),
        (P, False, "a person"),
    ]
    assert lines[1].reason == "news at noon"


def test_normal_by_hand_does_not_outlast_drift(workspace: Workspace) -> None:
    take(workspace, 0, DRIFT)
    assert set_mode(workspace, "lob", N, "looked at it", "a person").after.mode is N
    assert take(workspace, 1, CALM).after.mode is N
    assert take(workspace, 2, DRIFT).after.mode is C


def test_a_model_that_serves_nothing_has_no_mode_to_set(workspace: Workspace) -> None:
    with pytest.raises(ModeError, match="serves nothing"):
        set_mode(workspace, "lob", C, "why", "a person")
    with pytest.raises(ModeError, match="no mode yet"):
        set_auto(workspace, "lob", "", "a person")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"mode": "normal"}', b"\xff", b'"\xff"'])
def test_a_corrupt_mode_is_an_error_here_none_to_clients_and_replaced_by_hand(workspace: Workspace, content) -> None:
    take(workspace, 0, DRIFT)
    path = state_path(workspace, "lob")
    path.write_bytes(content)
    assert decode_mode(content) is None
    for act in (lambda: read_mode(workspace, "lob"), lambda: take(workspace, 1, CALM)):
        with pytest.raises(ModeError, match="lobsmith mode set MODE --model lob --reason WHY"):
            act()
    assert path.read_bytes() == content
    assert set_mode(workspace, "lob", P, "the record is corrupt", "a person").before.mode is C
    assert read_mode(workspace, "lob").mode is P
    assert take(workspace, 2, CALM).after.mode is P


def test_a_record_of_another_model_is_none(workspace: Workspace) -> None:
    take(workspace, 0, CALM)
    shutil.copy(state_path(workspace, "lob"), state_path(workspace, "other"))
    with pytest.raises(ModeError, match=r"other\.json: does not hold a mode"):
        read_mode(workspace, "other")


def test_a_record_that_is_deleted_calms_nothing(workspace: Workspace) -> None:
    take(workspace, 0, DRIFT)
    state_path(workspace, "lob").unlink()
    assert take(workspace, 1, CALM).after.mode is C
    assert written(workspace) == [(None, C)]


@pytest.mark.parametrize("name", ["../lob", "lob_candidate", "lob_trt", "", "lob\n"])
def test_a_mode_is_that_of_a_production_model(workspace: Workspace, name: str) -> None:
    with pytest.raises(ModeError, match="production model"):
        read_mode(workspace, name)


def test_a_retrain_that_could_not_be_opened_is_asked_for_again(workspace: Workspace) -> None:
    assert take(workspace, 0, DRIFT).retrain
    assert not take(workspace, 1, DRIFT).retrain
    forget_retrain(workspace, "lob")
    assert take(workspace, 2, DRIFT).retrain
    assert [take(workspace, number, DRIFT).retrain for number in (3, 4, 5)] == [False, False, True]


def test_a_journal_that_cannot_be_written_stops_no_caution(workspace: Workspace) -> None:
    take(workspace, 0, CALM)
    path = journal_path(workspace)
    kept = path.rename(path.with_suffix(".away"))
    path.mkdir()
    with pytest.raises(LobsmithError, match="journal"):
        take(workspace, 1, MISSING)
    assert read_mode(workspace, "lob").mode is C
    path.rmdir()
    kept.rename(path)
    assert [change.mode_to for change in changes(workspace, "lob")] == [N, C]
    take(workspace, 2, DRIFT)
    assert written(workspace) == [(None, N), (N, C)]


def killed_at(workspace: Workspace, step: int, act) -> bool:
    """Act in a process that ends before its durable step of that number; return whether it had so many."""
    if not (pid := os.fork()):
        steps = count()

        def counted(original):
            def called(*arguments, **named):
                if next(steps) == step:
                    os._exit(9)
                return original(*arguments, **named)

            return called

        os.fsync, os.replace = counted(os.fsync), counted(os.replace)
        try:
            act(workspace)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9


@pytest.mark.parametrize(
    "act",
    [lambda workspace: take(workspace, 1, DRIFT), lambda workspace: set_mode(workspace, "lob", P, "why", "a person")],
    ids=["check", "hand"],
)
def test_a_writer_killed_at_any_step_leaves_no_mode_unjournaled(tmp_path, act) -> None:
    for step in count():
        workspace = Workspace(tmp_path / str(step))
        take(workspace, 0, CALM)
        killed = killed_at(workspace, step, act)
        in_force = read_mode(workspace, "lob").mode
        assert changes(workspace, "lob")[-1].mode_to is in_force
        take(workspace, 2, CALM)
        take(workspace, 3, MISSING)
        lines = written(workspace)
        assert lines[-1][1] is read_mode(workspace, "lob").mode
        assert all(before[1] is after[0] for before, after in pairwise(lines))
        assert len(lines) == len(set(lines))
        if not killed:
            assert step >= 6
            break


def looking(root, start: int) -> None:
    for number in range(start, start + 20):
        take(Workspace(root), number, DRIFT if number % 4 < 2 else CALM)


def test_two_writers_lose_no_line(workspace: Workspace) -> None:
    writers = [multiprocessing.Process(target=looking, args=(workspace.root, start)) for start in (0, 100)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    lines = written(workspace)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert all(before[1] is after[0] for before, after in pairwise(lines))
    assert lines[-1][1] is read_mode(workspace, "lob").mode


def test_a_record_with_keys_of_a_later_release_is_read(workspace: Workspace) -> None:
    take(workspace, 0, CALM)
    content = state_path(workspace, "lob").read_bytes().replace(b"{", b'{"later": 1, ', 1)
    assert decode_mode(content) == replace(read_mode(workspace, "lob"))


def test_a_corrupt_line_stops_no_later_change(workspace: Workspace) -> None:
    take(workspace, 0, CALM)
    with journal_path(workspace).open("ab") as file:
        file.write(b"\xff no line\n")
    assert take(workspace, 1, DRIFT).retrain
    assert read_mode(workspace, "lob").unjournaled == ()
    assert b'"conservative"' in journal_path(workspace).read_bytes().splitlines()[-1]
    with pytest.raises(LobsmithError, match=r"journal\.jsonl:2"):
        changes(workspace, "lob")

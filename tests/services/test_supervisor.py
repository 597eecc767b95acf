"""Services are started in order, started again when they end, and stopped in reverse order, whatever ends them."""

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from lobsmith.errors import ServiceError
from lobsmith.services import guard
from lobsmith.services.background import end_run
from lobsmith.services.guard import GRACE_S, marked
from lobsmith.services.run import read_run
from lobsmith.services.watched import FIRST_BACKOFF_S, Watched
from lobsmith.serving.ports import free_ports
from lobsmith.workspace import Workspace
from tests.services.stand_ins import BEATING, GRANDPARENT, SERVER, SLEEPER, STUBBORN, is_running, service, up


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path


def server(name: str, **more: object) -> dict[str, object]:
    return {"name": name, "code": SERVER, "port": free_ports(1)[0], **more}


def beating(name: str, **more: object) -> dict[str, object]:
    return {"name": name, "code": BEATING, "beat_s": 1.5, **more}


def test_services_start_in_order_and_stop_in_reverse(root: Path) -> None:
    with up(root, server("first"), beating("second", after=["first"]), beating("third")) as running:
        running.ready("first", "second", "third")
        waited = [(name, state) for name, state, *_ in running.changes]
        assert waited.index(("first", "ready")) < waited.index(("second", "starting"))
        assert waited.index(("third", "starting")) < waited.index(("first", "ready"))
        pids = [running.pid(name) for name in ("first", "second", "third")]
        run = read_run(Workspace(root))
        assert run is not None
        assert [service.pid for service in run.services] == pids
        assert run.process.pid == running.process.pid
        assert run.unready == ()
        assert running.end() == 0
        assert [name for name, state, *_ in running.changes if state == "stopped"] == ["third", "second", "first"]
        assert read_run(Workspace(root)) is None
        assert [pid for pid in pids if is_running(pid)] == []
        assert marked(str(root)) == []


@pytest.mark.parametrize("display", ["Lines('http://127.0.0.1:8003')", "JsonLines()"])
def test_services_go_on_and_end_in_order_where_the_reader_of_the_output_has_gone(root: Path, display: str) -> None:
    code = (
        "import signal, sys, time\n"
        "from pathlib import Path\n"
        "signal.signal(signal.SIGTERM, lambda *_: (Path(NAME).touch(), sys.exit()))\n"
        "Path(NAME + '.runs').touch()\n"
        "time.sleep(600)"
    )
    services = [{"name": name, "code": code.replace("NAME", repr(name))} for name in ("a", "b")]
    program = (
        "import json, sys; from pathlib import Path; from lobsmith.cli import up_table; "
        "from lobsmith.services.supervisor import supervise; from lobsmith.workspace import Workspace; "
        "from tests.services.stand_ins import service; root = Path(sys.argv[1]); "
        f"display = up_table.{display}; services = [service(root, entry) for entry in json.loads(sys.argv[2])]\n"
        "with display: supervise(Workspace(root), services, on_change=display.change, on_tick=display.tick)"
    )
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", program, str(root), json.dumps(services)]
    with subprocess.Popen(
        command, stdout=writer, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    ) as process:
        os.close(writer)
        try:
            end = time.monotonic() + 90
            while not all((root / f"{name}.runs").exists() for name in "ab") and time.monotonic() < end:
                time.sleep(0.05)
            time.sleep(1.5)  # some ticks
            process.terminate()
            assert process.wait(90) == 0
            assert process.stderr is not None
            assert process.stderr.read() == ""
        finally:
            process.kill()
    assert [name for name in "ab" if not (root / name).exists()] == []


def test_a_killed_service_is_started_again_and_the_others_go_on(root: Path) -> None:
    with up(root, server("first"), beating("second", after=["first"])) as running:
        running.ready("first", "second")
        killed, other = running.pid("first"), running.pid("second")
        os.kill(killed, signal.SIGKILL)
        running.eventually(lambda: "restarting" in running.states("first"))
        running.ready("first")
        assert running.pid("first") != killed
        assert (running.pid("second"), running.states("second")[-1]) == (other, "ready")
        why = next(change[3] for change in running.changes if change[1] == "restarting")
        assert why == f"SIGKILL; again in {FIRST_BACKOFF_S:g} s"
        run = read_run(Workspace(root))
        assert run is not None
        assert [service.restarts for service in run.services] == [1, 0]


def test_a_service_that_ends_again_and_again_is_started_less_and_less_often_and_never_given_up(root: Path) -> None:
    code = "import sys; sys.exit('error: no such exchange')"
    with up(root, {"name": "broken", "code": code}, beating("well")) as running:
        running.eventually(lambda: running.states("broken").count("restarting") >= 4)
        reasons = [change[3] for change in running.changes if change[:2] == ["broken", "restarting"]][:4]
        assert {re.sub(r"; again in .*", "", why) for why in reasons} == {"exit status 1: error: no such exchange"}
        assert [float(why.split()[-2]) for why in reasons] == [0.25, 0.5, 1.0, 2.0]
        assert running.states("well")[-1] == "ready"


def test_pauses_grow_to_ten_seconds_and_begin_anew_after_a_steady_minute(root: Path) -> None:
    watched = Watched(service(root, beating("one")), root / "log", "mark", lambda: None)
    pauses = []
    for ran_s in (0.0,) * 8 + (61.0, 0.0):
        watched._restart_later("why", ran_s)
        pauses.append(float(watched.state.why.split()[-2]))
    assert pauses == [0.25, 0.5, 1, 2, 4, 8, 10, 10, 0.25, 0.5]


def test_a_process_that_cannot_be_watched_is_not_left_behind(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_pid: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", full)
    watched = Watched(service(root, beating("one")), root / "log", str(root), lambda: None)
    watched.advance({})
    assert watched.state.why == f"a process: Too many open files; again in {FIRST_BACKOFF_S:g} s"
    assert marked(str(root)) == []


def test_a_service_may_come_to_its_own_end_but_not_with_an_error(root: Path) -> None:
    code = "import pathlib, sys; p = pathlib.Path('once'); sys.exit() if p.exists() else sys.exit(p.touch() or 'bad')"
    with up(root, {"name": "feed", "code": code, "finishes": True}) as running:
        running.eventually(lambda: running.states("feed")[-1:] == ["finished"])
        assert running.states("feed").count("restarting") == 1
        time.sleep(2 * FIRST_BACKOFF_S)
        assert running.states("feed")[-1] == "finished"
        assert running.end() == 0


@pytest.mark.parametrize("kind", [server, beating], ids=["a server", "one that listens nowhere"])
def test_a_service_that_hangs_is_reported_and_restarted(root: Path, kind: Callable[..., dict[str, object]]) -> None:
    with up(root, kind("first", silent_s=2.0)) as running:
        running.ready("first")
        hanging = running.pid("first")
        os.kill(hanging, signal.SIGSTOP)
        running.eventually(lambda: running.states("first")[-2:] == ["ready", "not answering"])
        running.eventually(lambda: "restarting" in running.states("first"))
        running.ready("first")
        assert running.pid("first") != hanging
        assert not is_running(hanging)


def test_a_service_that_is_never_ready_is_started_again(root: Path) -> None:
    with up(root, beating("mute", code=SLEEPER, start_deadline_s=0.5)) as running:
        running.eventually(lambda: running.states("mute").count("restarting") >= 2)
        why = next(change[3] for change in running.changes if change[1] == "restarting")
        assert why.startswith("not ready within 0.5 s")


def test_a_service_that_ignores_sigterm_is_killed_after_its_deadline(root: Path) -> None:
    stubborn = beating("stubborn", code=STUBBORN, stop_deadline_s=0.5)
    with up(root, stubborn) as running:
        running.ready("stubborn")
        pid, at = running.pid("stubborn"), time.monotonic()
        assert running.end() == 0
        assert 0.5 < time.monotonic() - at < 10  # as long as other services have
        assert not is_running(pid)


def test_a_second_signal_kills_at_once(root: Path) -> None:
    with up(root, beating("stubborn", code=STUBBORN, stop_deadline_s=3600.0)) as running:
        running.ready("stubborn")
        running.process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert running.process.poll() is None
        assert running.end() == 0
        assert marked(str(root)) == []


@pytest.mark.parametrize(("inherited", "ends"), [(signal.SIG_DFL, True), (signal.SIG_IGN, False)])
def test_the_hangup_of_a_terminal_ends_it_unless_it_was_started_with_nohup(
    root: Path, inherited: signal.Handlers, ends: bool
) -> None:
    before = signal.signal(signal.SIGHUP, inherited)
    try:
        with up(root, beating("one")) as running:
            running.ready("one")
            running.process.send_signal(signal.SIGHUP)
            if ends:
                assert running.process.wait(90) == 0
            else:
                time.sleep(0.5)
                assert (running.process.poll(), running.states("one")[-1]) == (None, "ready")
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(BEATING, id="a process"),
        pytest.param(GRANDPARENT, id="one with a session of its own below it", marks=pytest.mark.slow),
    ],
)
def test_sigkill_of_the_supervisor_leaves_no_process(root: Path, code: str) -> None:
    with up(root, server("first"), beating("second", code=code)) as running:
        running.ready("first", "second")
        if code is GRANDPARENT:
            running.eventually(lambda: len(marked(str(root))) == 3)
        running.process.kill()
        running.eventually(
            lambda: not is_running(running.pid("first")) and not is_running(running.pid("second")), GRACE_S / 2
        )
        running.eventually(lambda: marked(str(root)) == [], GRACE_S + 60)
        # What is left on disk is no running `lobsmith up`.
        assert read_run(Workspace(root)) is None


def test_what_a_killed_supervisor_and_guard_left_is_ended_by_the_next(root: Path) -> None:
    environment = {**os.environ, "LOBSMITH_UP": str(root)}
    left = subprocess.Popen([sys.executable, "-c", SLEEPER], env=environment, stdout=subprocess.DEVNULL)
    try:
        with up(root, beating("one")) as running:
            running.ready("one")
            assert left.wait(60) == -signal.SIGKILL
    finally:
        left.kill()
        left.wait()


FAST = f"""
import os
assert '"speed":60.0' in os.environ["LOBSMITH_CLOCK"]
{BEATING}
"""


def test_a_process_that_sigkill_does_not_end_holds_nothing_up(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "KILL_S", 0.5)
    environment = {**os.environ, guard.VARIABLE: str(root)}
    left = subprocess.Popen([sys.executable, "-c", SLEEPER], env=environment)
    try:
        with monkeypatch.context() as waiting:
            # As long as it waits for a disk.
            waiting.setattr(os, "kill", lambda _pid, _number: None)
            assert guard.end_marked(str(root), grace_s=0.0) == [left.pid]
        assert left.poll() is None
    finally:
        left.kill()
        left.wait()


def test_a_second_one_names_the_first_and_leaves_its_clock(root: Path) -> None:
    def speed() -> float:
        return json.loads(Workspace(root).clock.read_bytes())["speed"]

    with up(root, beating("one"), beating("two", code=FAST), speed=60) as first:
        first.ready("one", "two")
        second = subprocess.run(
            [sys.executable, "-m", "tests.services.stand_ins", str(root), "[]"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert second.returncode == 1
        assert re.search(rf"runs here already \(\w+, process {first.process.pid} on .*lobsmith down`", second.stderr)
        assert (first.states("one")[-1], speed()) == ("ready", 60)
        assert first.end() == 0
        assert speed() == 1


def test_a_busy_port_is_named_with_the_process_that_holds_it(root: Path) -> None:
    first = server("first")
    holder = subprocess.Popen([sys.executable, "-c", SERVER, str(first["port"])], stderr=subprocess.DEVNULL)
    try:
        while not _listens(int(str(first["port"]))):
            time.sleep(0.05)
        with up(root, beating("other"), first) as refused:
            assert refused.process.wait(90) == 1
            [line] = refused.errors.read_text().splitlines()
            assert f"port {first['port']} on 127.0.0.1 is taken by process {holder.pid} ({sys.executable}" in line
            assert "set services.mlflow_port in params.yaml or pass --mlflow-port" in line
            assert refused.changes == []
    finally:
        holder.kill()
        holder.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_down_ends_it_and_waits(root: Path) -> None:
    with up(root, server("first")) as running:
        running.ready("first")
        run = end_run(Workspace(root))
        assert run is not None
        assert [service.name for service in run.services] == ["first"]
        assert running.process.wait(1) == 0
        assert marked(str(root)) == []
    assert end_run(Workspace(root)) is None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of one MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if (mounted := subprocess.run(command, capture_output=True, text=True, check=False)).returncode:
        pytest.skip(f"a filesystem cannot be mounted here: {mounted.stderr}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(place: Path) -> Path:
    ballast = place / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"0" * 4096)
    return ballast


def test_a_full_disk_is_reported_before_any_start_and_ends_nothing_that_runs(root: Path, small_disk: Path) -> None:
    ballast = fill(small_disk)
    refused = subprocess.run(
        [sys.executable, "-m", "tests.services.stand_ins", str(small_disk), "[]"], capture_output=True, text=True
    )
    assert refused.returncode == 1
    [line] = refused.stderr.splitlines()
    assert "No space left on device; free the disk" in line
    ballast.unlink()
    with up(small_disk, server("first"), beating("second"), out=root) as running:
        running.ready("first", "second")
        fill(small_disk)
        for name in ("first", "second"):
            os.kill(running.pid(name), signal.SIGKILL)
            running.eventually(lambda name=name: "restarting" in running.states(name))
        running.ready("first", "second")
        assert end_run(Workspace(small_disk)) is not None
        assert running.process.wait(1) == 0


def test_what_cannot_be_printed_ends_nothing_either(small_disk: Path) -> None:
    first = server("first")
    with up(small_disk, first) as running:
        running.ready("first")
        ballast, [killed] = fill(small_disk), [running.pid("first")]
        os.kill(killed, signal.SIGKILL)
        running.eventually(lambda: not is_running(killed))
        running.eventually(lambda: _listens(int(str(first["port"]))))
        ballast.unlink()
        os.kill(running.process.pid, signal.SIGTERM)
        running.process.wait(90)
        assert marked(str(small_disk)) == []


def test_a_file_that_cannot_be_written_is_reported_before_anything_starts(root: Path) -> None:
    (root / ".lobsmith").touch()
    with up(root, beating("one")) as refused:
        assert refused.process.wait(90) == 1
        [line] = refused.errors.read_text().splitlines()
        assert re.search(r"\.lobsmith/up/.*: Not a directory; free the disk", line)


def test_state_that_cannot_be_read_is_an_error(root: Path) -> None:
    (root / ".lobsmith" / "up" / "state.json").mkdir(parents=True)
    with pytest.raises(ServiceError, match="Is a directory"):
        read_run(Workspace(root))

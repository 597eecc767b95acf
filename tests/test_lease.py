import os
import signal
import subprocess
import sys
import threading
import time

import msgspec
import psutil
import pytest

from lobsmith import lease as leases
from lobsmith.errors import LeaseError, LeaseLostError
from lobsmith.files import exclusive_lock
from lobsmith.lease import hold_lease, lease_holder
from lobsmith.process import Process

HOLDER = """
import sys, time
from pathlib import Path
from lobsmith.errors import LeaseLostError
from lobsmith.lease import hold_lease

path, ttl_s = Path(sys.argv[1]), float(sys.argv[2])
with hold_lease(path, "work", ttl_s=ttl_s, wait_s=0) as lease:
    print(lease.token, flush=True)
    for line in sys.stdin:
        try:
            with lease.fence():
                pass
            print("acted", flush=True)
        except LeaseLostError as error:
            print(f"refused: {error}", flush=True)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "home" / "work.lease"


@pytest.fixture
def start(path):
    """Start processes that hold the lease and act once for each line of input."""
    processes = []

    def start_process(ttl_s):
        command = [sys.executable, "-c", HOLDER, str(path), str(ttl_s)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        return process, int(process.stdout.readline())

    yield start_process
    for process in processes:
        process.kill()
        process.communicate()


def act(process):
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def test_one_holds_it_and_the_next_has_a_higher_token(path):
    assert lease_holder(path) is None
    tokens = []
    for _ in range(3):
        with hold_lease(path, "work", ttl_s=30, wait_s=0) as lease:
            tokens.append(lease.token)
            held = lease_holder(path)
            assert (held.token, held.holder, held.purpose) == (lease.token, Process.this(), "work")
            with (
                pytest.raises(LeaseError, match=rf"process {os.getpid()} .*\(work\) has held the lease"),
                hold_lease(path, "other", ttl_s=30, wait_s=0.1),
            ):
                pass
            with lease.fence(), lease.fence():
                pass
        assert lease_holder(path) is None
    assert tokens == sorted(set(tokens))


def test_it_is_renewed_for_as_long_as_its_holder_runs(path):
    with hold_lease(path, "work", ttl_s=2, wait_s=0) as lease:
        until = lease_holder(path).expires_ns
        while time.time_ns() <= until:
            time.sleep(0.1)
        assert lease_holder(path).expires_ns > until
        with pytest.raises(LeaseError), hold_lease(path, "other", ttl_s=2, wait_s=0.2):
            pass
        with lease.fence():
            pass
        assert not lease.lost


def test_it_is_free_at_once_when_its_holder_was_killed(path, start):
    process, token = start(3600)
    assert lease_holder(path).holder.pid == process.pid
    process.send_signal(signal.SIGKILL)
    process.wait()
    with hold_lease(path, "work", ttl_s=30, wait_s=0) as lease:
        assert lease.token > token


def test_a_stopped_holder_is_replaced_and_refused_when_it_goes_on(path, start):
    process, _ = start(0.5)
    assert act(process) == "acted"
    with exclusive_lock(path, 60):  # it is not stopped in the middle of a renewal
        process.send_signal(signal.SIGSTOP)
        while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
            time.sleep(0.01)
    with hold_lease(path, "take over", ttl_s=30, wait_s=30) as lease:
        process.send_signal(signal.SIGCONT)
        answer = act(process)
        assert answer.startswith("refused")
        assert "(take over)" in answer
        with lease.fence():
            pass
    # It does not get the lease back, though that is free again.
    assert act(process).startswith("refused")


def test_a_fence_delays_a_takeover(path):
    order, inside = [], threading.Event()

    def seize():
        inside.wait()
        with hold_lease(path, "seize", ttl_s=30, wait_s=0, seize=True):
            order.append("seized")

    thread = threading.Thread(target=seize)
    thread.start()
    with hold_lease(path, "work", ttl_s=30, wait_s=0) as lease:
        with lease.fence():
            inside.set()
            time.sleep(0.3)
            order.append("acted")
        thread.join()
        with pytest.raises(LeaseLostError, match="taken over by"), lease.fence():
            order.append("acted again")
    assert order == ["acted", "seized"]


def test_a_holder_on_another_machine_is_waited_for_until_the_lease_ends(path):
    with hold_lease(path, "work", ttl_s=30, wait_s=0):
        pass
    held = msgspec.json.decode(path.read_bytes().splitlines()[0], type=leases.Held)
    elsewhere = msgspec.structs.replace(held.holder, host="another", pid=1)
    # Not for ever, if a clock was set back.
    far = time.time_ns() + 3600 * 10**9
    foreign = msgspec.structs.replace(held, holder=elsewhere, ttl_s=2.0, expires_ns=far)
    path.write_bytes(msgspec.json.encode(foreign))
    with pytest.raises(LeaseError, match="on another"), hold_lease(path, "other", ttl_s=30, wait_s=0.1):
        pass
    with hold_lease(path, "other", ttl_s=30, wait_s=60) as lease:
        assert lease.token > held.token


def test_a_damaged_file_is_a_free_lease_with_a_higher_token(path):
    with hold_lease(path, "work", ttl_s=30, wait_s=0) as first:
        path.write_bytes(b"\0" * 50)
        with hold_lease(path, "other", ttl_s=30, wait_s=0) as second:
            assert second.token > first.token
            with pytest.raises(LeaseLostError), first.fence():
                pass


@pytest.mark.parametrize("seed", range(2))
def test_of_many_contenders_one_acts_at_a_time(path, tmp_path, seed):
    log, threads = [], []

    def work(name):
        for _ in range(3):
            with hold_lease(path, name, ttl_s=30, wait_s=60) as lease, lease.fence():
                log.append((name, "in"))
                time.sleep(0.005)
                log.append((name, "out"))

    for index in range(4):
        threads.append(threading.Thread(target=work, args=(f"worker {index}",)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert len(log) == 24
    assert all(log[i][0] == log[i + 1][0] for i in range(0, 24, 2))


def test_a_file_that_is_no_text_is_free(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b'{"token":1,"purpose":"\xff"}\n')
    assert lease_holder(path) is None
    with hold_lease(path, "publish lob", ttl_s=1, wait_s=0):
        assert lease_holder(path) is not None


def test_a_folder_in_its_place_is_named(path):
    path.mkdir(parents=True)
    for attempt in (lambda: lease_holder(path), lambda: hold_lease(path, "publish", ttl_s=1, wait_s=0).__enter__()):
        with pytest.raises(LeaseError, match="Is a directory"):
            attempt()

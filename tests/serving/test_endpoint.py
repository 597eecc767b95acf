"""Where a server is found, and that there is only one."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from lobsmith.errors import ServingError
from lobsmith.process import start_ticks
from lobsmith.serving.endpoint import Endpoint, read_endpoint, sole_server, write_endpoint
from lobsmith.serving.triton.control import connect
from lobsmith.workspace import Workspace


def endpoint(pid: int, ticks: int) -> Endpoint:
    ports = {"http_port": 1, "grpc_port": 2, "metrics_port": 3, "modes_port": 4}
    return Endpoint(pid=pid, started_ticks=ticks, triton_pid=1, host="127.0.0.1", key="secret", **ports)


def test_a_running_servers_endpoint_is_found(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    written = endpoint(os.getpid(), start_ticks(os.getpid()))
    write_endpoint(workspace, written)
    assert read_endpoint(workspace) == written
    assert connect(workspace).endpoint.http_url == "127.0.0.1:1"
    assert workspace.endpoint.stat().st_mode & 0o777 == 0o600
    assert "secret" not in repr(written)


def test_a_killed_servers_endpoint_counts_as_none(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert connect(workspace) is None
    # The process runs, but started at another time: the pid was reused.
    write_endpoint(workspace, endpoint(os.getpid(), start_ticks(os.getpid()) - 1))
    assert connect(workspace) is None
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    write_endpoint(workspace, endpoint(ended.pid, 1))
    assert connect(workspace) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", msgspec.json.encode({"pid": 1})])
def test_a_damaged_endpoint_counts_as_none(tmp_path: Path, content: bytes) -> None:
    workspace = Workspace(tmp_path)
    workspace.endpoint.parent.mkdir(parents=True)
    workspace.endpoint.write_bytes(content)
    assert read_endpoint(workspace) is None


def test_the_lock_is_exclusive_names_its_holder_and_is_freed(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with sole_server(workspace):
        with pytest.raises(ServingError, match=rf"already runs here \(pid {os.getpid()}\)"), sole_server(workspace):
            pass
        # Children must not inherit the lock.
        holder = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"], close_fds=False)
    try:
        with sole_server(workspace):
            pass
    finally:
        holder.kill()
        holder.wait()

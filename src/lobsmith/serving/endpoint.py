"""Where a running server listens, and the lock that admits one server a workspace."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from msgspec import Struct

from lobsmith import jsonl
from lobsmith.errors import ServingError
from lobsmith.files import write_atomic
from lobsmith.process import start_ticks
from lobsmith.workspace import Workspace


class Endpoint(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A running server: its supervisor, addresses and control key.

    `started_ticks`: the supervisor's start in kernel clock ticks, unlike that of a later process of the same pid.
    """

    pid: int
    started_ticks: int
    triton_pid: int
    host: str
    http_port: int
    grpc_port: int
    metrics_port: int
    modes_port: int
    key: str

    @property
    def http_url(self) -> str:
        """HOST:PORT for a Triton HTTP client."""
        return f"{self.host}:{self.http_port}"

    @property
    def grpc_url(self) -> str:
        """HOST:PORT for a Triton gRPC client."""
        return f"{self.host}:{self.grpc_port}"

    @property
    def metrics_url(self) -> str:
        """The page for Prometheus."""
        return f"http://{self.host}:{self.metrics_port}/metrics"

    @property
    def modes_url(self) -> str:
        """URL of the modes; `/<model>` completes it."""
        return f"http://{self.host}:{self.modes_port}/modes"

    @property
    def page_url(self) -> str:
        """The landing page, without the slash at its end."""
        return f"http://{self.host}:{self.modes_port}"

    def __repr__(self) -> str:
        return f"Endpoint(pid={self.pid}, http={self.http_url}, grpc={self.grpc_url}, key=<hidden>)"


def write_endpoint(workspace: Workspace, endpoint: Endpoint) -> None:
    """Publish the endpoint, readable by its owner only."""
    write_atomic(workspace.endpoint, msgspec.json.encode(endpoint), mode=0o600)


def read_endpoint(workspace: Workspace) -> Endpoint | None:
    """Return the running server's endpoint, None without a server or with a killed server's file."""
    try:
        endpoint = jsonl.decode(workspace.endpoint.read_bytes(), Endpoint)
    except (FileNotFoundError, msgspec.DecodeError, msgspec.ValidationError):
        return None
    except OSError as error:
        raise ServingError(
            f"{workspace.endpoint}: {error.strerror}; only the user who runs `lobsmith serve` may control it"
        ) from error
    return endpoint if start_ticks(endpoint.pid) == endpoint.started_ticks else None


def is_supervised(workspace: Workspace) -> bool:
    """Whether a supervisor runs, be it that Triton is starting."""
    try:
        pid, ticks = map(int, _lock(workspace).read_text().split())
    except (OSError, ValueError):
        return False
    return start_ticks(pid) == ticks


@contextmanager
def sole_server(workspace: Workspace) -> Iterator[None]:
    """Hold the workspace's server lock; the kernel frees it when the process ends.

    Raises:
        ServingError: another server of this workspace runs.
    """
    path = _lock(workspace)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").partition(" ")[0] or "unknown"
            raise ServingError(
                f"{workspace.root}: a server already runs here (pid {holder}); stop it first, or use another --root"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} {start_ticks(os.getpid())}\n".encode(), 0)
        try:
            yield
        finally:
            # This process may outlive its server.
            os.ftruncate(descriptor, 0)
            # Closing is not enough: a child just being started may hold a copy.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def _lock(workspace: Workspace) -> Path:
    return workspace.serving / "serve.lock"

"""What a running server listens on, and the lock that lets only one serve a workspace."""

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
    """A running server: who supervises it, where it listens, and the key of its control calls.

    `started_ticks` is the supervisor's start time in the kernel's clock ticks: with it a process id that was given to
    another process is told from the supervisor's.
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
        """Host and port of the HTTP protocol, as a Triton client takes it."""
        return f"{self.host}:{self.http_port}"

    @property
    def grpc_url(self) -> str:
        """Host and port of the gRPC protocol, as a Triton client takes it."""
        return f"{self.host}:{self.grpc_port}"

    @property
    def metrics_url(self) -> str:
        """The page that Prometheus scrapes."""
        return f"http://{self.host}:{self.metrics_port}/metrics"

    @property
    def modes_url(self) -> str:
        """The pages of modes: one more part of the path is the name of a model."""
        return f"http://{self.host}:{self.modes_port}/modes"

    def __repr__(self) -> str:
        return f"Endpoint(pid={self.pid}, http={self.http_url}, grpc={self.grpc_url}, key=<hidden>)"


def write_endpoint(workspace: Workspace, endpoint: Endpoint) -> None:
    """Publish where the server listens, readable by its owner only."""
    write_atomic(workspace.endpoint, msgspec.json.encode(endpoint), mode=0o600)


def read_endpoint(workspace: Workspace) -> Endpoint | None:
    """Return the endpoint of the workspace's live server, None where there is none.

    A file that a killed server left behind counts as none.
    """
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
    """Say whether somebody serves the workspace, be it that the server is just starting (again)."""
    try:
        pid, ticks = map(int, _lock(workspace).read_text().split())
    except (OSError, ValueError):
        return False
    return start_ticks(pid) == ticks


@contextmanager
def sole_server(workspace: Workspace) -> Iterator[None]:
    """Hold the workspace's server lock.

    The kernel frees it when the process ends, however it ends.

    Raises:
        ServingError: another server of this workspace lives.
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
            # This process may live on without a server.
            os.ftruncate(descriptor, 0)
            # Closing alone is not enough: a child that is just being started may still hold a copy for an instant.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def _lock(workspace: Workspace) -> Path:
    return workspace.serving / "serve.lock"

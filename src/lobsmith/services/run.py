"""State file and lock of `lobsmith up`."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from msgspec import Struct

from lobsmith import jsonl
from lobsmith.errors import ServiceError
from lobsmith.files import write_atomic
from lobsmith.process import Process
from lobsmith.services.service import NEVER_STARTED, Phase, ServiceState
from lobsmith.workspace import Workspace


class Run(Struct, frozen=True, kw_only=True):
    """A `lobsmith up` with its services in start order.

    Attributes:
        started_ns: UTC of the machine.
        page: address of the landing page; empty where Triton is missing.
    """

    process: Process
    started_ns: int
    prefect_api: str
    page: str = ""
    services: tuple[ServiceState, ...] = ()

    @property
    def unready(self) -> tuple[ServiceState, ...]:
        """The services started here that are neither ready nor finished."""
        excluded = (Phase.READY, Phase.FINISHED, *NEVER_STARTED)
        return tuple(service for service in self.services if service.state not in excluded)


def state_path(workspace: Workspace) -> Path:
    """Return the path of the state."""
    return workspace.up / "state.json"


def write_run(workspace: Workspace, run: Run) -> None:
    """Write the state atomically.

    Raises:
        ServiceError: the file cannot be written.
    """
    path = state_path(workspace)
    try:
        write_atomic(path, msgspec.json.encode(run))
    except OSError as error:
        raise file_error(path, error) from error


def read_run(workspace: Workspace) -> Run | None:
    """Return the state, None where no such process runs.

    Raises:
        ServiceError: the file cannot be read.
    """
    path = state_path(workspace)
    try:
        run = jsonl.decode(path.read_bytes(), Run)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    except OSError as error:
        raise file_error(path, error) from error
    return None if run.process.is_dead() else run


def running_prefect(workspace: Workspace) -> str | None:
    """Return the address of the Prefect API of `lobsmith up`; None where none is ready."""
    run = read_run(workspace)
    ready = (Phase.READY, Phase.ELSEWHERE)
    if run is None or not any(service.name == "prefect" and service.state in ready for service in run.services):
        return None
    return run.prefect_api


def lock_holder(workspace: Workspace) -> Process | None:
    """Return the process of the running `lobsmith up`, also without a readable state.

    Raises:
        ServiceError: the lock's file cannot be read.
    """
    path = _lock_path(workspace)
    try:
        process = jsonl.decode(path.read_bytes(), Process)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    except OSError as error:
        raise file_error(path, error) from error
    return process if process.is_here() and not process.is_dead() else None


def _lock_path(workspace: Workspace) -> Path:
    return workspace.up / "up.lock"


@contextmanager
def sole_run(workspace: Workspace) -> Iterator[None]:
    """Hold the lock of `lobsmith up`, which the kernel frees with the process.

    Raises:
        ServiceError: it is held, or its file cannot be written.
    """
    path = _lock_path(workspace)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise file_error(path, error) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            try:
                holder = str(jsonl.decode(os.pread(descriptor, 4096, 0), Process))
            except msgspec.DecodeError:
                holder = "another process"
            raise ServiceError(
                f"{workspace.root}: `lobsmith up` runs here already ({holder}); end it with `lobsmith down`"
            ) from None
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, msgspec.json.encode(Process.this()), 0)
        except OSError as error:
            raise file_error(path, error) from error
        yield
    finally:
        os.close(descriptor)


def file_error(path: Path, error: OSError) -> ServiceError:
    """Return the error of a file."""
    return ServiceError(f"{path}: {error.strerror}; free the disk, or give this user the right to write there")

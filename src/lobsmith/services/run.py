"""What runs in a workspace, on disk: which `lobsmith up` it is, and its services; the lock that lets only one run."""

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
    """A `lobsmith up` and its services, in their order; `started_ns` is UTC ns of the machine."""

    process: Process
    started_ns: int
    prefect_api: str
    services: tuple[ServiceState, ...] = ()

    @property
    def unready(self) -> tuple[ServiceState, ...]:
        """The services that are started here and are neither ready nor at their own end."""
        settled = (Phase.READY, Phase.FINISHED, *NEVER_STARTED)
        return tuple(one for one in self.services if one.state not in settled)


def state_path(workspace: Workspace) -> Path:
    """Return where the state lies."""
    return workspace.up / "state.json"


def write_run(workspace: Workspace, run: Run) -> None:
    """Publish the state.

    Raises:
        ServiceError: the file cannot be written.
    """
    path = state_path(workspace)
    try:
        write_atomic(path, msgspec.json.encode(run))
    except OSError as error:
        raise unusable(path, error) from error


def read_run(workspace: Workspace) -> Run | None:
    """Return what runs, None where nothing does; the state that a killed `lobsmith up` left behind counts as none.

    Raises:
        ServiceError: the file cannot be read.
    """
    path = state_path(workspace)
    try:
        run = jsonl.decode(path.read_bytes(), Run)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    except OSError as error:
        raise unusable(path, error) from error
    return None if run.process.is_dead() else run


def running_prefect(workspace: Workspace) -> str | None:
    """Return the address of the Prefect server that `lobsmith up` uses here, None where there is none that is ready."""
    run = read_run(workspace)
    there = (Phase.READY, Phase.ELSEWHERE)
    ready = run is not None and any(one.name == "prefect" and one.state in there for one in run.services)
    return run.prefect_api if run is not None and ready else None


def holder(workspace: Workspace) -> Process | None:
    """Return the `lobsmith up` that lives here, also while it starts or where its state is spoilt; else None.

    Raises:
        ServiceError: the lock's file cannot be read.
    """
    path = _lock_path(workspace)
    try:
        found = jsonl.decode(path.read_bytes(), Process)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    except OSError as error:
        raise unusable(path, error) from error
    return found if found.is_here() and not found.is_dead() else None


def _lock_path(workspace: Workspace) -> Path:
    return workspace.up / "up.lock"


@contextmanager
def sole_run(workspace: Workspace) -> Iterator[None]:
    """Hold the right to run the workspace's services; the kernel frees it when the process ends, however it ends.

    Raises:
        ServiceError: another `lobsmith up` of this workspace lives, or the lock's file cannot be written.
    """
    path = _lock_path(workspace)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise unusable(path, error) from error
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
            raise unusable(path, error) from error
        yield
    finally:
        os.close(descriptor)


def unusable(path: Path, error: OSError) -> ServiceError:
    """Return the error of a file that cannot be read or written."""
    return ServiceError(f"{path}: {error.strerror}; free the disk, or give this user the right to write there")

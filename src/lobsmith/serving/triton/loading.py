"""Loads listed, valid versions into a server: one load at a time, none while it is busy."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lobsmith.errors import DeadlineError, ServingError
from lobsmith.files import exclusive_lock
from lobsmith.release.repository.repository import Repository
from lobsmith.serving.triton.control import READY, TritonControl, UnreachableError
from lobsmith.serving.triton.loadable import loadable
from lobsmith.workspace import Workspace

_POLL_S = 0.1
_SETTLE_POLL_S = 0.02


@dataclass(frozen=True)
class Loaded:
    """Outcome of a load: READY versions, ascending, and why others were skipped.

    Only a companion may have none READY: the ONNX model answers without plans and score.
    """

    model: str
    ready: tuple[int, ...]
    skipped: dict[int, str]


def load_valid(workspace: Workspace, control: TritonControl, model: str, deadline_s: float) -> Loaded:
    """Serve a model's listed versions that are valid and loadable here, and wait until READY.

    A companion without any is unloaded. New versions are loaded one by one: in one call a failure takes the others
    along, and discarding them crashes Triton now and then (SIGSEGV, about once in thirty such failures).

    Args:
        workspace: of the repository.
        control: of the server.
        model: the model's name.
        deadline_s: for each version.

    Returns:
        What is READY, perhaps nothing, and why others are not.

    Raises:
        UnreachableError: the server went away.
        ReleaseError: a configuration is unreadable.
    """
    repository = Repository.of(workspace)
    with sole_load(workspace, time.monotonic() + deadline_s):
        # Inside the lock: a later load must know what the earlier one knew.
        versions, skipped = loadable(workspace, model)
        ready = set(control.ready_versions(model))
        if not versions and ready and repository.is_companion(model):
            control.unload(model, deadline_s=deadline_s)
        if ready - set(versions) and ready & set(versions):
            _load(control, model, ready & set(versions), deadline_s)
        for version in _order(set(versions) - ready):
            try:
                _load(control, model, {version, *ready} & set(versions), deadline_s)
            except UnreachableError:
                raise
            except DeadlineError:
                skipped[version] = f"not loaded within {deadline_s:.0f} s"
            except ServingError as error:
                skipped[version] = control.failures(model).get(version, str(error))
            ready = set(control.ready_versions(model))
    return Loaded(model=model, ready=tuple(sorted(ready & set(versions))), skipped=skipped)


def _order(versions: set[int]) -> list[int]:
    """Return the load order: the fallback before the newest, which may hang."""
    rising = sorted(versions)
    return [*rising[-2:], *reversed(rising[:-2])]


def _load(control: TritonControl, model: str, versions: set[int], deadline_s: float) -> None:
    """Serve these versions, at most one of them new, and wait until READY.

    Raises:
        DeadlineError: not in time.
        ServingError: Triton cannot load the new one.
    """
    deadline = time.monotonic() + deadline_s
    wait_until_idle(control, model, deadline, versions=versions)
    control.load(model, sorted(versions), deadline_s=max(0.1, deadline - time.monotonic()))
    while not versions <= set(control.ready_versions(model)):
        if time.monotonic() > deadline:
            raise DeadlineError(f"{model}: {', '.join(map(str, versions))} are not READY within {deadline_s:g} s")
        time.sleep(_POLL_S)


def wait_until_idle(
    control: TritonControl, model: str, deadline: float, *, versions: Iterable[int] | None = None
) -> None:
    """Wait until Triton neither loads nor unloads a version of a model: behind a load that hangs it queues control
    calls.

    A call that only drops versions, down to READY `versions`, need not wait for unloads: a rollback is quick.

    Raises:
        ServingError: still busy at `deadline`, monotonic s.
    """
    while True:
        rows = [row for row in control.index() if row.model == model]
        drops = versions is not None and set(versions) <= {row.version for row in rows if row.state == READY}
        busy = [row for row in rows if row.state == "LOADING" or (row.state == "UNLOADING" and not drops)]
        if not busy:
            return
        if time.monotonic() > deadline:
            raise ServingError(
                f"{model}/{busy[0].version}: Triton is still {busy[0].state.lower()} it; try again later"
            )
        time.sleep(_SETTLE_POLL_S)


@contextmanager
def sole_load(workspace: Workspace, deadline: float) -> Iterator[None]:
    """Hold the lock of loads."""
    path, held = workspace.serving / "load.lock", False
    try:
        with exclusive_lock(path, max(0.0, deadline - time.monotonic())):
            held = True
            yield
    except TimeoutError as error:
        if held:
            raise
        raise ServingError(f"{path}: another load has not ended in time; see `lobsmith status`") from error

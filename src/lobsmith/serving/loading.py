"""What a server is given to load: listed versions that are sound, one load at a time, none while it is busy."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import MappingProxyType

from lobsmith.errors import ReleaseError, ServingError
from lobsmith.files import exclusive_lock
from lobsmith.params import Params
from lobsmith.release.config import plans_model
from lobsmith.release.repository import Repository
from lobsmith.serving.control import READY, TritonControl, UnreachableError, connect
from lobsmith.serving.loadable import loadable
from lobsmith.workspace import Workspace

_POLL_S = 0.1
_SETTLE_POLL_S = 0.02


@dataclass(frozen=True)
class Loaded:
    """What a load left behind: the READY versions, rising, and why others were left out.

    Only plans may have no version READY: their ONNX model answers in their place.
    """

    model: str
    ready: tuple[int, ...]
    skipped: dict[int, str]


def load_sound(
    workspace: Workspace,
    control: TritonControl,
    model: str,
    deadline_s: float,
    *,
    without: Mapping[int, str] = MappingProxyType({}),
) -> Loaded:
    """Load a model's listed versions whose hashes hold, and see the newest of them READY.

    Versions whose hashes do not hold are left out because one corrupt directory makes every version unavailable. Plans
    that this machine cannot run are left out too; where none is left the server is told to drop what it has of them.
    So are the versions in `without`, each with a reason.

    Raises:
        ServingError: no version is sound, or the newest sound one is not READY within `deadline_s`. The message names
            the versions that still answer.
    """
    deadline = time.monotonic() + deadline_s
    repository = Repository.of(workspace)
    with sole_load(workspace, deadline):
        # Read inside the lock: of two loads, the later one must know at least what the earlier one knew.
        sound, skipped = loadable(workspace, model)
        versions = [version for version in sound if version not in without]
        skipped |= {version: without[version] for version in sound if version in without}
        if not versions and repository.is_plans(model):
            if control.ready_versions(model):
                control.unload(model, deadline_s=max(0.1, deadline - time.monotonic()))
            return Loaded(model=model, ready=(), skipped=skipped)
        if not versions:
            reasons = "; ".join(skipped.values()) or "config.pbtxt lists none"
            raise ServingError(f"{model}: no version can be served: {reasons}")
        settle(control, model, deadline, versions=versions)
        failure: ServingError | None = None
        try:
            control.load(model, versions, deadline_s=max(0.1, deadline - time.monotonic()))
        except UnreachableError:
            raise
        except ServingError as error:
            failure = error
        newest = max(versions)
        ready = control.ready_versions(model)
        while failure is None and newest not in ready and time.monotonic() < deadline:
            time.sleep(_POLL_S)
            ready = control.ready_versions(model)
    if newest not in ready:
        why = str(failure) if failure else f"it is not READY after {deadline_s:g} s"
        serving = f"versions {', '.join(map(str, ready))} answer" if ready else "no version answers"
        raise ServingError(f"{model}/{newest}: {why}; {serving}") from failure
    skipped |= {version: str(failure or "it is not READY") for version in versions if version not in ready}
    return Loaded(model=model, ready=tuple(ready), skipped=skipped)


def settle(control: TritonControl, model: str, deadline: float, *, versions: Iterable[int] | None = None) -> None:
    """Wait until Triton is neither loading nor unloading a version of a model, so that it can be told to do either.

    A load while the remains of one that failed are being unloaded crashes it (SIGSEGV, 3 times of 51), and behind a
    load that hangs it queues the model's control calls, to carry them out when they are out of date. A call that only
    drops some of the versions that are READY, down to `versions`, need not wait for unloads: rolling back is quick.

    Raises:
        ServingError: it is still loading or unloading at `deadline`, on the monotonic clock.
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


def activate(workspace: Workspace, params: Params, model: str) -> Loaded:
    """Have the running server serve what the repository lists for a model, and its plans follow.

    A server that is starting again is waited for.

    Raises:
        ServingError: no server runs, the model's newest listed version is not sound (the server then keeps what it
            serves), or it is not READY within `serving.load_deadline_s`.
    """
    deadline = time.monotonic() + params.serving.load_deadline_s
    repository = Repository.of(workspace)
    active = repository.active(model)
    if active is None:
        raise ServingError(f"{model}: config.pbtxt lists no version; publish one first")
    sound, skipped = loadable(workspace, model)
    if active not in sound:
        raise ServingError(f"{model}/{active}: {skipped.get(active, 'not sound')}; the server keeps what it serves")
    while True:
        control = connect(workspace)
        if control is None:
            raise ServingError(f"{workspace.root}: no server runs here; start one with `lobsmith serve`")
        try:
            loaded = load_sound(workspace, control, model, max(0.1, deadline - time.monotonic()))
        except UnreachableError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL_S)
        else:
            break
    # The model answers, whatever becomes of its plans.
    with suppress(ReleaseError, ServingError):
        if repository.is_plans(plans_model(model)):
            load_sound(workspace, control, plans_model(model), max(0.1, deadline - time.monotonic()))
    return loaded


@contextmanager
def sole_load(workspace: Workspace, deadline: float) -> Iterator[None]:
    """Let one process at a time decide which versions the server loads."""
    path, held = workspace.serving / "load.lock", False
    try:
        with exclusive_lock(path, max(0.0, deadline - time.monotonic())):
            held = True
            yield
    except TimeoutError as error:
        if held:
            raise
        raise ServingError(f"{path}: another load has not ended in time; look at `lobsmith status`") from error

"""The running server for publications: calls that survive a restart of Triton."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from lobsmith.errors import ReleaseError, ServingError
from lobsmith.params import Params
from lobsmith.release.repository.repository import Repository
from lobsmith.release.version.names import companions
from lobsmith.serving.endpoint import is_supervised
from lobsmith.serving.triton.control import TritonControl, UnreachableError, connect
from lobsmith.serving.triton.loadable import loadable
from lobsmith.serving.triton.loading import Loaded, load_valid, sole_load, wait_until_idle
from lobsmith.serving.triton.warmup import ask_once, ask_score, forget, warm_up, warmed_up
from lobsmith.workspace import Workspace

_POLL_S = 0.02
_GONE = ("", "UNAVAILABLE")


def running_server(workspace: Workspace, params: Params) -> "RunningServer | None":
    """Return the workspace's server, be it that Triton is starting; None without a supervisor."""
    return RunningServer(workspace, params) if is_supervised(workspace) else None


class RunningServer:
    """The supervised Triton of a workspace, a `lobsmith.release.context.Server`.

    A call during which Triton exits is repeated after its restart.
    """

    def __init__(self, workspace: Workspace, params: Params) -> None:
        self._workspace = workspace
        self._deadline_s = params.serving.load_deadline_s
        self._warmup_rows = params.serving.warmup_rows

    def serve(self, model: str, version: int) -> None:
        """See `lobsmith.release.context.Server.serve`; companions follow where they can be loaded.

        A version that was not READY or never warmed up answers `serving.warmup_rows` real rows first, others one; a
        drift score answers one block of zeros.

        Raises:
            ServingError: `version` is not listed, invalid (the server keeps what it serves), not READY within
                `serving.load_deadline_s` or answers wrongly; or no server runs any more.
        """
        deadline = time.monotonic() + self._deadline_s

        def attempt(control: TritonControl) -> None:
            self._check(model, version)
            warmed = warmed_up(self._workspace, model, version) if version in control.ready_versions(model) else None
            loaded = load_valid(self._workspace, control, model, _left(deadline))
            if version not in loaded.ready:
                reason = loaded.skipped.get(version, "it is not READY")
                raise ServingError(f"{model}/{version}: {reason}; {_ready_versions(loaded)}")
            # READY means loaded, not answering.
            repository = Repository.of(self._workspace)
            if repository.is_score(model):
                ask_score(repository, control.endpoint, model, version)
            elif warmed is None:
                warm_up(self._workspace, control.endpoint, model, version, self._warmup_rows)
            else:
                ask_once(self._workspace, control.endpoint, warmed)
            for companion in companions(model):
                # The model answers without its companions.
                with suppress(ReleaseError, ServingError):
                    if repository.is_companion(companion):
                        load_valid(self._workspace, control, companion, _left(deadline))

        self._repeat_over_restarts(attempt, deadline)

    def withdraw(self, model: str, versions: Sequence[int]) -> None:
        """See `lobsmith.release.context.Server.withdraw`; without a server nothing is done.

        Raises:
            ServingError: still loaded after `serving.load_deadline_s`, or still listed beside others.
        """
        deadline = time.monotonic() + self._deadline_s
        unwanted = set(versions)

        def attempt(control: TritonControl) -> None:
            self._unload(control, model, unwanted, deadline)
            while loaded := unwanted & _loaded(control, model):
                if time.monotonic() > deadline:
                    raise ServingError(
                        f"{model}: version {min(loaded)} is still loaded after {self._deadline_s:g} s; "
                        "see `lobsmith status`, or restart the server"
                    )
                time.sleep(_POLL_S)

        if is_supervised(self._workspace):
            self._repeat_over_restarts(attempt, deadline)
        for version in unwanted:
            forget(self._workspace, model, version)

    def _check(self, model: str, version: int) -> None:
        valid, skipped = loadable(self._workspace, model)
        if version not in valid:
            reason = skipped.get(version, "config.pbtxt does not list it")
            raise ServingError(f"{model}/{version}: {reason}; the server keeps what it serves")

    def _unload(self, control: TritonControl, model: str, unwanted: set[int], deadline: float) -> None:
        listed = set(Repository.of(self._workspace).listed(model))
        if listed - unwanted:
            if listed & unwanted:
                raise ServingError(f"{model}/{min(listed & unwanted)}: it is listed; list other versions first")
            if unwanted & set(control.ready_versions(model)):
                load_valid(self._workspace, control, model, _left(deadline))
            return
        with sole_load(self._workspace, deadline):
            wait_until_idle(control, model, deadline)
            if control.ready_versions(model):
                control.unload(model, deadline_s=_left(deadline))

    def _repeat_over_restarts(self, attempt: Callable[[TritonControl], None], deadline: float) -> None:
        while True:
            control = connect(self._workspace)
            try:
                if control is not None:
                    return attempt(control)
                if not is_supervised(self._workspace):
                    raise ServingError(
                        f"{self._workspace.root}: no server runs here any more; start one with `lobsmith serve`"
                    )
                if time.monotonic() > deadline:
                    raise ServingError(
                        f"{self._workspace.root}: the server has not restarted within {self._deadline_s:g} s"
                    )
            except UnreachableError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(_POLL_S)


def _loaded(control: TritonControl, model: str) -> set[int]:
    return {row.version for row in control.index() if row.model == model and row.version and row.state not in _GONE}


def _left(deadline: float) -> float:
    return max(0.1, deadline - time.monotonic())


def _ready_versions(loaded: Loaded) -> str:
    return f"versions {', '.join(map(str, loaded.ready))} answer" if loaded.ready else "no version answers"

"""The lines below the table of services: models in service, next flow runs."""

import threading
import time

import msgspec
from msgspec import Struct

from lobsmith import jsonl
from lobsmith.errors import LobsmithError
from lobsmith.services.flows.schedule import NextRun, next_runs
from lobsmith.workspace import Workspace

_PERIOD_S = 10.0
_FIRST_PERIOD_S = 1.0


class InService(Struct, frozen=True, kw_only=True):
    """The fields of `PublishedMode` that need no further imports."""

    model: str
    version: int
    mode: str
    reason: str


class Overview(Struct, frozen=True, kw_only=True):
    """State at the last poll."""

    models: tuple[InService, ...] = ()
    next_runs: tuple[NextRun, ...] = ()


class OverviewThread:
    """Polls in a thread, so that a hanging server does not block the table; `api` is Prefect's, None until ready."""

    def __init__(self, workspace: Workspace) -> None:
        self.overview = Overview()
        self.api: str | None = None
        self._workspace = workspace
        threading.Thread(target=self._run, name="overview", daemon=True).start()

    def _run(self) -> None:
        while True:
            self.overview = Overview(models=models_in_service(self._workspace), next_runs=self._next_runs())
            time.sleep(_PERIOD_S if self.overview.next_runs else _FIRST_PERIOD_S)

    def _next_runs(self) -> tuple[NextRun, ...]:
        if self.api is None:
            return ()
        try:
            return tuple(next_runs(self.api))
        except LobsmithError:
            return ()


def models_in_service(workspace: Workspace) -> tuple[InService, ...]:
    """Return the published modes that can be read."""
    models = []
    for path in sorted(workspace.modes.glob("*.json")):
        try:
            models.append(jsonl.decode(path.read_bytes(), InService))
        except (OSError, msgspec.DecodeError):
            continue
    return tuple(models)

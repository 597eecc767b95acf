"""What stands below the table of services: which models are in service, and which flows run next."""

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
    """What the record of a model's mode says: a part of `PublishedMode`, without the libraries that the rest needs."""

    model: str
    version: int
    mode: str
    reason: str


class Overview(Struct, frozen=True, kw_only=True):
    """What was known at the last look."""

    models: tuple[InService, ...] = ()
    next_runs: tuple[NextRun, ...] = ()


class OverviewThread:
    """Looks every few seconds: a server that hangs must not hold the table up.

    `api` is Prefect's address, None for as long as it does not answer.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.overview = Overview()
        self.api: str | None = None
        self._workspace = workspace
        threading.Thread(target=self._run, name="overview", daemon=True).start()

    def _run(self) -> None:
        while True:
            self.overview = Overview(models=models_in_service(self._workspace), next_runs=self._due())
            time.sleep(_PERIOD_S if self.overview.next_runs else _FIRST_PERIOD_S)

    def _due(self) -> tuple[NextRun, ...]:
        if self.api is None:
            return ()
        try:
            return tuple(next_runs(self.api))
        except LobsmithError:
            return ()


def models_in_service(workspace: Workspace) -> tuple[InService, ...]:
    """Return what the modes' records say; one that cannot be read is left to `lobsmith status`."""
    found = []
    for path in sorted(workspace.modes.glob("*.json")):
        try:
            found.append(jsonl.decode(path.read_bytes(), InService))
        except (OSError, msgspec.DecodeError):
            continue
    return tuple(found)

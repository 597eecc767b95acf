"""Which instruments a version has learnt: about others it may be asked, but its answers may not be acted on."""

import math
import time

from lobsmith.errors import LobsmithError, UnlearntInstrumentError
from lobsmith.progress import console
from lobsmith.release.repository.repository import Repository
from lobsmith.release.version.manifest import read_manifest
from lobsmith.release.version.names import candidate_model, plans_model
from lobsmith.trading.transport.base import Transport
from lobsmith.workspace import Workspace

_RETRY_S = 1.0
"""Between two lookups of what a version has learnt, where the server does not say, s."""


class LearntInstruments:
    """Holds a stream's instrument against what each version that answers it has learnt.

    The manifest of the version says so; where the server is another machine's, the model's configuration does, of its
    newest version. A version of which neither is known is taken to have learnt it, which is said once; where the server
    did not answer it is asked again.
    """

    def __init__(
        self, workspace: Workspace, transport: Transport, model: str, instrument: str, *, remote: bool
    ) -> None:
        """Ask nothing yet.

        Args:
            workspace: has the manifests, unless the server is `remote`.
            transport: to the server.
            model: the production model.
            instrument: `venue:symbol` of the stream.
            remote: the server is not the workspace's.
        """
        self._workspace = workspace
        self._transport = transport
        self._model = model
        self._instrument = instrument
        self._remote = remote
        self._silent = False
        self._about: tuple[str, int] | None = None
        self._again_s = 0.0
        self.fault: str | None = None

    def require(self, version: int) -> None:
        """Refuse a version of the model that has learnt other instruments.

        Raises:
            UnlearntInstrumentError: it has; the message names both and the way out.
        """
        fault = self.check(self._model, version)
        if fault is not None:
            raise UnlearntInstrumentError(f"{fault}; {self._way_out()}, or pass --allow-other-instrument")

    def check(self, model: str | None, version: int | None) -> str | None:
        """Say what is wrong with the version that answers now, None where nothing is; looked up once a version.

        Where the lookup fails, it is repeated with a later answer.
        """
        if version is None:
            return self.fault
        name = self._model if model in (None, plans_model(self._model)) else model
        assert name is not None  # noqa: S101 - mypy does not narrow by membership
        if self._about != (name, version) or time.monotonic() >= self._again_s:
            self._about, self._again_s = (name, version), math.inf
            self.fault = self._judge(name, version)
        return self.fault

    def _way_out(self) -> str:
        slot = candidate_model(self._model)
        try:
            repository = Repository.of(self._workspace)
            candidate = None if self._remote else repository.active(slot)
            if candidate is not None and read_manifest(repository.directory(slot, candidate)).has_learnt(
                self._instrument
            ):
                return f"its candidate {candidate} has: put that in service (lobsmith models promote {candidate})"
        except LobsmithError:
            pass  # it is replaced just now; what can be done without it is true as well
        return "train on it (lobsmith retrain --capture FILE...)"

    def _judge(self, model: str, version: int) -> str | None:
        learnt = self._learnt(model, version)
        if not learnt:
            if not self._silent:
                console.print(f"{model} {version} does not say what it has learnt; taken to know {self._instrument}")
            self._silent = True
            return None
        if self._instrument in learnt:
            return None
        return f"{model} {version} has learnt {', '.join(learnt)}, not {self._instrument}"

    def _learnt(self, model: str, version: int) -> tuple[str, ...]:
        try:
            if not self._remote:
                manifest = read_manifest(self._workspace.repository / model / str(version))
                return tuple(map(str, manifest.instruments))
        except LobsmithError:
            pass  # the workspace has no such version: the server says what it knows
        try:
            return self._transport.describe(model).instruments
        except LobsmithError:
            self._again_s = time.monotonic() + _RETRY_S
            return ()

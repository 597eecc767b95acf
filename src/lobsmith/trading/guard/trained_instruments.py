"""The instruments that a version was trained on: predictions for others are not actionable."""

import math
import time

from lobsmith.errors import LobsmithError, UntrainedInstrumentError
from lobsmith.progress import console
from lobsmith.release.repository.repository import Repository
from lobsmith.release.version.manifest import read_manifest
from lobsmith.release.version.names import candidate_model, plans_model
from lobsmith.trading.transport.base import Transport
from lobsmith.workspace import Workspace

_RETRY_S = 1.0
"""Between lookups while the server does not answer, s."""


class TrainedInstruments:
    """Checks a stream's instrument against those that each answering version was trained on.

    Source: the manifest, or the model's configuration on a remote server. Where unknown, the version passes with one
    warning. A failed lookup is repeated.
    """

    def __init__(
        self, workspace: Workspace, transport: Transport, model: str, instrument: str, *, remote: bool
    ) -> None:
        """Prepare; nothing is looked up yet.

        Args:
            workspace: has the manifests, unless `remote`.
            transport: to the server.
            model: the production model.
            instrument: `venue:symbol`.
            remote: the server is outside the workspace.
        """
        self._workspace = workspace
        self._transport = transport
        self._model = model
        self._instrument = instrument
        self._remote = remote
        self._warned = False
        self._checked_version: tuple[str, int] | None = None
        self._retry_at_s = 0.0
        self.fault: str | None = None

    def require(self, version: int) -> None:
        """Refuse a version that was trained on other instruments only.

        Raises:
            UntrainedInstrumentError: it names both, and the remedy.
        """
        fault = self.check(self._model, version)
        if fault is not None:
            raise UntrainedInstrumentError(f"{fault}; {self._remedy()}, or pass --allow-other-instrument")

    def check(self, model: str | None, version: int | None) -> str | None:
        """Return the answering version's mismatch, None without one; looked up once a version."""
        if version is None:
            return self.fault
        name = self._model if model in (None, plans_model(self._model)) else model
        assert name is not None  # noqa: S101 - mypy does not narrow by membership
        if self._checked_version != (name, version) or time.monotonic() >= self._retry_at_s:
            self._checked_version, self._retry_at_s = (name, version), math.inf
            self.fault = self._mismatch(name, version)
        return self.fault

    def _remedy(self) -> str:
        deployment = candidate_model(self._model)
        try:
            repository = Repository.of(self._workspace)
            candidate = None if self._remote else repository.active(deployment)
            if candidate is not None and read_manifest(repository.directory(deployment, candidate)).was_trained_on(
                self._instrument
            ):
                return f"its candidate {candidate} was: put it in service (lobsmith models promote {candidate})"
        except LobsmithError:
            pass  # being replaced; the other remedy holds as well
        return "train on it (lobsmith retrain --capture FILE...)"

    def _mismatch(self, model: str, version: int) -> str | None:
        instruments = self._instruments_of(model, version)
        if not instruments:
            if not self._warned:
                console.print(f"{model} {version} lists no instruments; assumed to be trained on {self._instrument}")
            self._warned = True
            return None
        if self._instrument in instruments:
            return None
        return f"{model} {version} was trained on {', '.join(instruments)}, not {self._instrument}"

    def _instruments_of(self, model: str, version: int) -> tuple[str, ...]:
        try:
            if not self._remote:
                manifest = read_manifest(self._workspace.repository / model / str(version))
                return tuple(map(str, manifest.instruments))
        except LobsmithError:
            pass  # not in the workspace: ask the server
        try:
            return self._transport.describe(model).instruments
        except LobsmithError:
            self._retry_at_s = time.monotonic() + _RETRY_S
            return ()

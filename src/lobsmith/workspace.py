"""Where a project's files lie."""

import os
from dataclasses import dataclass
from pathlib import Path

from lobsmith import clock

MLFLOW_URI = "LOBSMITH_MLFLOW_URI"
SQLITE = "sqlite:///"


@dataclass(frozen=True)
class Workspace:
    """The folders of one project, all below `root` and therefore on one filesystem.

    `model_repository/` is what Triton serves; everything else that lobsmith writes lies under `.lobsmith/`.
    """

    root: Path

    @classmethod
    def open(cls, root: Path) -> "Workspace":
        """Return the workspace of a folder, by whose clock this process goes from now on.

        Raises:
            ClockError: its clock is spoilt.
        """
        workspace = cls(root.resolve())
        clock.use(workspace.clock)
        return workspace

    @property
    def params(self) -> Path:
        """The parameters: `params.yaml`."""
        return self.root / "params.yaml"

    @property
    def repository(self) -> Path:
        """The Triton model repository: `<model>/<version>/`."""
        return self.root / "model_repository"

    @property
    def home(self) -> Path:
        """All state that is not the model repository."""
        return self.root / ".lobsmith"

    @property
    def clock(self) -> Path:
        """What time it is, where that is not the machine's time."""
        return self.home / "clock.json"

    @property
    def market(self) -> Path:
        """The store of market data: `<venue>/<symbol>/<UTC day>.parquet`."""
        return self.home / "market"

    @property
    def captures(self) -> Path:
        """Raw captures of live feeds: `<market>-<symbol>-<UTC time>.gz`."""
        return self.home / "captures"

    @property
    def staging(self) -> Path:
        """Where a version is put together before one rename publishes it."""
        return self.home / "staging"

    @property
    def journal(self) -> Path:
        """The append-only record of every publication, one JSON object a line."""
        return self.home / "journal.jsonl"

    @property
    def lease(self) -> Path:
        """Whose turn it is to change the repository."""
        return self.home / "publish.lease"

    @property
    def intent(self) -> Path:
        """What that one is about to do."""
        return self.home / "intent.json"

    @property
    def reconcile_lease(self) -> Path:
        """Whose turn it is to make the repository follow the registry."""
        return self.home / "reconcile.lease"

    @property
    def quarantine(self) -> Path:
        """What was taken out of the repository for a person to look at."""
        return self.home / "set_aside"

    @property
    def predictions(self) -> Path:
        """The prediction logs, `<model>.db`: one for each production model, its candidate and fallback included."""
        return self.home / "predictions"

    @property
    def alerts(self) -> Path:
        """What a person should look at, one JSON object a line."""
        return self.home / "alerts.jsonl"

    @property
    def monitor_lease(self) -> Path:
        """Whose turn it is to watch the active version."""
        return self.home / "monitor.lease"

    @property
    def drift(self) -> Path:
        """What looks for drift leave: past pairs, reports, and `evidently/`, the workspace of Evidently's pages."""
        return self.home / "drift"

    @property
    def drift_lease(self) -> Path:
        """Whose turn it is to look for drift."""
        return self.home / "drift.lease"

    @property
    def modes(self) -> Path:
        """The mode of each production model, `<model>.json`, and `journal.jsonl`, every change of one."""
        return self.home / "modes"

    @property
    def retrain_lease(self) -> Path:
        """Whose turn it is to train."""
        return self.home / "retrain.lease"

    @property
    def reserve(self) -> Path:
        """A file that only keeps room on the disk for a rollback."""
        return self.home / "reserve"

    @property
    def keys(self) -> Path:
        """The publisher's signing key (mode 0600) and the public keys that are trusted."""
        return self.home / "keys"

    @property
    def runs(self) -> Path:
        """One folder of intermediate files for each run of the retrain flow."""
        return self.home / "runs"

    @property
    def timing_cache(self) -> Path:
        """What TensorRT has timed already, a file for each builder, its version and GPU."""
        return self.home / "timing"

    @property
    def prefect(self) -> Path:
        """Prefect's home."""
        return self.home / "prefect"

    @property
    def mlflow_uri(self) -> str:
        """MLflow's tracking and registry store: the server that LOBSMITH_MLFLOW_URI names, else a file of our own."""
        return os.environ.get(MLFLOW_URI) or f"{SQLITE}{self.home / 'mlflow.db'}"

    @property
    def mlflow_artifacts(self) -> Path:
        """MLflow's artifacts."""
        return self.home / "mlartifacts"

    @property
    def up(self) -> Path:
        """What `lobsmith up` runs: `state.json`, and `logs/`, a file a service."""
        return self.home / "up"

    @property
    def serving(self) -> Path:
        """Scratch folder of the embedded Triton: backends, logs, working directory."""
        return self.home / "serving"

    @property
    def endpoint(self) -> Path:
        """What a running server listens on and the key of its control calls (mode 0600)."""
        return self.serving / "endpoint.json"

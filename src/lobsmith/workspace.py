"""Paths of a project's files."""

import os
from dataclasses import dataclass
from pathlib import Path

from lobsmith import clock
from lobsmith.errors import ParamsError

ROOT = "LOBSMITH_ROOT"
"""Environment variable of the project's folder."""
MLFLOW_URI = "LOBSMITH_MLFLOW_URI"
SQLITE = "sqlite:///"


@dataclass(frozen=True)
class Workspace:
    """The files of a project below `root`, on one filesystem: `model_repository/`, and `.lobsmith/` for all else."""

    root: Path

    @classmethod
    def open(cls, root: Path) -> "Workspace":
        """Return the workspace of a folder, and use its clock in this process.

        Raises:
            ClockError: the clock's file is corrupt.
        """
        workspace = cls(root.resolve())
        clock.use(workspace.clock)
        return workspace

    @classmethod
    def find(cls, root: "Workspace | Path | str | None" = None) -> "Workspace":
        """Return the workspace of a project, and use its clock in this process.

        Args:
            root: the project's folder, or its workspace as it is. By default LOBSMITH_ROOT, else the nearest folder
                with `params.yaml`, from the current one upwards.

        Raises:
            ParamsError: there is no project.
            ClockError: the clock's file is corrupt.
        """
        if isinstance(root, Workspace):
            return root
        named = root if root is not None else os.environ.get(ROOT)
        folder = Path(named or ".").resolve()
        found = [place for place in ([folder] if named else [folder, *folder.parents]) if cls(place).params.is_file()]
        if not found:
            above = "" if named else " or above it"
            raise ParamsError(f"{folder}: no params.yaml there{above}; pass root=DIR, the project's folder")
        return cls.open(found[0])

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
        """All state except the model repository."""
        return self.root / ".lobsmith"

    @property
    def clock(self) -> Path:
        """The workspace's time where it differs from the machine's."""
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
        """Where a version is built before a rename publishes it."""
        return self.home / "staging"

    @property
    def journal(self) -> Path:
        """The append-only journal of publications, JSON lines."""
        return self.home / "journal.jsonl"

    @property
    def lease(self) -> Path:
        """The lease to change the repository."""
        return self.home / "publish.lease"

    @property
    def intent(self) -> Path:
        """The action that the lease's holder is about to carry out."""
        return self.home / "intent.json"

    @property
    def reconcile_lease(self) -> Path:
        """The lease to reconcile the repository with the registry."""
        return self.home / "reconcile.lease"

    @property
    def quarantine(self) -> Path:
        """Versions taken out of the repository, for inspection."""
        return self.home / "set_aside"

    @property
    def predictions(self) -> Path:
        """The prediction logs `<model>.db`, one per production model with its candidate and fallback."""
        return self.home / "predictions"

    @property
    def alerts(self) -> Path:
        """Alerts, JSON lines."""
        return self.home / "alerts.jsonl"

    @property
    def monitor_lease(self) -> Path:
        """The lease to monitor the active version."""
        return self.home / "monitor.lease"

    @property
    def drift(self) -> Path:
        """Files of drift checks: history, reports, and `evidently/`, the workspace of Evidently's pages."""
        return self.home / "drift"

    @property
    def drift_lease(self) -> Path:
        """The lease to run a drift check."""
        return self.home / "drift.lease"

    @property
    def modes(self) -> Path:
        """The mode of each production model, `<model>.json`, and all transitions, `journal.jsonl`."""
        return self.home / "modes"

    @property
    def retrain_lease(self) -> Path:
        """The lease to retrain."""
        return self.home / "retrain.lease"

    @property
    def reserve(self) -> Path:
        """A file that reserves disk space for a rollback."""
        return self.home / "reserve"

    @property
    def keys(self) -> Path:
        """The publisher's signing key (mode 0600) and the trusted public keys."""
        return self.home / "keys"

    @property
    def reports(self) -> Path:
        """Pages of `lobsmith report` and of shadow evaluations."""
        return self.home / "reports"

    @property
    def runs(self) -> Path:
        """Intermediate files, a folder per run of the retrain flow."""
        return self.home / "runs"

    @property
    def timing_cache(self) -> Path:
        """TensorRT's timing caches, a file per builder, version and GPU."""
        return self.home / "timing"

    @property
    def prefect(self) -> Path:
        """Prefect's home."""
        return self.home / "prefect"

    @property
    def mlflow_uri(self) -> str:
        """MLflow's tracking and registry store: LOBSMITH_MLFLOW_URI, else `mlflow.db`."""
        return os.environ.get(MLFLOW_URI) or f"{SQLITE}{self.home / 'mlflow.db'}"

    @property
    def mlflow_artifacts(self) -> Path:
        """MLflow's artifacts."""
        return self.home / "mlartifacts"

    @property
    def up(self) -> Path:
        """State of `lobsmith up`, `state.json`, and `logs/`, a file per service."""
        return self.home / "up"

    @property
    def serving(self) -> Path:
        """Folder of the embedded Triton: backends, logs, working directory."""
        return self.home / "serving"

    @property
    def endpoint(self) -> Path:
        """Addresses of the running server and the key of its control calls (mode 0600)."""
        return self.serving / "endpoint.json"

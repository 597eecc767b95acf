"""Access to MLflow: every call has a deadline, every failure is one error that names the place.

MLflow is an SQLite file of the workspace, or the server at `LOBSMITH_MLFLOW_URI` (`https://mlflow.example:5000`), with
credentials in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, never in the address.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx

from lobsmith import telemetry
from lobsmith.errors import RegistryError, ReleaseError
from lobsmith.files import exclusive_lock
from lobsmith.workspace import SQLITE, Workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient

_REACH_DEADLINE_S = 5.0
_FIRST_USE_DEADLINE_S = 60.0
# MLflow's defaults: 120 s, eight attempts.
_HTTP_LIMITS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT": "120",
}
# MLflow's error codes for an invalid request.
_REFUSALS = {
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "PERMISSION_DENIED",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
}

_opened: set[str] = set()


@contextmanager
def mlflow_store(workspace: Workspace) -> Iterator["MlflowClient"]:
    """Open the workspace's MLflow store; made on first use, which takes seconds.

    Raises:
        RegistryError: it cannot be reached, is locked, or does not answer in time.
        ReleaseError: it refused a call, or its address is invalid.
    """
    telemetry.turn_off()
    # MLflow reads the first two at import, which takes seconds and is deferred.
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name, value in _HTTP_LIMITS.items():
        os.environ.setdefault(name, value)
    uri = workspace.mlflow_uri
    if uri not in _opened:
        _open_first(workspace, uri)
    _check_reachable(uri)
    import mlflow
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    try:
        yield mlflow.MlflowClient(uri, uri)
    except MlflowException as error:
        kind = ReleaseError if error.error_code in _REFUSALS else RegistryError
        raise kind(f"{uri}: MLflow refused: {_first_line(error)}") from error
    except SQLAlchemyError as error:
        raise RegistryError(f"{uri}: MLflow's database failed: {_first_line(error)}") from error
    except OSError as error:
        raise RegistryError(f"{uri}: MLflow's files cannot be used: {_first_line(error)}") from error


def _open_first(workspace: Workspace, uri: str) -> None:
    """Have one process at a time make MLflow's tables: concurrent ones corrupt them."""
    if not uri.startswith(SQLITE):
        _opened.add(uri)
        return
    path = workspace.home / "mlflow.lock"
    try:
        with exclusive_lock(path, _FIRST_USE_DEADLINE_S):
            _check_reachable(uri)
            import mlflow
            from mlflow.exceptions import MlflowException
            from sqlalchemy.exc import SQLAlchemyError

            try:
                mlflow.MlflowClient(uri, uri).search_registered_models(max_results=1)
            except (MlflowException, SQLAlchemyError) as error:
                raise RegistryError(f"{uri}: MLflow's database cannot be opened: {_first_line(error)}") from error
    except TimeoutError as error:
        raise RegistryError(
            f"{path}: another process has been opening MLflow's database for {_FIRST_USE_DEADLINE_S:g} s; end it"
        ) from error
    except OSError as error:
        raise RegistryError(f"{path}: {error.strerror}; MLflow's database cannot be opened") from error
    _opened.add(uri)


def _check_reachable(uri: str) -> None:
    """Detect within seconds a locked, foreign or unreachable store, which MLflow would retry for minutes."""
    if uri.startswith(SQLITE):
        _check_database(Path(uri.removeprefix(SQLITE)))
    elif urlsplit(uri).scheme in ("http", "https"):
        _check_server(uri)
    else:
        raise ReleaseError(f"{urlsplit(uri).scheme}: not an address that lobsmith uses MLflow at; name an http(s) one")


def _check_server(uri: str) -> None:
    if "@" in urlsplit(uri).netloc:
        raise ReleaseError("LOBSMITH_MLFLOW_URI holds credentials; set MLFLOW_TRACKING_USERNAME and _PASSWORD instead")
    try:
        status = httpx.get(f"{uri.rstrip('/')}/health", timeout=_REACH_DEADLINE_S).status_code
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise RegistryError(
            f"{uri}: the MLflow server does not answer: {_first_line(error)}; start it, or unset LOBSMITH_MLFLOW_URI"
        ) from error
    if status >= httpx.codes.INTERNAL_SERVER_ERROR:
        raise RegistryError(f"{uri}: the MLflow server answers with HTTP {status}; see its log")


def _check_database(path: Path) -> None:
    if not path.exists():
        return
    try:
        with closing(sqlite3.connect(path, timeout=_REACH_DEADLINE_S, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        raise RegistryError(
            f"{path}: MLflow's database cannot be used: {error}; end the process that holds it, or move the file away"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

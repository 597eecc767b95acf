"""MLflow's server over the workspace's store, in one process: `python -m … ROOT PORT`.

Without the worker process and job queue of `mlflow server`, whose worker gets the same variables.
"""

import os
import sys
from pathlib import Path

from lobsmith import telemetry
from lobsmith.errors import LobsmithError
from lobsmith.release.registry.mlflow_store import mlflow_store
from lobsmith.services.service import DRAIN_S
from lobsmith.serving.ports import HOST
from lobsmith.workspace import Workspace


def main(root: Path, port: int) -> None:
    """Serve until SIGTERM."""
    telemetry.turn_off()
    try:
        workspace = Workspace.open(root)
        # Creates the tables under lobsmith's lock, as flows do.
        with mlflow_store(workspace):
            pass
    except LobsmithError as error:
        sys.exit(f"Error: {error}")
    os.environ.update(
        _MLFLOW_SERVER_FILE_STORE=workspace.mlflow_uri,
        _MLFLOW_SERVER_REGISTRY_STORE=workspace.mlflow_uri,
        _MLFLOW_SERVER_ARTIFACT_ROOT=workspace.mlflow_artifacts.as_uri(),
        _MLFLOW_SGI_NAME="uvicorn",
        MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",
    )
    import uvicorn

    uvicorn.run(
        "mlflow.server.fastapi_app:app", host=HOST, port=port, access_log=False, timeout_graceful_shutdown=DRAIN_S
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

"""Predictions of a published version for captured files, as a table."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lobsmith.compress import MODEL
from lobsmith.compress.runtime import OnnxModel
from lobsmith.errors import DataError, ServingError
from lobsmith.evaluation.stream import stream_predictions
from lobsmith.features.captured import read_dataset
from lobsmith.features.frame import outcomes
from lobsmith.params import Params, load_params
from lobsmith.release.repository.repository import Repository
from lobsmith.release.version.contract import CLASSES, OUTLOOKS
from lobsmith.trading.guard.trained_instruments import TrainedInstruments
from lobsmith.trading.session import check_definitions
from lobsmith.trading.transport import open_transport
from lobsmith.workspace import Workspace

if TYPE_CHECKING:
    import polars as pl


def predict(
    *files: Path | str,
    root: Workspace | Path | str | None = None,
    params: Params | None = None,
    model: str | None = None,
    version: int | None = None,
    outlook: bool = False,
    allow_other_instrument: bool = False,
) -> "pl.DataFrame":
    """Predict captured files with a published version, in this process: a row per complete feature row.

    | column | type | meaning |
    |---|---|---|
    | `time` | Datetime, ns, UTC | local receive time |
    | `segment` | Int64 | number of the gap-free segment; each starts from a cold state |
    | `mid` | Float64 | mean of best bid and best ask, quote units |
    | `direction_50ms`, ... | Enum: down, unchanged, up | of the mid after each horizon; null where unknown |
    | `down_50ms`, `unchanged_50ms`, `up_50ms`, ... | Float32 | predicted probability of each direction |
    | `significant_50ms`, `bid_withdrawal_50ms`, `ask_withdrawal_50ms`, ... | Float32 | with `outlook`: probabilities |
    | `move_bps_50ms`, `volatility_bps_50ms`, ... | Float32 | with `outlook`: expected, basis points |

    Nothing is logged.

    Args:
        files: of one instrument, in order, as one stream.
        root: the project's folder: see `Workspace.find`.
        params: that the model was trained with, instead of the project's.
        model: instead of `model.name`.
        version: a listed one; the active version by default.
        outlook: with columns of the auxiliary heads.
        allow_other_instrument: predict although the version was not trained on the instrument.

    Raises:
        CaptureError: a file cannot be used.
        DataError: the files have no complete row.
        ParamsError: there is no project, or its parameters are wrong.
        ReleaseError: the version's files do not match its manifest.
        UntrainedInstrumentError: the version was trained on other instruments only.
        ServingError: no such version is listed, or it was made for other features or labels.
    """
    import polars as pl

    workspace = Workspace.find(root)
    params = params or load_params(workspace.params)
    name, repository = model or params.model.name, Repository.of(workspace)
    listed = repository.listed(name) if name in repository.models() else []
    version = version or max(listed, default=None)
    if version is None or version not in listed:
        there = f"there are {', '.join(map(str, listed))}" if listed else "publish one with lobsmith retrain"
        raise ServingError(f"{name}: no version {version or ''} is listed in {workspace.repository}; {there}")
    with repository.reading(name, version):
        manifest = repository.verify(name, version)
        served = OnnxModel(repository.directory(name, version) / MODEL)
    dataset = read_dataset([Path(file) for file in files], params)
    check_definitions(name, manifest.contract.definitions_sha256, dataset.definitions_sha256)
    if not allow_other_instrument:
        transport = open_transport(workspace, params, "inprocess")
        TrainedInstruments(workspace, transport, name, str(dataset.instrument), remote=False).require(version)
    rows = np.flatnonzero(dataset.rows.complete)
    if not len(rows):
        raise DataError(
            f"{', '.join(map(str, files))}: {len(dataset.rows)} rows, none complete: a gap-free segment needs "
            f"features.normaliser_minimum = {params.features.normaliser_minimum}; give a longer file"
        )
    probabilities, auxiliary = stream_predictions(served, dataset, rows)
    columns = {
        f"{direction}_{horizon}ms": probabilities[:, h, c]
        for h, horizon in enumerate(dataset.horizons_ms)
        for c, direction in enumerate(CLASSES)
    }
    if outlook:
        columns |= {
            f"{head}_{horizon}ms": auxiliary[:, h, c]
            for h, horizon in enumerate(dataset.horizons_ms)
            for c, head in enumerate(OUTLOOKS)
        }
    return outcomes(dataset)[rows].with_columns(**{column: pl.Series(values) for column, values in columns.items()})

"""What a user writes with the public names; type-checked strictly, and run on a captured file."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from lobsmith import (
    Events,
    FeatureStream,
    GatedPrediction,
    Instrument,
    LobsmithError,
    Params,
    Prediction,
    Row,
    Rows,
    Stream,
    Workspace,
    load_params,
    open_stream,
    predict,
    read_features,
)


def answers(instrument: Instrument | str, file: Path, root: Path) -> list[GatedPrediction]:
    with open_stream(instrument, root=root, transport="inprocess", guard=False, record=None) as stream:
        return [stream.step(row) for row in FeatureStream.read(file, root=root)]


def own_feed(instrument: Instrument, parts: Iterator[Events], params: Params, stream: Stream) -> int:
    features, acted = FeatureStream(instrument, params.features), 0
    for events in parts:
        rows: Rows = features.push(events)
        row: Row
        for row in rows:
            if row.complete:
                answer = stream.step(row)
                prediction: Prediction = answer.prediction
                acted += answer.actionable[0] and prediction.reason is None
    return acted


def tables(file: str, root: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    workspace = Workspace.find(root)
    params = load_params(workspace.params, {"data.screen.stale_ms": 2000})
    try:
        return read_features(file, root=workspace, params=params), predict(file, root=root, params=params, outlook=True)
    except LobsmithError as error:
        raise SystemExit(str(error)) from error

"""Checks of a model file before it is loaded: valid ONNX, one file, tensors of the wire contract."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from lobsmith.errors import ReleaseError
from lobsmith.release.version.contract import (
    CLASSES,
    CONTRIBUTIONS,
    FEATURES,
    NEXT_STATE,
    OUTLOOK,
    OUTLOOKS,
    PROBABILITIES,
    ROWS,
    SCORE,
    STATE,
    WireContract,
)

_Shape = list[int | str]

_FREE = "any"
"""A dimension that must not be fixed: batch or time."""


def check_model_file(path: Path, contract: WireContract) -> None:
    """Refuse a file that cannot be served under a contract.

    Raises:
        ReleaseError: the file is missing, empty, truncated or not ONNX; keeps weights in a side file; is not a valid
            graph; or has other inputs and outputs than the contract. The message says which.
    """
    horizons = len(contract.horizons_ms)
    _check(
        path,
        {FEATURES: [_FREE, _FREE, contract.feature_count], STATE: [_FREE, contract.state_size]},
        {
            PROBABILITIES: [_FREE, _FREE, horizons, len(CLASSES)],
            OUTLOOK: [_FREE, _FREE, horizons, len(OUTLOOKS)],
            NEXT_STATE: [_FREE, contract.state_size],
        },
    )


def check_score_file(path: Path, contract: WireContract) -> None:
    """Refuse a drift score that cannot be served beside a model of a contract; see `check_model_file`."""
    features = contract.feature_count
    _check(path, {ROWS: [_FREE, _FREE, features]}, {SCORE: [_FREE, 1], CONTRIBUTIONS: [_FREE, features]})


def _check(path: Path, expected_inputs: dict[str, _Shape], expected_outputs: dict[str, _Shape]) -> None:
    model = _read(path)
    for tensor in _tensors(model.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            side = {entry.key: entry.value for entry in tensor.external_data}.get("location", "?")
            raise ReleaseError(f"{path}: keeps {tensor.name} in the side file {side}; export it as one file")
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # the checker's exceptions share no base class
        reason = " ".join(str(error).split())
        raise ReleaseError(f"{path}: not a valid ONNX graph: {reason}; export it again") from error
    initialised = {tensor.name for tensor in model.graph.initializer}
    inputs = [tensor for tensor in model.graph.input if tensor.name not in initialised]
    _compare(path, "inputs", inputs, expected_inputs, inferred=False)
    _compare(path, "outputs", list(model.graph.output), expected_outputs, inferred=True)


def _read(path: Path) -> Any:
    try:
        size = path.stat().st_size
        if size == 0:
            raise ReleaseError(f"{path}: empty; export the model again")
        model = onnx.load_model(str(path), load_external_data=False)
    except OSError as error:
        raise ReleaseError(f"{path}: {error.strerror}; export the model again") from error
    except DecodeError as error:
        raise ReleaseError(f"{path}: truncated or not an ONNX file ({size} bytes); export the model again") from error
    # A truncated file can end between two fields and still decode.
    if not model.HasField("graph") or not model.graph.node:
        raise ReleaseError(f"{path}: truncated or not an ONNX file: it holds no graph; export the model again")
    return model


def _tensors(graph: Any) -> Iterator[Any]:
    """Yield every constant of a graph, those of nodes and subgraphs included."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for part in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _tensors(part)


def _compare(path: Path, what: str, tensors: list[Any], expected: dict[str, _Shape], *, inferred: bool) -> None:
    """Compare names, types and shapes; where shapes are `inferred`, a fixed dimension may be left open."""
    types = {tensor.name: tensor.type.tensor_type for tensor in tensors}
    if types.keys() != expected.keys():
        raise ReleaseError(
            f"{path}: its {what} are {sorted(types)}, the contract's {sorted(expected)}; export it again"
        )
    for name, kind in types.items():
        if kind.elem_type != onnx.TensorProto.FLOAT:
            have = onnx.TensorProto.DataType.Name(kind.elem_type)
            raise ReleaseError(f"{path}: {name} is {have}, the contract requires FLOAT; export it again")
        shape = [dim.dim_value if dim.HasField("dim_value") else _FREE for dim in kind.shape.dim]
        right = len(shape) == len(expected[name]) and all(
            have == want or (inferred and have == _FREE) for have, want in zip(shape, expected[name], strict=True)
        )
        if not right:
            raise ReleaseError(f"{path}: {name} has shape {_text(shape)}, not {_text(expected[name])}; export it again")


def _text(shape: _Shape) -> str:
    return f"[{', '.join(map(str, shape))}]"

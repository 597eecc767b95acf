"""Scores of one class and modes, for tests of what a client makes of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from msgspec.structs import replace
from onnx import TensorProto, helper

from lobsmith.files import sha256_file
from lobsmith.gates.drift import SCORE
from lobsmith.monitoring.modes import Mode, ModeRecord
from lobsmith.release.manifest import read_manifest
from lobsmith.release.repository import Repository
from lobsmith.trading.answer import Score
from tests.release import toy

NOW_NS = 1_772_000_000_000_000_000


def write_score(path: Path, features: int, rows: int | str = "rows") -> Path:
    """Write a graph whose score is the mean absolute value of a block, and each feature's contribution its own mean."""
    shape = ["batch", rows, features]
    graph = helper.make_graph(
        [
            helper.make_node("Abs", ["rows"], ["size"]),
            helper.make_node("ReduceMean", ["size"], ["contributions"], axes=[1], keepdims=0),
            helper.make_node("ReduceMean", ["contributions"], ["score"], axes=[1], keepdims=1),
        ],
        "score",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch", 1]),
            helper.make_tensor_value_info("contributions", TensorProto.FLOAT, ["batch", features]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save_model(model, path)
    return path


def add_score(repository: Repository, model: str, version: int, rows: int | str = "rows") -> None:
    """Put a score into a published version, as its publisher would have."""
    directory = repository.directory(model, version)
    manifest = read_manifest(directory)
    path = write_score(directory / SCORE, manifest.contract.feature_count, rows)
    toy.seal(directory, replace(manifest, files={**manifest.files, SCORE: sha256_file(path)}))


def record(mode: Mode = Mode.NORMAL, *, version: int = 1, looked_ns: int = NOW_NS) -> ModeRecord:
    return ModeRecord(model="lob", version=version, mode=mode, since_ns=0, looked_ns=looked_ns, reason="as told")


@dataclass
class Modes:
    """A source of records that says what the test wants."""

    says: ModeRecord | Exception | None = None

    def read(self) -> ModeRecord | None:
        if isinstance(self.says, Exception):
            raise self.says
        return self.says


@dataclass
class Scores:
    """Scores blocks as the test wants; by default all alike. What it is asked stays in `asked`."""

    says: float | BaseException = 0.5
    then: Sequence[float | BaseException] = ()
    asked: list[tuple[int, np.ndarray]] = field(default_factory=list)

    def score(self, model: str, version: int, rows: np.ndarray, deadline_s: float) -> Score:
        said = self.then[len(self.asked)] if len(self.asked) < len(self.then) else self.says
        self.asked.append((version, rows))
        if isinstance(said, BaseException):
            raise said
        return Score(said, np.full(rows.shape[1], said, np.float32))

    def close(self) -> None: ...

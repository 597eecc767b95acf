"""Small networks trained on the simulated market, and one that turns bad on a signal."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from lobsmith.compress.export import export_onnx
from lobsmith.compress.golden import golden_vectors
from lobsmith.compress.runtime import OnnxModel
from lobsmith.drift import REFERENCE, SCORE
from lobsmith.drift.fit_one_class import fit_score
from lobsmith.drift.one_class import export_score
from lobsmith.drift.reference import freeze, save_reference
from lobsmith.evaluation.metrics import log_losses
from lobsmith.features.dataset import DATASET, Dataset, build_dataset, save_dataset
from lobsmith.gates.parity import parity
from lobsmith.market.simulator import simulate
from lobsmith.models.split import split
from lobsmith.models.train import load_network, predict
from lobsmith.params import Params
from lobsmith.release.publish.onnx import Artifact
from lobsmith.stages.train import train_stage
from tests.small import small_params

PRIME_ROWS = 256
SIGNAL = 3
"""The feature whose size is the signal; it is clipped at `CALM` before the network."""
CALM = 20.0


@dataclass(frozen=True)
class Trained:
    """A trained network: its artifact as of a retrain, and its offline log-loss at each horizon."""

    artifact: Artifact
    losses: tuple[float, ...]


def session(seed: int, seconds: int, params: Params) -> Dataset:
    """A simulated market of its own for each seed."""
    return build_dataset(simulate(seed, seconds), params)


def losses(probabilities: np.ndarray, labels: np.ndarray) -> tuple[float, ...]:
    """Mean log-loss at each horizon over the rows whose label is known."""
    known = [labels[:, h] >= 0 for h in range(labels.shape[1])]
    return tuple(
        float(log_losses(probabilities[k, h], labels[k, h].astype(np.int64)).mean()) for h, k in enumerate(known)
    )


def good(folder: Path, seed: int = 5, **changes: object) -> Trained:
    """Train on twenty minutes; evaluated on held-out rows."""
    params = small_params(**{"train.epochs": 20, "train.sequences_per_epoch": 256, **changes})
    return _train(folder, params, session(seed, 1200, params), in_sample=False)


def overfitted(folder: Path, seed: int = 6) -> Trained:
    """Overfit ninety seconds and evaluate on them: better offline than any honest model, worse on other rows."""
    regularisers = {"feature_dropout": 0.0, "mirror": 0.0, "weight_decay": 0.0, "prior": 0.0}
    params = small_params(
        **{
            "train.epochs": 60,
            "train.patience": 60,
            "train.sequences_per_epoch": 256,
            "split.test": 0.05,
            "split.validation": 0.05,
            **{f"train.{name}": value for name, value in regularisers.items()},
        }
    )
    return _train(folder, params, session(seed, 90, params), in_sample=True)


def _train(folder: Path, params: Params, dataset: Dataset, *, in_sample: bool) -> Trained:
    folder.mkdir(parents=True)
    save_dataset(dataset, folder / DATASET)
    train_stage(params, [folder / DATASET], folder)
    network = load_network(folder).network
    rows = np.flatnonzero(dataset.rows.complete) if in_sample else split(dataset, params.split).test
    offline = losses(predict(network, dataset, rows)[0], dataset.labels[rows])
    path = folder / "model.onnx"
    export_onnx(network, path)
    model, features = OnnxModel(path), dataset.rows.features[rows]
    reference = freeze([dataset], params.drift)
    save_reference(reference, folder / REFERENCE)
    export_score(fit_score(reference, params.reference)[0], folder / SCORE)
    artifact = Artifact(
        model_path=path,
        reference_path=folder / REFERENCE,
        score_path=folder / SCORE,
        golden=golden_vectors(model, features),
        prime_rows=PRIME_ROWS,
        instruments=(dataset.instrument,),
        data_fingerprint=dataset.data_fingerprint,
        verdicts=(parity(network, model, features[:200], params.gates.parity.fp32),),
        metrics={f"log_loss_{ms}": loss for ms, loss in zip(dataset.horizons_ms, offline, strict=True)},
        run=folder.name,
    )
    return Trained(artifact, offline)


def guarded(artifact: Artifact, folder: Path, *, poisoned: bool) -> Artifact:
    """Clip `SIGNAL` at `CALM`; a poisoned network is sure of the opposite where the signal is larger.

    Without the signal both give the same bits.
    """
    folder.mkdir(parents=True)
    model = onnx.load(str(artifact.model_path))
    graph = model.graph
    for node in graph.node:
        node.input[:] = ["cut_features" if name == "features" else name for name in node.input]
        node.output[:] = ["honest" if name == "probabilities" else name for name in node.output]
        node.input[:] = ["honest" if name == "probabilities" else name for name in node.input]
    width = graph.input[0].type.tensor_type.shape.dim[2].dim_value
    cap = np.full(width, np.float32(3e38), np.float32)
    cap[SIGNAL] = CALM
    constants = {
        "cap": cap,
        "calm": np.array(CALM, np.float32),
        "signal": np.array([SIGNAL], np.int64),
        "sureness": np.array(8.0 if poisoned else 1.0, np.float32),
        "mirror": np.array([2, 1, 0] if poisoned else [0, 1, 2], np.int64),
    }
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    graph.node.insert(0, helper.make_node("Min", ["features", "cap"], ["cut_features"]))
    graph.node.extend(
        [
            helper.make_node("Gather", ["features", "signal"], ["given"], axis=2),
            helper.make_node("Greater", ["given", "calm"], ["alarmed"]),
            helper.make_node("Unsqueeze", ["alarmed", "last_axis"], ["alarmed_wide"]),
            helper.make_node("Gather", ["honest", "mirror"], ["mirrored"], axis=3),
            helper.make_node("Pow", ["mirrored", "sureness"], ["powers"]),
            helper.make_node("ReduceSum", ["powers", "last_axis"], ["sum"], keepdims=1),
            helper.make_node("Div", ["powers", "sum"], ["sure"]),
            helper.make_node("Where", ["alarmed_wide", "sure", "honest"], ["probabilities"]),
        ]
    )
    graph.initializer.append(numpy_helper.from_array(np.array([3], np.int64), "last_axis"))
    path = folder / "model.onnx"
    onnx.save(model, str(path))
    return replace(artifact, model_path=path, golden=golden_vectors(OnnxModel(path), artifact.golden.features[0]))


def with_signal(dataset: Dataset, first: int, stop: int) -> Dataset:
    """Return a session with the signal in rows `first` to `stop`."""
    features = dataset.rows.features.copy()
    features[first:stop, SIGNAL] = 2 * CALM
    return replace(dataset, rows=replace(dataset.rows, features=features))

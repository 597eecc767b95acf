"""A small network, published for real, for tests that need something to serve."""

from pathlib import Path

import numpy as np
import torch

from lobsmith.compress.export import export_onnx
from lobsmith.compress.golden import golden_vectors
from lobsmith.compress.runtime import OnnxModel
from lobsmith.features.definitions import COUNT
from lobsmith.gates.parity import parity
from lobsmith.market.instrument import SIMULATED, Instrument
from lobsmith.models.networks.registry import build
from lobsmith.params import Params
from lobsmith.release.context import Release, Server
from lobsmith.release.publish.onnx import Artifact
from lobsmith.release.version.contract import wire_contract
from lobsmith.release.version.manifest import Manifest
from lobsmith.workspace import Workspace
from tests.release.in_process import publish
from tests.release.scores import write_reference, write_score

PRIME_ROWS = 64


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, COUNT)).astype(np.float32)


def publish_small(
    workspace: Workspace,
    params: Params,
    *,
    seed: int,
    server: Server | None = None,
    model: str | None = None,
    scored: bool = False,
    instruments: tuple[Instrument, ...] = (SIMULATED,),
) -> Manifest:
    """Publish a network with random weights: each seed gives other answers. By default as `model.name`.

    Where it is `scored` it has a reference score, which is `seed` times the mean squares of a block.
    """
    torch.manual_seed(seed)
    contract = wire_contract(params)
    network = build(params.model, contract.feature_count, contract.horizons_ms)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    path = Path(workspace.root) / f"model-{seed}.onnx"
    export_onnx(network, path)
    exported = OnnxModel(path)
    reference, score = Path(workspace.root) / "reference.safetensors", Path(workspace.root) / "drift.onnx"
    artifact = Artifact(
        reference_path=write_reference(reference, features=COUNT) if scored else None,
        score_path=write_score(score, features=COUNT, scale=seed) if scored else None,
        model_path=path,
        golden=golden_vectors(exported, rows(128)),
        prime_rows=PRIME_ROWS,
        instruments=instruments,
        data_fingerprint="0" * 64,
        verdicts=(parity(network, exported, rows(200), params.gates.parity.fp32),),
        metrics={},
    )
    return publish(Release(workspace, params, server), artifact, model=model or params.model.name, contract=contract)

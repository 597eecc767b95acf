"""A small published network for tests that serve one.

Torch is imported lazily, as processes that tests start import this module too.
"""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

from lobsmith.compress.golden import Golden, golden_vectors
from lobsmith.compress.runtime import OnnxModel
from lobsmith.features.definitions import COUNT
from lobsmith.market.instrument import SIMULATED, Instrument
from lobsmith.params import ModelParams, Params
from lobsmith.release.context import Release, Server
from lobsmith.release.publish.onnx import Artifact
from lobsmith.release.version.manifest import Manifest
from lobsmith.verdict import Verdict
from lobsmith.workspace import Workspace
from tests.release.in_process import publish
from tests.release.scores import write_reference, write_score

PRIME_ROWS = 64


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, COUNT)).astype(np.float32)


class _Exported(NamedTuple):
    content: bytes
    golden: Golden
    verdict: Verdict


@cache
def _exported(model: ModelParams, horizons_ms: tuple[int, ...], tolerance: float, seed: int) -> _Exported:
    """A network with random weights as a file, cached as an export takes a second."""
    import torch

    from lobsmith.compress.export import export_onnx
    from lobsmith.gates.parity import parity
    from lobsmith.models.networks.registry import build

    torch.manual_seed(seed)
    network = build(model, COUNT, horizons_ms)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(network, path)
        exported = OnnxModel(path)
        verdict = parity(network, exported, rows(200), tolerance)
        return _Exported(path.read_bytes(), golden_vectors(exported, rows(128)), verdict)


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

    Where it is `scored` it has a drift score, which is `seed` times the mean squares of a block.
    """
    from lobsmith.release.version.contract import wire_contract

    contract = wire_contract(params)
    exported = _exported(params.model, contract.horizons_ms, params.gates.parity.fp32, seed)
    path = Path(workspace.root) / f"model-{seed}.onnx"
    path.write_bytes(exported.content)
    reference, score = Path(workspace.root) / "reference.safetensors", Path(workspace.root) / "drift.onnx"
    artifact = Artifact(
        reference_path=write_reference(reference, features=COUNT) if scored else None,
        score_path=write_score(score, features=COUNT, scale=seed) if scored else None,
        model_path=path,
        golden=exported.golden,
        prime_rows=PRIME_ROWS,
        instruments=instruments,
        data_fingerprint="0" * 64,
        verdicts=(exported.verdict,),
        metrics={},
    )
    return publish(Release(workspace, params, server), artifact, model=model or params.model.name, contract=contract)

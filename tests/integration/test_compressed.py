"""A compressed model behind the real Triton gives what the table of candidates promised."""

from pathlib import Path

import numpy as np
import pytest

from lobsmith.compress import GOLDEN, MODEL, STEP
from lobsmith.compress.golden import load_golden
from lobsmith.compress.runtime import OnnxModel
from lobsmith.evaluation.fidelity import fidelity
from lobsmith.evaluation.stream import stream_predictions
from lobsmith.features.dataset import DATASET, Dataset, build_dataset, save_dataset
from lobsmith.gates.compression import Compressed
from lobsmith.market.simulator import simulate
from lobsmith.models.split import lead_runs, split
from lobsmith.params import Params
from lobsmith.release.context import Release
from lobsmith.release.publish.onnx import Artifact, publish
from lobsmith.release.repository.repository import Repository
from lobsmith.release.version.contract import wire_contract
from lobsmith.serving.supervisor import running_triton, with_free_ports
from lobsmith.stages.compress import compress
from lobsmith.stages.train import train_stage
from lobsmith.trading.transport.base import Transport
from lobsmith.trading.transport.grpc import GrpcTransport
from lobsmith.trading.transport.http import HttpTransport
from lobsmith.trading.transport.inprocess import InProcessTransport
from lobsmith.workspace import Workspace
from tests.small import small_params

pytestmark = pytest.mark.integration

CHUNK = 64


def publish_candidate(workspace: Workspace, dataset: Dataset, name: str) -> tuple[Params, Compressed, int]:
    changes = {"compress.precisions": ["fp32", "int8_static"], "compress.pruning": [0.5], "compress.candidate": name}
    params = with_free_ports(small_params(**{**changes, "compress.fine_tune_epochs": 1}))
    run = workspace.root / "run"
    run.mkdir()
    save_dataset(dataset, run / DATASET)
    train_stage(params, [run / DATASET], run)
    summary = compress(params, run)
    artifact = Artifact(
        model_path=run / MODEL,
        step_path=run / STEP,
        golden=load_golden(run / GOLDEN),
        prime_rows=summary.prime_rows,
        precision=summary.precision,
        candidate=summary.name,
        instruments=(dataset.instrument,),
        data_fingerprint=dataset.data_fingerprint,
        verdicts=(),
        metrics={},
    )
    manifest = publish(Release(workspace, params), artifact, model=params.model.name, contract=wire_contract(params))
    assert (manifest.precision, manifest.candidate) == (summary.precision, name)
    return params, summary, manifest.version


def asked(
    transport: Transport, params: Params, version: int, dataset: Dataset, rows: np.ndarray, size: int
) -> np.ndarray:
    """Probabilities at the rows, streamed through a transport as the gates stream them."""
    first, spans = lead_runs(dataset, rows)
    probabilities = np.full((int(rows[-1]) + 1 - first, dataset.labels.shape[1], 3), np.nan, np.float32)
    for start, stop in spans:
        state = np.zeros((1, size), np.float32)
        for begin in range(start, stop, CHUNK):
            part = dataset.rows.features[begin : min(begin + CHUNK, stop)]
            answer = transport.infer(params.model.name, version, part[None], state, 10.0)
            state = answer.next_state
            probabilities[begin - first : begin - first + len(part)] = answer.probabilities[0]
    return probabilities[rows - first]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["int8_static", "pruned_50", "pruned_50_int8_static"])
def test_triton_gives_what_the_table_promised(name: str, tmp_path: Path) -> None:
    workspace, dataset = Workspace(tmp_path), build_dataset(simulate(seed=3, seconds=120), small_params())
    params, summary, version = publish_candidate(workspace, dataset, name)
    rows = split(dataset, params.split).test
    full = OnnxModel(workspace.root / "run" / "candidates" / "full" / "fp32" / MODEL)
    reference, _ = stream_predictions(full, dataset, rows)
    promised = summary.chosen
    with running_triton(workspace, params) as control:
        transports: list[Transport] = [
            GrpcTransport(f"{params.serving.host}:{params.serving.grpc_port}"),
            HttpTransport(f"{params.serving.host}:{params.serving.http_port}"),
            InProcessTransport(Repository.of(workspace)),
        ]
        assert control.ready_versions(params.model.name) == [version]
        for transport in transports:
            probabilities = asked(transport, params, version, dataset, rows, full.state_size)
            measured = fidelity(dataset, rows, probabilities, reference, params.train.horizon_weights)
            assert measured.rows == promised.test.rows
            assert measured.delta_log_loss.value == pytest.approx(promised.delta_log_loss, abs=1e-3)
            assert measured.agreement.value == pytest.approx(promised.agreement, abs=2e-3)
            assert measured.delta_mcc.value == pytest.approx(promised.delta_mcc, abs=5e-3)

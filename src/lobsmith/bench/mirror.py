"""The recorder's cost in the tick path: the same client with and without a recorder, in alternating blocks of rows.

Rows come at a market's rate and are answered in process. The side with a recorder pays the put into the ring, and the
caches and cores that recorder, candidate and fallback use.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from msgspec import Struct

from lobsmith.compress.export import export_onnx
from lobsmith.compress.golden import golden_vectors
from lobsmith.compress.graph.specialise import specialise
from lobsmith.compress.runtime import OnnxModel
from lobsmith.features.definitions import COUNT
from lobsmith.gates.parity import parity
from lobsmith.market.instrument import Instrument
from lobsmith.models.networks.registry import build
from lobsmith.monitoring.log.writer import Source
from lobsmith.params import Params
from lobsmith.release.context import Release
from lobsmith.release.publish.onnx import Artifact, publish
from lobsmith.release.version.contract import wire_contract
from lobsmith.release.version.manifest import Manifest
from lobsmith.release.version.names import candidate_model
from lobsmith.trading.client.stream import Client, Prediction
from lobsmith.trading.recorder.recorder import Recorder, RecorderSummary
from lobsmith.trading.session import open_stream
from lobsmith.units import NS_PER_US
from lobsmith.workspace import Workspace

Int64 = npt.NDArray[np.int64]

_BLOCK_ROWS = 500
_PRIME_ROWS = 64
INSTRUMENT = Instrument(venue="simulator", symbol="SIM", tick_size=0.1, lot_size=0.001)
_IDLE_S = 0.01


class Latency(Struct, frozen=True, kw_only=True):
    """Microseconds."""

    count: int
    p50_us: float
    p99_us: float


class MirrorReport(Struct, frozen=True, kw_only=True):
    """Latencies of an answer without and with a recorder, of the put after it, and the recorder's counts.

    Ratios are those of the side with a recorder to the plain one.
    """

    rows_per_s: float
    plain: Latency
    mirrored: Latency
    put: Latency
    ratio_p50: float
    ratio_p99: float
    recorded: RecorderSummary


def bench_mirror(params: Params, rows: int, rows_per_s: float) -> MirrorReport:
    """Measure untrained networks on random rows: the times do not depend on their values.

    Args:
        params: of the networks and the recorder.
        rows: of each side.
        rows_per_s: rows a second.
    """
    with tempfile.TemporaryDirectory(prefix="lobsmith-") as folder:
        workspace = Workspace(Path(folder))
        for seed, model in enumerate((params.model.name, params.model.name, candidate_model(params.model.name))):
            publish_untrained(workspace, params, model, seed)
        with open_stream(
            INSTRUMENT, root=workspace, params=params, transport="inprocess", guard=False, record=Source.REPLAY
        ) as stream:
            assert stream.recorder is not None  # noqa: S101 - it records
            plain, mirrored, put = _measure(stream.client, stream.recorder, rows, rows_per_s)
        assert stream.recorded is not None  # noqa: S101 - and has recorded
    return MirrorReport(
        rows_per_s=rows_per_s,
        plain=latency(plain),
        mirrored=latency(mirrored),
        put=latency(put),
        ratio_p50=float(np.percentile(mirrored, 50) / np.percentile(plain, 50)),
        ratio_p99=float(np.percentile(mirrored, 99) / np.percentile(plain, 99)),
        recorded=stream.recorded,
    )


def _measure(
    client: Client[Prediction], recorder: Recorder, rows: int, rows_per_s: float
) -> tuple[Int64, Int64, Int64]:
    """Return ns of answers without and with a recorder, and of puts."""
    features = np.random.default_rng(0).normal(size=(4096, COUNT)).astype(np.float32)
    client.predict(features[:_PRIME_ROWS], features[:_PRIME_ROWS], np.zeros(_PRIME_ROWS, np.int64))
    # The first rows start the recorder and load the shadow replicas.
    _block(client, recorder, features, 2 * _BLOCK_ROWS, rows_per_s)
    sides: dict[bool, list[Int64]] = {False: [], True: []}
    puts = []
    for number in range(2 * -(-rows // _BLOCK_ROWS)):
        while recorder.waiting:
            time.sleep(_IDLE_S)
        recorded = number % 2 == 1
        answers, put = _block(client, recorder if recorded else None, features, _BLOCK_ROWS, rows_per_s)
        sides[recorded].append(answers)
        puts.append(put)
    return np.concatenate(sides[False]), np.concatenate(sides[True]), np.concatenate(puts)


def _block(
    client: Client[Prediction],
    recorder: Recorder | None,
    features: npt.NDArray[np.float32],
    rows: int,
    rows_per_s: float,
) -> tuple[Int64, Int64]:
    answers, puts = np.empty(rows, np.int64), np.empty(rows if recorder else 0, np.int64)
    due = time.perf_counter()
    for index in range(rows):
        row = features[index % len(features)]
        due += 1 / rows_per_s
        time.sleep(max(0.0, due - time.perf_counter()))
        now_ns = time.time_ns()
        started = time.perf_counter_ns()
        prediction = client.step(row, row, now_ns)
        answered = time.perf_counter_ns()
        answers[index] = answered - started
        if recorder is not None:
            recorder.record(time.time_ns(), 1, 20_000 + index % 3, row, prediction, raw=row)
            puts[index] = time.perf_counter_ns() - answered
    return answers, puts


def latency(times_ns: Int64) -> Latency:
    """Return the latency figures of calls; `times_ns` are their durations, ns."""
    p50, p99 = np.percentile(times_ns, [50, 99]) / NS_PER_US
    return Latency(count=len(times_ns), p50_us=float(p50), p99_us=float(p99))


def publish_untrained(
    workspace: Workspace,
    params: Params,
    model: str,
    seed: int,
    *,
    reference_path: Path | None = None,
    score_path: Path | None = None,
) -> Manifest:
    """Publish a network with random weights, and a drift score if given."""
    torch.manual_seed(seed)
    contract = wire_contract(params)
    network = build(params.model, contract.feature_count, contract.horizons_ms).eval()
    # New networks answer the same to every row, which parity refuses.
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    path, step = workspace.root / f"{seed}.onnx", workspace.root / f"{seed}-step.onnx"
    export_onnx(network, path)
    specialise(path, step)
    exported = OnnxModel(path)
    rows = np.random.default_rng(seed).normal(size=(200, COUNT)).astype(np.float32)
    artifact = Artifact(
        model_path=path,
        step_path=step,
        reference_path=reference_path,
        score_path=score_path,
        golden=golden_vectors(exported, rows[:128]),
        prime_rows=_PRIME_ROWS,
        instruments=(INSTRUMENT,),
        data_fingerprint="0" * 64,
        verdicts=(parity(network, exported, rows, params.gates.parity.fp32),),
        metrics={},
    )
    return publish(Release(workspace, params), artifact, model=model, contract=contract)

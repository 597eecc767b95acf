"""The guard's cost in the tick path: the same client with and without a guard, in alternating blocks of rows.

Rows come at a market's rate and are answered in process. The guard's thread shares the interpreter with the ticks; each
of its health checks reads the mode and scores a block, far more often than in service.
"""

import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct, field
from msgspec.structs import replace

from lobsmith.bench.mirror import INSTRUMENT, Latency, latency, publish_untrained
from lobsmith.drift import REFERENCE, SCORE
from lobsmith.drift.fit_one_class import fit_score
from lobsmith.drift.one_class import export_score
from lobsmith.drift.reference import RawRows, Reference, fit_scaling, save_reference
from lobsmith.features.definitions import COUNT
from lobsmith.monitoring.mode.machine import Mode, PublishedMode
from lobsmith.monitoring.mode.store import state_path
from lobsmith.params import Params
from lobsmith.trading.client.stream import Client, Prediction
from lobsmith.trading.guard.guard import GuardCounts
from lobsmith.trading.guard.guarded_client import GuardedClient
from lobsmith.trading.session import open_guard, open_stream
from lobsmith.units import NS_PER_MS, NS_PER_US
from lobsmith.workspace import Workspace

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_BLOCK_ROWS = 500
_REFERENCE_ROWS = 20_000
_WARM_ROWS = 64
_OFTEN = 10


class GuardReport(Struct, frozen=True, kw_only=True):
    """Latencies of a step without and with a guard, and counts of the guards.

    Ratios and differences are those of the guarded side to the plain one.
    """

    rows_per_s: float
    plain: Latency
    guarded: Latency
    ratio_p50: float
    ratio_p99: float
    more_p50_us: float
    more_p99_us: float
    checks: int
    scored_blocks: int = field(name="scores")
    acted: int


def bench_guard(params: Params, rows: int, rows_per_s: float) -> GuardReport:
    """Measure an untrained network on random rows: the times do not depend on their values.

    Args:
        params: of the network, the score and the guard; health checks come ten times as often, and each scores a block.
        rows: of each side.
        rows_per_s: rows a second.
    """
    busy = replace(
        params,
        client=replace(params.client, poll_s=params.client.poll_s / _OFTEN),
        drift=replace(params.drift, every_ms=1),
        guard=replace(params.guard, every_rows=1),
    )
    with tempfile.TemporaryDirectory(prefix="lobsmith-") as folder:
        workspace = Workspace(Path(folder))
        version = _publish(workspace, params)
        model = params.model.name
        published = PublishedMode(
            model=model, version=version, mode=Mode.NORMAL, since_ns=0, looked_ns=time.time_ns(), reason="measured"
        )
        path = state_path(workspace, model)
        path.parent.mkdir(parents=True)
        path.write_bytes(msgspec.json.encode(published))
        with open_stream(
            INSTRUMENT, root=workspace, params=busy, transport="inprocess", guard=False, record=None
        ) as stream:
            plain, guarded, counts, acted = _measure(workspace, busy, stream.client, rows, rows_per_s)
    p50, p99 = (np.percentile(guarded, q) / np.percentile(plain, q) for q in (50, 99))
    more_p50, more_p99 = ((np.percentile(guarded, q) - np.percentile(plain, q)) / NS_PER_US for q in (50, 99))
    return GuardReport(
        rows_per_s=rows_per_s,
        plain=latency(plain),
        guarded=latency(guarded),
        ratio_p50=float(p50),
        ratio_p99=float(p99),
        more_p50_us=float(more_p50),
        more_p99_us=float(more_p99),
        checks=sum(guard.checks for guard in counts),
        scored_blocks=sum(guard.scored_blocks for guard in counts),
        acted=acted,
    )


def _measure(
    workspace: Workspace, params: Params, client: Client[Prediction], rows: int, rows_per_s: float
) -> tuple[Int64, Int64, list[GuardCounts], int]:
    """Return ns of steps without and with a guard, the guards' counts, and the number of actionable rows."""
    features = np.random.default_rng(0).normal(size=(4096, COUNT)).astype(np.float32)
    warm = features[:_WARM_ROWS]
    client.predict(warm, warm, np.zeros(_WARM_ROWS, np.int64))
    sides: dict[bool, list[Int64]] = {False: [], True: []}
    counts, acted = [], 0
    for number in range(2 * -(-rows // _BLOCK_ROWS)):
        if number % 2 == 0:
            sides[False].append(_plain(client, features, rows_per_s))
            continue
        # A guard per block: its thread does not run during blocks of the plain side.
        guard = open_guard(workspace, params, params.model.name, "inprocess")
        watched = GuardedClient(client, guard, model=params.model.name, horizons=len(params.labels.horizons_ms))
        watched.predict(warm, warm, time.time_ns() - np.arange(_WARM_ROWS, 0, -1) * NS_PER_MS)
        guard.throttle()
        times_ns, actionable = _guarded(watched, features, rows_per_s)
        guard.close()
        sides[True].append(times_ns)
        counts.append(guard.counts)
        acted += actionable
    return np.concatenate(sides[False]), np.concatenate(sides[True]), counts, acted


def _plain(client: Client[Prediction], features: Float32, rows_per_s: float) -> Int64:
    times_ns, due = np.empty(_BLOCK_ROWS, np.int64), time.perf_counter()
    for index in range(_BLOCK_ROWS):
        due += 1 / rows_per_s
        time.sleep(max(0.0, due - time.perf_counter()))
        row = features[index]
        now_ns = time.time_ns()
        started = time.perf_counter_ns()
        client.step(row, row, now_ns)
        times_ns[index] = time.perf_counter_ns() - started
    return times_ns


def _guarded(client: GuardedClient, features: Float32, rows_per_s: float) -> tuple[Int64, int]:
    times_ns, due, acted = np.empty(_BLOCK_ROWS, np.int64), time.perf_counter(), 0
    for index in range(_BLOCK_ROWS):
        due += 1 / rows_per_s
        time.sleep(max(0.0, due - time.perf_counter()))
        row, now_ns = features[index], time.time_ns()
        started = time.perf_counter_ns()
        gated = client.step(row, row, now_ns)
        times_ns[index] = time.perf_counter_ns() - started
        acted += any(gated.actionable)
    return times_ns, acted


def _publish(workspace: Workspace, params: Params) -> int:
    raw = np.random.default_rng(1).normal(size=(_REFERENCE_ROWS, COUNT)).astype(np.float32)
    times = np.arange(_REFERENCE_ROWS) * params.drift.every_ms * NS_PER_MS
    rows = RawRows(times, np.zeros(_REFERENCE_ROWS, np.int64), raw)
    reference = Reference({str(INSTRUMENT): rows}, fit_scaling(raw), params.drift.every_ms)
    score, _ = fit_score(reference, params.reference)
    paths = workspace.root / REFERENCE, workspace.root / SCORE
    save_reference(reference, paths[0])
    export_score(score, paths[1])
    manifest = publish_untrained(workspace, params, params.model.name, 0, reference_path=paths[0], score_path=paths[1])
    return manifest.version

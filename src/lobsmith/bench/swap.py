"""Requests of clients while versions are published, promoted, rolled back and retired under a constant load.

A Triton of its own serves small random networks of the size in params.yaml; `lobsmith.bench.swap_load` sends the
requests. Each round publishes a candidate, promotes it and undeploys the candidate; every second round rolls back;
retention retires old versions. A swap is a change of the version that answers requests without a version. A request
without an answer has failed, whatever the reason.
"""

import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import torch
from msgspec import Struct, structs

from lobsmith.bench.swap_load import WAYS, Plan, Request
from lobsmith.compress.export import export_onnx
from lobsmith.compress.golden import golden_vectors
from lobsmith.compress.runtime import OnnxModel
from lobsmith.errors import ServingError
from lobsmith.gates.parity import parity
from lobsmith.market.instrument import Instrument
from lobsmith.models.networks.registry import build
from lobsmith.params import Params
from lobsmith.progress import Note
from lobsmith.release.context import Release
from lobsmith.release.publish.onnx import Artifact, publish
from lobsmith.release.publish.promote import promote
from lobsmith.release.repository.candidate import undeploy_candidate
from lobsmith.release.repository.rollback import rollback
from lobsmith.release.version.contract import wire_contract
from lobsmith.release.version.names import candidate_model
from lobsmith.serving.running_server import running_server
from lobsmith.serving.supervisor import EventKind, ServeEvent, running_triton, with_free_ports
from lobsmith.units import NS_PER_MS, NS_PER_S, NS_PER_US
from lobsmith.workspace import Workspace

_PRIME_ROWS = 128
_LOAD_STOP_S = 30.0
_EXAMPLES = 5


class WayReport(Struct, frozen=True, kw_only=True):
    """Latencies of one way, microseconds, before the first swap and while versions changed."""

    requests: int
    failed: int
    p50_before_us: float
    p99_before_us: float
    p50_during_us: float
    p99_during_us: float
    max_during_us: float


class SwapReport(Struct, frozen=True, kw_only=True):
    """Requests, microseconds of an answer, and milliseconds from the rollback's call to the old version's answer.

    `failures` counts reasons; `ways` splits the figures; `restarts` counts crashes of Triton.
    """

    swaps: int
    published: int
    promoted: int
    rolled_back: int
    retired: int
    seconds: float
    rate: float
    requests: int
    failed: int
    failures: dict[str, int]
    p50_before_us: float
    p99_before_us: float
    p50_during_us: float
    p99_during_us: float
    rollback_ms: dict[str, float]
    restarts: int
    ways: dict[str, WayReport]


def bench_swap(params: Params, *, swaps: int, rate: float, before_s: float, note: Note) -> SwapReport:
    """Swap versions under load.

    Args:
        params: the network, `serving`, `client` and `release.keep`; ports are chosen freely.
        swaps: how many at least.
        rate: requests a second, all ways together.
        before_s: seconds of load before the first swap.
        note: called with the progress.

    Raises:
        ServingError: Triton cannot be started, or the load sent no request.
    """
    params = with_free_ports(params)
    events: list[ServeEvent] = []
    with tempfile.TemporaryDirectory(prefix="lobsmith-swap-") as folder:
        workspace = Workspace(Path(folder))
        artifacts = [_artifact(workspace, params, seed) for seed in range(3)]
        publish(Release(workspace, params), artifacts[0], model=params.model.name, contract=wire_contract(params))
        with running_triton(workspace, params, on_event=events.append) as control:
            server = running_server(workspace, params)
            if server is None:
                raise ServingError(f"{workspace.root}: the server has gone")
            plan = Plan(
                grpc_url=control.endpoint.grpc_url,
                http_url=control.endpoint.http_url,
                model=params.model.name,
                rate=rate / len(WAYS),
                client=params.client,
            )
            with _load(workspace, plan) as requests:
                time.sleep(before_s)
                rounds = _Rounds(Release(workspace, params, server), artifacts)
                started_ns = time.monotonic_ns()
                while rounds.swaps < swaps:
                    rounds.play()
                    note(f"{rounds.swaps} swaps")
                ended_ns = time.monotonic_ns()
        restarts = sum(event.kind is EventKind.EXITED for event in events)
    return _report(requests, rounds, (started_ns, ended_ns), rate, restarts)


class _Rounds:
    """Rounds of publishing, promoting, rolling back and retiring, and their counts."""

    def __init__(self, release: Release, artifacts: list[Artifact]) -> None:
        self._release = release
        self._artifacts = artifacts
        self.published = self.promoted = self.retired = 0
        self.rollbacks: list[tuple[int, int]] = []
        """When each was called (monotonic clock, ns), and the version gone back to."""

    @property
    def swaps(self) -> int:
        """Changes of the newest version."""
        return self.promoted + len(self.rollbacks)

    def play(self) -> None:
        release, repository, params = self._release, self._release.repository, self._release.params
        model, deployment = params.model.name, candidate_model(params.model.name)
        artifact = self._artifacts[self.published % len(self._artifacts)]
        candidate = publish(release, artifact, model=deployment, contract=wire_contract(params)).version
        self.published += 1
        before = set(repository.versions(model))
        promote(release, repository.directory(deployment, candidate), model=model)
        self.promoted += 1
        self.retired += len(before - set(repository.versions(model)))
        undeploy_candidate(release, model)
        if self.promoted % 2 == 0:
            called_ns = time.monotonic_ns()
            self.rollbacks.append((called_ns, rollback(release, model).version_to))


def _artifact(workspace: Workspace, params: Params, seed: int) -> Artifact:
    """Return a network with random weights, which the seed sets."""
    torch.manual_seed(seed)
    contract = wire_contract(params)
    network = build(params.model, contract.feature_count, contract.horizons_ms)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    path = workspace.root / f"model-{seed}.onnx"
    export_onnx(network, path)
    model = OnnxModel(path)
    rows = np.random.default_rng(seed).normal(size=(256, contract.feature_count)).astype(np.float32)
    return Artifact(
        model_path=path,
        golden=golden_vectors(model, rows),
        prime_rows=_PRIME_ROWS,
        instruments=(Instrument(venue="simulator", symbol="SIM", tick_size=0.1, lot_size=0.001),),
        data_fingerprint="0" * 64,
        verdicts=(parity(network, model, rows, params.gates.parity.fp32),),
        metrics={},
    )


@contextmanager
def _load(workspace: Workspace, plan: Plan) -> Iterator[list[Request]]:
    """Send requests while the block runs; the list is filled when it ends."""
    requests: list[Request] = []
    paths = workspace.root / "load.json", workspace.root / "load.msgpack"
    paths[0].write_bytes(msgspec.json.encode(plan))
    command = [sys.executable, "-P", "-m", f"{__package__}.swap_load", *map(str, paths)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        try:
            # Its first line, or its end.
            if child.stdout is not None and not child.stdout.readline():
                raise ServingError("lobsmith.bench.swap_load could not send requests; see its output above")
            yield requests
        finally:
            if child.stdin is not None:
                child.stdin.close()
            try:
                code = child.wait(_LOAD_STOP_S)
            except subprocess.TimeoutExpired:
                child.kill()
                code = child.wait()
    if code:
        raise ServingError(f"lobsmith.bench.swap_load ended with status {code}; no requests were counted")
    requests += msgspec.msgpack.decode(paths[1].read_bytes(), type=list[Request])


def _report(
    requests: list[Request], rounds: _Rounds, during_ns: tuple[int, int], rate: float, restarts: int
) -> SwapReport:
    requests = [request for request in requests if request.sent_ns <= during_ns[1]]
    overall = _way(requests, during_ns[0])
    failures = Counter(request.failure for request in requests if request.failure is not None)
    rollback_ms = [_until_answered(requests, called_ns, version) for called_ns, version in rounds.rollbacks]
    return SwapReport(
        swaps=rounds.swaps,
        published=rounds.published,
        promoted=rounds.promoted,
        rolled_back=len(rounds.rollbacks),
        retired=rounds.retired,
        seconds=round((during_ns[1] - during_ns[0]) / NS_PER_S, 1),
        rate=rate,
        failures=dict(failures.most_common(_EXAMPLES)),
        rollback_ms={
            "p50": float(np.median(rollback_ms)),
            "max": float(np.max(rollback_ms)),
            "count": len(rollback_ms),
        },
        restarts=restarts,
        ways={way: _way([request for request in requests if request.way == way], during_ns[0]) for way in WAYS},
        **{name: value for name, value in structs.asdict(overall).items() if name != "max_during_us"},
    )


def _way(requests: list[Request], start_ns: int) -> WayReport:
    before = [(request.answered_ns - request.sent_ns) / NS_PER_US for request in requests if request.sent_ns < start_ns]
    during = [
        (request.answered_ns - request.sent_ns) / NS_PER_US for request in requests if request.sent_ns >= start_ns
    ]
    if not before or not during:
        raise ServingError("the load sent no request; see its output above")
    p50_before, p99_before = np.percentile(before, (50, 99))
    p50_during, p99_during = np.percentile(during, (50, 99))
    return WayReport(
        requests=len(requests),
        failed=sum(request.failure is not None for request in requests),
        p50_before_us=float(p50_before),
        p99_before_us=float(p99_before),
        p50_during_us=float(p50_during),
        p99_during_us=float(p99_during),
        max_during_us=max(during),
    )


def _until_answered(requests: list[Request], called_ns: int, version: int) -> float:
    """Return the milliseconds from a rollback's call to the version's first answer to a request without a version."""
    answered = [
        request.answered_ns
        for request in requests
        if request.version == version and request.sent_ns >= called_ns and not request.way.endswith("client")
    ]
    return (min(answered, default=sys.maxsize) - called_ns) / NS_PER_MS

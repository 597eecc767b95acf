"""Constant load on a running server, a process of its own: `python -m lobsmith.bench.swap_load PLAN RESULT`.

Two streams request the newest version, over gRPC and over HTTP; two are trading clients, one over each. Each sends
single rows at a constant rate and catches up after a delay. The process prints a line once all are ready, stops when
its standard input ends, and writes its requests.
"""

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import tritonclient.grpc
import tritonclient.http
from msgspec import Struct

from lobsmith.params import ClientParams
from lobsmith.release.version.contract import FEATURES, PROBABILITIES, STATE
from lobsmith.trading.client.stream import StreamClient
from lobsmith.trading.transport.grpc import GrpcTransport
from lobsmith.trading.transport.http import HttpTransport

WAYS = ("grpc", "http", "grpc client", "http client")
_ROWS = 4096
_START_S = 60.0


class Plan(Struct, frozen=True, kw_only=True):
    """What to request: `rate` is requests a second of each way, `client` the trading client's parameters."""

    grpc_url: str
    http_url: str
    model: str
    rate: float
    client: ClientParams


class Request(Struct, frozen=True, kw_only=True, array_like=True):
    """A request: its way, when it was sent and answered (monotonic clock, ns), and the version, or the failure."""

    way: str
    sent_ns: int
    answered_ns: int
    version: int | None
    failure: str | None


@dataclass(frozen=True)
class _Answer:
    version: int | None
    failure: str | None = None


def main(plan_path: str, result_path: str) -> None:
    plan = msgspec.json.decode(Path(plan_path).read_bytes(), type=Plan)
    stop, ready = threading.Event(), threading.Barrier(len(WAYS) + 1, timeout=_START_S)
    requests: list[list[Request]] = [[] for _ in WAYS]
    threads = [
        threading.Thread(target=_ask, args=(plan, way, offset / len(WAYS), ready, stop, into))
        for offset, (way, into) in enumerate(zip(WAYS, requests, strict=True))
    ]
    for thread in threads:
        thread.start()
    ready.wait()
    print("asking", flush=True)
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join()
    Path(result_path).write_bytes(msgspec.msgpack.encode([request for way in requests for request in way]))


def _ask(
    plan: Plan, way: str, phase: float, ready: threading.Barrier, stop: threading.Event, into: list[Request]
) -> None:
    # Transports are bound to their thread.
    request = _client(plan, way) if way.endswith("client") else _nameless(plan, way)
    ready.wait()
    next_s = time.monotonic() + phase / plan.rate
    while not stop.is_set():
        time.sleep(max(0.0, next_s - time.monotonic()))
        next_s += 1 / plan.rate
        sent_ns = time.monotonic_ns()
        answered = request()
        into.append(
            Request(
                way=way,
                sent_ns=sent_ns,
                answered_ns=time.monotonic_ns(),
                version=answered.version,
                failure=answered.failure,
            )
        )


def _client(plan: Plan, way: str) -> Callable[[], _Answer]:
    transport = GrpcTransport(plan.grpc_url) if way.startswith("grpc") else HttpTransport(plan.http_url)
    client = StreamClient.open(transport, plan.model, plan.client)
    rows = _rows(transport.describe(plan.model).feature_count)
    number = iter(range(sys.maxsize))

    def request() -> _Answer:
        prediction = client.step(rows[next(number) % _ROWS])
        if prediction.reason is None:
            return _Answer(prediction.version)
        return _Answer(prediction.version, f"{prediction.reason.value}: {prediction.detail}")

    return request


def _nameless(plan: Plan, way: str) -> Callable[[], _Answer]:
    """Return a function that requests a row's answer of the newest version, from a cold state."""
    module: Any = tritonclient.grpc if way == "grpc" else tritonclient.http
    url = plan.grpc_url if way == "grpc" else plan.http_url
    shape = GrpcTransport(plan.grpc_url).describe(plan.model)
    client = module.InferenceServerClient(url)
    rows, state = _rows(shape.feature_count), np.zeros((1, shape.state_size), np.float32)
    number = iter(range(sys.maxsize))
    limit = {"client_timeout": plan.client.deadline_s} if way == "grpc" else {}

    def request() -> _Answer:
        inputs = []
        for name, array in ((FEATURES, rows[np.newaxis, next(number) % _ROWS, np.newaxis]), (STATE, state)):
            inputs.append(module.InferInput(name, list(array.shape), "FP32"))
            inputs[-1].set_data_from_numpy(np.ascontiguousarray(array))
        try:
            result = client.infer(plan.model, inputs, **limit)
        except Exception as error:  # noqa: BLE001 - whatever a client library raises, the request failed
            return _Answer(None, " ".join(str(error).split())[:300])
        response = result.get_response()
        version = int(response["model_version"] if isinstance(response, dict) else response.model_version)
        finite = np.isfinite(result.as_numpy(PROBABILITIES)).all()
        return _Answer(version, None if finite else "the answer is not finite")

    return request


def _rows(features: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(0).normal(size=(_ROWS, features)).astype(np.float32)


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2])
    except threading.BrokenBarrierError:
        sys.exit("the server does not answer")

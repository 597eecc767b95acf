"""Warm-up: a version just loaded answers its golden vectors before live rows, one at a time over gRPC, state carried.

`model_warmup` in `config.pbtxt` runs a few rows of zeros before READY as well; without it the first answer takes fifty
times as long. Triton counts warm-ups as requests: their number is kept beside the server, `traffic` subtracts it.
"""

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import tritonclient.grpc
from msgspec import Struct, structs
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from lobsmith import clock, jsonl
from lobsmith.compress import GOLDEN
from lobsmith.compress.golden import load_golden
from lobsmith.errors import ServingError
from lobsmith.files import write_atomic
from lobsmith.release.repository.repository import Repository
from lobsmith.release.version.contract import FEATURES, MAX_ROWS, NEXT_STATE, OUTLOOK, PROBABILITIES, ROWS, SCORE, STATE
from lobsmith.release.version.triton_config import read_config
from lobsmith.serving.endpoint import Endpoint
from lobsmith.serving.triton.control import CHANNEL, TritonControl, UnreachableError
from lobsmith.workspace import Workspace

_REQUEST_DEADLINE_S = 5.0
_SUM_TOLERANCE = 1e-3

_Answer = dict[str, NDArray[np.float32]]


class WarmedUp(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A successful warm-up: `requests` single rows, and latency percentiles in microseconds.

    `server`: the last run of Triton asked; `sent`: requests to it since it loaded the version.
    """

    model: str
    version: int
    server: str
    sent: int
    time_ns: int
    requests: int
    p50_us: float
    p99_us: float


class Traffic(Struct, frozen=True, kw_only=True):
    """Requests to a version since it was loaded, warm-ups subtracted."""

    requests: int
    failed: int


def warm_up(workspace: Workspace, endpoint: Endpoint, model: str, version: int, requests: int) -> WarmedUp:
    """Have a loaded version answer single real rows; store their number and latency.

    Args:
        workspace: of the version.
        endpoint: of the server.
        model: the model's name.
        version: READY.
        requests: rows; the golden ones repeat.

    Raises:
        ReleaseError: the version has no golden vectors.
        UnreachableError: the server went away.
        ServingError: an answer is missing, late, not finite or no probabilities, or all are equal.
    """
    latencies_us = _answer_rows(workspace, endpoint, model, version, requests)
    p50, p99 = np.percentile(latencies_us, (50, 99))
    warmed = WarmedUp(
        model=model,
        version=version,
        server=_run(endpoint),
        sent=requests,
        time_ns=clock.now_ns(),
        requests=requests,
        p50_us=float(p50),
        p99_us=float(p99),
    )
    _keep(workspace, warmed)
    return warmed


def ask_once(workspace: Workspace, endpoint: Endpoint, warmed: WarmedUp) -> None:
    """Have a loaded version that was warmed up before answer one real row.

    Raises:
        See `warm_up`.
    """
    _answer_rows(workspace, endpoint, warmed.model, warmed.version, 1)
    server = _run(endpoint)
    # Triton's counters restart with it.
    sent = warmed.sent + 1 if warmed.server == server else 1
    _keep(workspace, structs.replace(warmed, server=server, sent=sent))


def ask_score(repository: Repository, endpoint: Endpoint, model: str, version: int) -> None:
    """Have a loaded drift score answer a block of zeros.

    Raises:
        ReleaseError: the repository is unreadable.
        UnreachableError: the server went away.
        ServingError: the answer is missing, late or not finite.
    """
    features = repository.verify(model, version).contract.feature_count
    with _client(endpoint) as client:
        answer = _ask(client, model, version, {ROWS: np.zeros((1, MAX_ROWS, features), np.float32)}, (SCORE,))
    _check_finite(f"{model}/{version}: warm-up", answer)


def warmed_up(workspace: Workspace, model: str, version: int) -> WarmedUp | None:
    """Return the last warm-up of a version, None without one."""
    try:
        return jsonl.decode(_path(workspace, model, version).read_bytes(), WarmedUp)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def forget(workspace: Workspace, model: str, version: int) -> None:
    """Delete the warm-up of a version that was unloaded."""
    _path(workspace, model, version).unlink(missing_ok=True)


def traffic(workspace: Workspace, control: TritonControl, model: str) -> dict[int, Traffic]:
    """Return each loaded version's requests since it was loaded, warm-ups subtracted.

    Raises:
        ServingError: the server does not answer, or has no such model.
    """
    config = read_config(Repository.of(workspace).config_path(model))
    configured = sum(warmup.count for warmup in config.model_warmup)
    requests = {}
    for version, (succeeded, failed) in control.counts(model).items():
        warmed = warmed_up(workspace, model, version)
        sent = warmed.sent if warmed is not None and warmed.server == _run(control.endpoint) else 0
        requests[version] = Traffic(requests=max(0, succeeded + failed - configured - sent), failed=failed)
    return requests


def _answer_rows(workspace: Workspace, endpoint: Endpoint, model: str, version: int, requests: int) -> list[float]:
    """Return each answer's latency, microseconds."""
    golden = load_golden(Repository.of(workspace).directory(model, version) / GOLDEN)
    where = f"{model}/{version}: warm-up"
    probabilities, latencies_us, state = [], [], golden.state
    with _client(endpoint) as client:
        for number in range(requests):
            row = number % golden.features.shape[1]
            started = time.perf_counter()
            inputs = {FEATURES: golden.features[:, row : row + 1], STATE: state}
            answer = _ask(client, model, version, inputs, (PROBABILITIES, OUTLOOK, NEXT_STATE))
            latencies_us.append((time.perf_counter() - started) * 1e6)
            _check(f"{where}, row {number}", answer)
            probabilities.append(answer[PROBABILITIES])
            state = answer[NEXT_STATE]
    if requests > 1 and np.ptp(np.concatenate(probabilities), axis=0).max() == 0:
        raise ServingError(f"{where}: its answers are the same for every row; train it again")
    return latencies_us


@contextmanager
def _client(endpoint: Endpoint) -> Iterator[tritonclient.grpc.InferenceServerClient]:
    client = tritonclient.grpc.InferenceServerClient(endpoint.grpc_url, channel_args=CHANNEL)
    try:
        yield client
    finally:
        client.close()


def _ask(
    client: tritonclient.grpc.InferenceServerClient,
    model: str,
    version: int,
    arrays: Mapping[str, NDArray[np.float32]],
    outputs: Sequence[str],
) -> _Answer:
    inputs = []
    for name, array in arrays.items():
        inputs.append(tritonclient.grpc.InferInput(name, list(array.shape), "FP32"))
        inputs[-1].set_data_from_numpy(np.ascontiguousarray(array))
    try:
        result = client.infer(model, inputs, model_version=str(version), client_timeout=_REQUEST_DEADLINE_S)
    except InferenceServerException as error:
        text = " ".join(str(error.message() or "").split())[:300] or str(error.status())
        lost = str(error.status()) == "StatusCode.UNAVAILABLE" and "unknown model" not in text
        raise (UnreachableError if lost else ServingError)(f"{model}/{version}: warm-up: {text}") from error
    return {name: result.as_numpy(name) for name in outputs}


def _check_finite(where: str, answer: _Answer) -> None:
    for name, tensor in answer.items():
        if tensor is None or not np.isfinite(tensor).all():
            raise ServingError(f"{where}: {name} is not finite; train it again")


def _check(where: str, answer: _Answer) -> None:
    _check_finite(where, answer)
    probabilities = answer[PROBABILITIES]
    if probabilities.min() < 0 or np.abs(probabilities.sum(axis=-1) - 1).max() > _SUM_TOLERANCE:
        raise ServingError(f"{where}: the answer holds no probabilities; export it with the softmax")


def _keep(workspace: Workspace, warmed: WarmedUp) -> None:
    write_atomic(_path(workspace, warmed.model, warmed.version), msgspec.json.encode(warmed))


def _path(workspace: Workspace, model: str, version: int) -> Path:
    return workspace.serving / "warmups" / f"{model}-{version}.json"


def _run(endpoint: Endpoint) -> str:
    # The key is new at every start, and must not lie in a readable file.
    return hashlib.sha256(endpoint.key.encode()).hexdigest()[:16]

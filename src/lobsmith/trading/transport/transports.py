"""Ways to ask a model server, all of one shape: Triton over gRPC, Triton over HTTP, the engine in this process.

Deadlines are seconds everywhere. A transport belongs to the thread that made it.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import gevent
import numpy as np
import tritonclient.grpc
import tritonclient.http
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from lobsmith.errors import DeadlineError, LobsmithError, ReleaseError, RequestError, ServingError
from lobsmith.release.repository.repository import Repository
from lobsmith.release.version.contract import (
    CONTRIBUTIONS,
    FEATURES,
    NEXT_STATE,
    OUTLOOK,
    PROBABILITIES,
    ROWS,
    SCORE,
    STATE,
)
from lobsmith.release.version.names import score_model
from lobsmith.serving.engine import Engine
from lobsmith.serving.score_engine import ScoreModels
from lobsmith.trading.transport.answer import Answer, ModelShape, Score, checked_answer, checked_score, model_shape

Float32 = NDArray[np.float32]

_SCORES = (SCORE, CONTRIBUTIONS)
_OUTPUTS = (PROBABILITIES, OUTLOOK, NEXT_STATE)
_LOOKUP_DEADLINE_S = 2.0
_GRPC_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # By default a channel that lost its server waits up to two minutes before it tries again.
    ("grpc.initial_reconnect_backoff_ms", 100),
    # In spite of its name this is how long one attempt may take.
    ("grpc.min_reconnect_backoff_ms", 2000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Clients of one server would else share one connection, and its backoff.
    ("grpc.use_local_subchannel_pool", 1),
    # A proxy variable of the shell must not put a proxy between a trading client and its model server.
    ("grpc.enable_http_proxy", 0),
]


class Transport(Protocol):
    """The seam between a client and whatever answers it."""

    def versions(self, model: str) -> list[int]:
        """Return the versions that answer, rising; none where the model is unknown.

        Raises:
            ServingError: the server does not answer.
        """

    def infer(self, model: str, version: int, features: Float32, state: Float32, deadline_s: float) -> Answer:
        """Ask one version.

        Args:
            model: the model's name.
            version: the version asked; an answer of another one is refused.
            features: float32 [B, T, F].
            state: float32 [B, S].
            deadline_s: an answer that comes later is discarded.

        Raises:
            DeadlineError: no answer in time.
            RequestError: the server refused the request itself.
            ServingError: no server, no such version, or an answer of the wrong shape or version.
        """

    def close(self) -> None:
        """Let go of connections and loaded models."""


class DescribingTransport(Transport, Protocol):
    """A transport that can also tell a model's shape."""

    def describe(self, model: str) -> ModelShape:
        """Return a model's shape.

        Raises:
            ServingError: the server does not answer, or has no such model.
        """


class ScoringTransport(Protocol):
    """A transport that can also score rows against what a version has learnt from."""

    def score(self, model: str, version: int, rows: Float32, deadline_s: float) -> Score:
        """Ask the score of one class that was published with a version.

        Args:
            model: the model's name, not the score's.
            version: the version whose training window the rows are held against.
            rows: float32 [T, F], thinned raw rows, oldest first.
            deadline_s: an answer that comes later is discarded.

        Raises:
            DeadlineError: no answer in time.
            RequestError: the server refused the request itself, for instance another T than the score was made for.
            ServingError: no server, no score of that version, or an answer of the wrong shape or version.
        """

    def close(self) -> None:
        """Let go of connections and loaded models."""


class GrpcTransport:
    """Triton over gRPC."""

    def __init__(self, url: str) -> None:
        """Prepare to ask `url`, host and port: `127.0.0.1:8001`."""
        self._url = url
        self._client = tritonclient.grpc.InferenceServerClient(url, channel_args=_GRPC_OPTIONS)

    def versions(self, model: str) -> list[int]:
        """See `Transport.versions`."""
        with _mapped(self._url, model, _LOOKUP_DEADLINE_S) as unknown:
            metadata = self._client.get_model_metadata(model, client_timeout=_LOOKUP_DEADLINE_S)
        return [] if unknown else sorted(int(version) for version in metadata.versions)

    def describe(self, model: str) -> ModelShape:
        """See `DescribingTransport.describe`."""
        with _mapped(self._url, model, _LOOKUP_DEADLINE_S) as unknown:
            answer = self._client.get_model_config(model, as_json=True, client_timeout=_LOOKUP_DEADLINE_S)
        if unknown:
            raise ServingError(f"{self._url}: {unknown[0]}")
        return model_shape(answer["config"])

    def infer(self, model: str, version: int, features: Float32, state: Float32, deadline_s: float) -> Answer:
        """See `Transport.infer`."""
        started = time.monotonic()
        with _mapped(self._url, model, deadline_s) as unknown:
            result = self._client.infer(
                model,
                _inputs(tritonclient.grpc.InferInput, {FEATURES: features, STATE: state}),
                model_version=str(version),
                outputs=[tritonclient.grpc.InferRequestedOutput(name) for name in _OUTPUTS],
                client_timeout=deadline_s,
            )
        if unknown:
            raise ServingError(f"{self._url}: {unknown[0]}")
        _check_in_time(self._url, started, deadline_s)
        answered = result.get_response().model_version
        return checked_answer(f"{self._url}: {model}", version, answered, features, state, result.as_numpy)

    def score(self, model: str, version: int, rows: Float32, deadline_s: float) -> Score:
        """See `ScoringTransport.score`."""
        started, name = time.monotonic(), score_model(model)
        with _mapped(self._url, name, deadline_s) as unknown:
            result = self._client.infer(
                name,
                _inputs(tritonclient.grpc.InferInput, {ROWS: rows[np.newaxis]}),
                model_version=str(version),
                outputs=[tritonclient.grpc.InferRequestedOutput(name) for name in _SCORES],
                client_timeout=deadline_s,
            )
        if unknown:
            raise ServingError(f"{self._url}: {unknown[0]}")
        _check_in_time(self._url, started, deadline_s)
        answered = result.get_response().model_version
        return checked_score(f"{self._url}: {name}", version, answered, rows, result.as_numpy)

    def close(self) -> None:
        """Close the channel."""
        self._client.close()


class HttpTransport:
    """Triton over HTTP, tensors in binary."""

    def __init__(self, url: str) -> None:
        """Prepare to ask `url`, host and port: `127.0.0.1:8000`."""
        self._url = url
        self._client = tritonclient.http.InferenceServerClient(url)

    def versions(self, model: str) -> list[int]:
        """See `Transport.versions`."""
        with self._within(_LOOKUP_DEADLINE_S), _mapped(self._url, model, _LOOKUP_DEADLINE_S) as unknown:
            metadata = self._client.get_model_metadata(model)
        return [] if unknown else sorted(int(version) for version in metadata.get("versions", []))

    def describe(self, model: str) -> ModelShape:
        """See `DescribingTransport.describe`."""
        with self._within(_LOOKUP_DEADLINE_S), _mapped(self._url, model, _LOOKUP_DEADLINE_S) as unknown:
            config = self._client.get_model_config(model)
        if unknown:
            raise ServingError(f"{self._url}: {unknown[0]}")
        return model_shape(config)

    def infer(self, model: str, version: int, features: Float32, state: Float32, deadline_s: float) -> Answer:
        """See `Transport.infer`."""
        started = time.monotonic()
        with self._within(deadline_s), _mapped(self._url, model, deadline_s) as unknown:
            result = self._client.infer(
                model,
                _inputs(tritonclient.http.InferInput, {FEATURES: features, STATE: state}),
                model_version=str(version),
                outputs=[tritonclient.http.InferRequestedOutput(name, binary_data=True) for name in _OUTPUTS],
            )
        if unknown:
            raise ServingError(f"{self._url}: {unknown[0]}")
        _check_in_time(self._url, started, deadline_s)
        answered = result.get_response().get("model_version")
        return checked_answer(f"{self._url}: {model}", version, answered, features, state, result.as_numpy)

    def score(self, model: str, version: int, rows: Float32, deadline_s: float) -> Score:
        """See `ScoringTransport.score`."""
        started, name = time.monotonic(), score_model(model)
        with self._within(deadline_s), _mapped(self._url, name, deadline_s) as unknown:
            result = self._client.infer(
                name,
                _inputs(tritonclient.http.InferInput, {ROWS: rows[np.newaxis]}),
                model_version=str(version),
                outputs=[tritonclient.http.InferRequestedOutput(name, binary_data=True) for name in _SCORES],
            )
        if unknown:
            raise ServingError(f"{self._url}: {unknown[0]}")
        _check_in_time(self._url, started, deadline_s)
        answered = result.get_response().get("model_version")
        return checked_score(f"{self._url}: {name}", version, answered, rows, result.as_numpy)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    @contextmanager
    def _within(self, deadline_s: float) -> Iterator[None]:
        """Limit the whole block; the client's own time-outs hold for each read, and only per connection."""
        limit = gevent.Timeout.start_new(deadline_s)
        try:
            yield
        except gevent.Timeout as error:
            if error is not limit:
                raise
            # Half an answer may still be on its way on that connection.
            self._client.close()
            self._client = tritonclient.http.InferenceServerClient(self._url)
            raise DeadlineError(f"{self._url}: no answer within {deadline_s:g} s") from error
        finally:
            limit.close()


class InProcessTransport:
    """The engine in this process, reading the model repository itself."""

    def __init__(self, repository: Repository) -> None:
        """Prepare to serve what `repository` lists; a version is verified and loaded when it is first needed."""
        self._repository = repository
        self._engines: dict[tuple[str, int], Engine] = {}
        self._broken: set[tuple[str, int]] = set()
        self._scores = ScoreModels(repository)

    def versions(self, model: str) -> list[int]:
        """Return the listed versions, rising; a newest one that cannot be loaded is left out, and so on downwards.

        Of companions it returns none: this process runs the ONNX models themselves.
        """
        try:
            if self._repository.is_companion(model):
                return []
            listed = sorted(self._repository.listed(model)) if model in self._repository.models() else []
        except (OSError, ReleaseError) as error:
            raise ServingError(f"{model}: the repository cannot be read: {error}") from error
        for name, version in list(self._engines):
            if name == model and version not in listed:
                del self._engines[name, version]
        while listed and not self._loads(model, listed[-1]):
            listed.pop()
        return [version for version in listed if (model, version) not in self._broken]

    def describe(self, model: str) -> ModelShape:
        """See `DescribingTransport.describe`."""
        versions = self.versions(model)
        if not versions:
            raise ServingError(f"{model}: the repository lists no version that can be served; publish one first")
        manifest = self._engine(model, versions[-1]).manifest
        return ModelShape(
            feature_count=manifest.contract.feature_count,
            state_size=manifest.contract.state_size,
            horizons=len(manifest.contract.horizons_ms),
            prime_rows=manifest.prime_rows,
            definitions_sha256=manifest.contract.definitions_sha256,
        )

    def infer(self, model: str, version: int, features: Float32, state: Float32, deadline_s: float) -> Answer:
        """See `Transport.infer`."""
        started = time.monotonic()
        try:
            engine = self._engines.get((model, version)) or self._engine(model, version)
        except ReleaseError as error:
            raise ServingError(str(error)) from error
        answer = engine.infer(features, state)
        _check_in_time("in process", started, deadline_s)
        return checked_answer(f"in process: {model}", version, engine.version, features, state, answer._asdict().get)

    def score(self, model: str, version: int, rows: Float32, deadline_s: float) -> Score:
        """See `ScoringTransport.score`."""
        started = time.monotonic()
        outputs = self._scores.run(model, version, rows[np.newaxis])
        _check_in_time("in process", started, deadline_s)
        return checked_score(f"in process: {model}", version, version, rows, outputs.get)

    def close(self) -> None:
        """Drop the loaded models."""
        self._engines.clear()
        self._scores.close()

    def _loads(self, model: str, version: int) -> bool:
        if (model, version) in self._broken:
            return False
        try:
            self._engine(model, version)
        except LobsmithError:
            self._broken.add((model, version))
            return False
        return True

    def _engine(self, model: str, version: int) -> Engine:
        engine = self._engines.get((model, version))
        if engine is None:
            if version not in self._repository.listed(model):
                raise ServingError(f"{model}/{version}: not a listed version")
            engine = Engine(self._repository.directory(model, version), self._repository.trust)
            # The first run allocates and is many times slower than the rest.
            contract = engine.manifest.contract
            engine.infer(
                np.zeros((1, 1, contract.feature_count), np.float32), np.zeros((1, contract.state_size), np.float32)
            )
            self._engines[model, version] = engine
        return engine


@contextmanager
def _mapped(url: str, model: str, deadline_s: float) -> Iterator[list[str]]:
    """Turn a Triton client's errors into ours.

    Yields:
        A list that holds one line after the block where the server knows no such model or version.
    """
    unknown: list[str] = []
    try:
        yield unknown
    except InferenceServerException as error:
        status, text = str(error.status() or ""), " ".join(str(error.message() or "").split())[:300]
        if "unknown model" in text or "no available versions" in text:
            unknown.append(text)
        elif status == "StatusCode.DEADLINE_EXCEEDED":
            raise DeadlineError(f"{url}: no answer within {deadline_s:g} s") from error
        elif status in ("StatusCode.INVALID_ARGUMENT", "400"):
            raise RequestError(f"{url}: {model}: {text}") from error
        else:
            raise ServingError(f"{url}: {model}: {text or status}") from error
    except LobsmithError:
        raise
    except Exception as error:  # geventhttpclient raises errors that share no base
        raise ServingError(f"{url}: {model}: {' '.join(str(error).split())[:300] or type(error).__name__}") from error


def _inputs(kind: Any, arrays: dict[str, Float32]) -> list[Any]:
    tensors = []
    for name, array in arrays.items():
        if array.dtype != np.float32:
            raise RequestError(f"{name}: expected float32, got {array.dtype}")
        tensor = kind(name, list(array.shape), "FP32")
        tensor.set_data_from_numpy(np.ascontiguousarray(array))
        tensors.append(tensor)
    return tensors


def _check_in_time(where: str, started: float, deadline_s: float) -> None:
    took = time.monotonic() - started
    if took > deadline_s:
        raise DeadlineError(f"{where}: the answer took {took:.3f} s, the deadline is {deadline_s:g} s; it is discarded")

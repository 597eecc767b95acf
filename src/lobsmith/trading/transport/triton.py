"""What both Triton transports share: requests and error mapping."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from lobsmith.errors import DeadlineError, LobsmithError, RequestError, ServingError
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
from lobsmith.release.version.triton_config import DEFINITIONS, INSTRUMENTS, PRIME_ROWS
from lobsmith.trading.transport.base import Answer, DriftScore, ModelShape, check_in_time, checked_answer, checked_score

Float32 = NDArray[np.float32]
TritonAnswer = tuple[object, Callable[[str], Float32 | None]]
"""The version that answered, as the server wrote it, and its outputs by name."""

LOOKUP_DEADLINE_S = 2.0
_OUTPUTS = (PROBABILITIES, OUTLOOK, NEXT_STATE)
_SCORES = (SCORE, CONTRIBUTIONS)


class _UnknownModelError(ServingError):
    """The server has no such model or version."""


class TritonTransport(ABC):
    """A Triton server at one address; subclasses add the protocol."""

    def __init__(self, url: str) -> None:
        self._url = url

    def versions(self, model: str) -> list[int]:
        """See `Transport.versions`."""
        try:
            with self._mapped(model, LOOKUP_DEADLINE_S):
                return sorted(int(version) for version in self._ask_versions(model))
        except _UnknownModelError:
            return []

    def describe(self, model: str) -> ModelShape:
        """See `Transport.describe`."""
        with self._mapped(model, LOOKUP_DEADLINE_S):
            config = self._ask_config(model)
        return model_shape(config)

    def infer(self, model: str, version: int, features: Float32, state: Float32, deadline_s: float) -> Answer:
        """See `Transport.infer`."""
        answered, tensor = self._in_time(model, version, {FEATURES: features, STATE: state}, _OUTPUTS, deadline_s)
        return checked_answer(f"{self._url}: {model}", version, answered, features, state, tensor)

    def score(self, model: str, version: int, rows: Float32, deadline_s: float) -> DriftScore:
        """See `Transport.score`."""
        name = score_model(model)
        answered, tensor = self._in_time(name, version, {ROWS: rows[np.newaxis]}, _SCORES, deadline_s)
        return checked_score(f"{self._url}: {name}", version, answered, rows, tensor)

    @abstractmethod
    def close(self) -> None:
        """Close the connections."""

    @abstractmethod
    def _ask_versions(self, model: str) -> list[Any]:
        """Return the versions as the server writes them, within `LOOKUP_DEADLINE_S`."""

    @abstractmethod
    def _ask_config(self, model: str) -> dict[str, Any]:
        """Return the model's configuration in JSON, within `LOOKUP_DEADLINE_S`."""

    @abstractmethod
    def _ask(
        self, model: str, version: int, arrays: dict[str, Float32], outputs: tuple[str, ...], deadline_s: float
    ) -> TritonAnswer:
        """Return a version's answer to arrays."""

    def _in_time(
        self, model: str, version: int, arrays: dict[str, Float32], outputs: tuple[str, ...], deadline_s: float
    ) -> TritonAnswer:
        started = time.monotonic()
        with self._mapped(model, deadline_s):
            answered = self._ask(model, version, arrays, outputs, deadline_s)
        check_in_time(self._url, started, deadline_s)
        return answered

    @contextmanager
    def _mapped(self, model: str, deadline_s: float) -> Iterator[None]:
        try:
            yield
        except InferenceServerException as error:
            status, text = str(error.status() or ""), " ".join(str(error.message() or "").split())[:300]
            if "unknown model" in text or "no available versions" in text:
                raise _UnknownModelError(f"{self._url}: {text}") from error
            if status == "StatusCode.DEADLINE_EXCEEDED":
                raise DeadlineError(f"{self._url}: no answer within {deadline_s:g} s") from error
            if status in ("StatusCode.INVALID_ARGUMENT", "400"):
                raise RequestError(f"{self._url}: {model}: {text}") from error
            raise ServingError(f"{self._url}: {model}: {text or status}") from error
        except LobsmithError:
            raise
        except Exception as error:  # geventhttpclient raises errors that share no base
            text = " ".join(str(error).split())[:300]
            raise ServingError(f"{self._url}: {model}: {text or type(error).__name__}") from error


def request_tensors(kind: Any, arrays: dict[str, Float32]) -> list[Any]:
    """Return arrays as request inputs of the client library's `kind`.

    Raises:
        RequestError: another type than float32.
    """
    tensors = []
    for name, array in arrays.items():
        if array.dtype != np.float32:
            raise RequestError(f"{name}: expected float32, got {array.dtype}")
        tensor = kind(name, list(array.shape), "FP32")
        tensor.set_data_from_numpy(np.ascontiguousarray(array))
        tensors.append(tensor)
    return tensors


def model_shape(config: dict[str, Any]) -> ModelShape:
    """Read a model's shape from its configuration in JSON.

    Raises:
        ServingError: the configuration is not lobsmith's.
    """
    try:
        inputs = {tensor["name"]: tensor["dims"] for tensor in config["input"]}
        outputs = {tensor["name"]: tensor["dims"] for tensor in config["output"]}
        instruments = str(config["parameters"].get(INSTRUMENTS, {}).get("string_value", ""))
        return ModelShape(
            feature_count=int(inputs[FEATURES][-1]),
            state_size=int(inputs[STATE][-1]),
            horizons=int(outputs[PROBABILITIES][-2]),
            prime_rows=int(config["parameters"][PRIME_ROWS]["string_value"]),
            definitions_sha256=str(config["parameters"][DEFINITIONS]["string_value"]),
            instruments=tuple(filter(None, instruments.split(","))),
        )
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise ServingError(
            f"{config.get('name', 'the model')}: its configuration lacks {error}; it was not published by lobsmith"
        ) from error

"""The seam between client and model server: requests, answers and their checks.

Deadlines are in seconds. A transport belongs to the thread that made it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lobsmith.errors import DeadlineError, ServingError
from lobsmith.release.version.contract import (
    CLASSES,
    CONTRIBUTIONS,
    NEXT_STATE,
    OUTLOOK,
    OUTLOOKS,
    PROBABILITIES,
    SCORE,
)

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Answer:
    """A version's answer to one request.

    `probabilities` float32 [B, T, H, 3]; `outlook` float32 [B, T, H, 5]; `next_state` float32 [B, S].
    """

    version: int
    probabilities: Float32
    outlook: Float32
    next_state: Float32


@dataclass(frozen=True)
class DriftScore:
    """How unlike a version's reference window a block of rows is: an alarm above 1.

    `contributions` float32 [F]: each feature's part.
    """

    score: float
    contributions: Float32


@dataclass(frozen=True)
class ModelShape:
    """What a client must know of a model: F, S, H, priming rows, and the hash of its definitions.

    `instruments`: `venue:symbol` that the newest version was trained on; empty where unknown.
    """

    feature_count: int
    state_size: int
    horizons: int
    prime_rows: int
    definitions_sha256: str
    instruments: tuple[str, ...] = ()


class Transport(Protocol):
    """A way to ask a model server."""

    def versions(self, model: str) -> list[int]:
        """Return the versions that answer, ascending; none of an unknown model.

        Raises:
            ServingError: the server does not answer.
        """

    def describe(self, model: str) -> ModelShape:
        """Return a model's shape.

        Raises:
            ServingError: see `versions`, or there is no such model.
        """

    def infer(self, model: str, version: int, features: Float32, state: Float32, deadline_s: float) -> Answer:
        """Ask one version.

        Args:
            model: the model's name.
            version: the only one that may answer.
            features: float32 [B, T, F].
            state: float32 [B, S].
            deadline_s: later answers are discarded.

        Raises:
            DeadlineError: no answer in time.
            RequestError: the server refused the request.
            ServingError: no server, no such version, or an answer of wrong shape or version.
        """

    def score(self, model: str, version: int, rows: Float32, deadline_s: float) -> DriftScore:
        """Request the drift score that was published with a version.

        Args:
            model: the model's name, not the score's.
            version: of the score.
            rows: float32 [T, F], thinned raw rows, oldest first.
            deadline_s: later answers are discarded.

        Raises:
            DeadlineError: no answer in time.
            RequestError: the server refused the request, for instance another T.
            ServingError: see `infer`.
        """

    def close(self) -> None:
        """Release connections and models."""


def check_in_time(where: str, started: float, deadline_s: float) -> None:
    """Refuse an answer to a request `started` too long ago, monotonic seconds.

    Raises:
        DeadlineError: the deadline has passed.
    """
    elapsed_s = time.monotonic() - started
    if elapsed_s > deadline_s:
        raise DeadlineError(
            f"{where}: the answer took {elapsed_s:.3f} s, the deadline is {deadline_s:g} s; it is discarded"
        )


def checked_answer(
    where: str,
    version: int,
    answered: object,
    features: Float32,
    state: Float32,
    tensor: Callable[[str], Float32 | None],
) -> Answer:
    """Check an answer's version and shapes.

    Args:
        where: the server, for messages.
        version: requested.
        answered: as the server wrote it.
        features: float32 [B, T, F], as sent.
        state: float32 [B, S], as sent.
        tensor: returns an output by name, None without one.

    Raises:
        ServingError: another version answered, or wrong tensors.
    """
    if str(answered) != str(version):
        raise ServingError(f"{where}: version {version} was requested, version {answered} answered")
    probabilities, outlook, next_state = (tensor(name) for name in (PROBABILITIES, OUTLOOK, NEXT_STATE))
    if probabilities is None or outlook is None or next_state is None:
        raise ServingError(f"{where}/{version}: the answer lacks a tensor")
    expected = (*features.shape[:2], len(CLASSES))
    shape = probabilities.shape
    if probabilities.ndim != 4 or (*shape[:2], shape[3]) != expected or probabilities.dtype != np.float32:
        raise ServingError(
            f"{where}/{version}: {PROBABILITIES}: expected float32 [{expected[0]}, {expected[1]}, H, {expected[2]}], "
            f"got {probabilities.dtype} {list(shape)}"
        )
    if outlook.shape != (*shape[:3], len(OUTLOOKS)) or outlook.dtype != np.float32:
        raise ServingError(
            f"{where}/{version}: {OUTLOOK}: expected float32 {[*shape[:3], len(OUTLOOKS)]}, "
            f"got {outlook.dtype} {list(outlook.shape)}"
        )
    if next_state.shape != state.shape or next_state.dtype != np.float32:
        raise ServingError(
            f"{where}/{version}: {NEXT_STATE}: expected float32 {list(state.shape)}, "
            f"got {next_state.dtype} {list(next_state.shape)}"
        )
    return Answer(version=version, probabilities=probabilities, outlook=outlook, next_state=next_state)


def checked_score(
    where: str, version: int, answered: object, rows: Float32, tensor: Callable[[str], Float32 | None]
) -> DriftScore:
    """Check version and shapes of a score for rows, float32 [T, F]; any value passes.

    Raises:
        ServingError: another version answered, or wrong tensors.
    """
    if str(answered) != str(version):
        raise ServingError(f"{where}: version {version} was requested, version {answered} answered")
    score, contributions = tensor(SCORE), tensor(CONTRIBUTIONS)
    if score is None or contributions is None:
        raise ServingError(f"{where}/{version}: the answer lacks a tensor")
    for name, array, expected in ((SCORE, score, (1, 1)), (CONTRIBUTIONS, contributions, (1, rows.shape[1]))):
        if array.shape != expected or array.dtype != np.float32:
            raise ServingError(
                f"{where}/{version}: {name}: expected float32 {list(expected)}, got {array.dtype} {list(array.shape)}"
            )
    return DriftScore(float(score[0, 0]), contributions[0])

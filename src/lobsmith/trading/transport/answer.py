"""What a model server's answer must be, and what a client knows of a model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lobsmith.errors import ServingError
from lobsmith.release.version.contract import (
    CLASSES,
    CONTRIBUTIONS,
    FEATURES,
    NEXT_STATE,
    OUTLOOK,
    OUTLOOKS,
    PROBABILITIES,
    SCORE,
    STATE,
)
from lobsmith.release.version.triton_config import DEFINITIONS, PRIME_ROWS

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Answer:
    """What a version made of one request.

    `probabilities` float32 [B, T, H, 3]; `outlook` float32 [B, T, H, 5]; `next_state` float32 [B, S].
    """

    version: int
    probabilities: Float32
    outlook: Float32
    next_state: Float32


@dataclass(frozen=True)
class Score:
    """How unlike the training window of a version a block of rows is: an alarm above 1.

    `contributions` float32 [F]: each feature's part in it.
    """

    score: float
    contributions: Float32


@dataclass(frozen=True)
class ModelShape:
    """What a client must know of a model: F, S, H, how many rows prime a stream, and what its numbers mean."""

    feature_count: int
    state_size: int
    horizons: int
    prime_rows: int
    definitions_sha256: str


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
        where: who answered, for messages.
        version: the one that was asked.
        answered: the one that answered, as the server wrote it.
        features: float32 [B, T, F], as sent.
        state: float32 [B, S], as sent.
        tensor: returns an output by name, None where there is none.

    Raises:
        ServingError: another version answered, or with something else.
    """
    if str(answered) != str(version):
        raise ServingError(f"{where}: version {version} was asked, version {answered} answered")
    probabilities, outlook, next_state = (tensor(name) for name in (PROBABILITIES, OUTLOOK, NEXT_STATE))
    if probabilities is None or outlook is None or next_state is None:
        raise ServingError(f"{where}/{version}: the answer lacks a tensor")
    expected = (*features.shape[:2], len(CLASSES))
    got = probabilities.shape
    if probabilities.ndim != 4 or (*got[:2], got[3]) != expected or probabilities.dtype != np.float32:
        raise ServingError(
            f"{where}/{version}: {PROBABILITIES}: expected float32 [{expected[0]}, {expected[1]}, H, {expected[2]}], "
            f"got {probabilities.dtype} {list(got)}"
        )
    if outlook.shape != (*got[:3], len(OUTLOOKS)) or outlook.dtype != np.float32:
        raise ServingError(
            f"{where}/{version}: {OUTLOOK}: expected float32 {[*got[:3], len(OUTLOOKS)]}, "
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
) -> Score:
    """Check the version and the shapes of a score for rows, float32 [T, F]. Its value may be anything.

    Raises:
        ServingError: another version answered, or with something else.
    """
    if str(answered) != str(version):
        raise ServingError(f"{where}: version {version} was asked, version {answered} answered")
    score, contributions = tensor(SCORE), tensor(CONTRIBUTIONS)
    if score is None or contributions is None:
        raise ServingError(f"{where}/{version}: the answer lacks a tensor")
    for name, array, expected in ((SCORE, score, (1, 1)), (CONTRIBUTIONS, contributions, (1, rows.shape[1]))):
        if array.shape != expected or array.dtype != np.float32:
            raise ServingError(
                f"{where}/{version}: {name}: expected float32 {list(expected)}, got {array.dtype} {list(array.shape)}"
            )
    return Score(float(score[0, 0]), contributions[0])


def model_shape(config: dict[str, Any]) -> ModelShape:
    """Read a model's shape from its configuration in JSON.

    Raises:
        ServingError: lobsmith has not written that configuration.
    """
    try:
        inputs = {tensor["name"]: tensor["dims"] for tensor in config["input"]}
        outputs = {tensor["name"]: tensor["dims"] for tensor in config["output"]}
        return ModelShape(
            feature_count=int(inputs[FEATURES][-1]),
            state_size=int(inputs[STATE][-1]),
            horizons=int(outputs[PROBABILITIES][-2]),
            prime_rows=int(config["parameters"][PRIME_ROWS]["string_value"]),
            definitions_sha256=str(config["parameters"][DEFINITIONS]["string_value"]),
        )
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise ServingError(
            f"{config.get('name', 'the model')}: its configuration lacks {error}; it was not published by lobsmith"
        ) from error

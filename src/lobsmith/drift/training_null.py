"""The null distribution that a version is published with: what is usual within its own training window.

Of rows it holds what `measured_in_training` found. Of answers it takes those of the exported model to the held-out
rows of the window, which the network has not been fitted to: answers to rows that it has learnt cost too little, and
any live row would seem to cost more than usual.
"""

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from lobsmith.drift.null_distribution import LEFT_OUT, MOST, MeasuredPair, PastStore, measured_in_training, past_key
from lobsmith.drift.reference import RawRows, Reference, Scaling
from lobsmith.drift.shifts import between, direction_counts, excess_over, quantiles_of, quantities, shift_of_quantities
from lobsmith.drift.verdict import FeatureShift
from lobsmith.drift.windows import Lengths, beside, covered_ns, fitted, left_out_starts
from lobsmith.errors import DataError
from lobsmith.files import write_atomic
from lobsmith.online.answers import Answers
from lobsmith.online.evidence import answered
from lobsmith.params import DriftParams
from lobsmith.units import NS_PER_S

Float64 = npt.NDArray[np.float64]
_DIGITS = 6


class AnswersWindow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A window of held-out rows, its answers beside those to the rest of them.

    Attributes:
        from_ns: where it begins, UTC.
        shift: see `shift_of_answers`.
        loss: see `excess_loss`; None where it cannot be told.
    """

    from_ns: int
    shift: float
    loss: float | None


class HeldOut(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    """Answers of the exported model to held-out rows of the training window.

    Attributes:
        recent_s: length of a window, s.
        minimum_rows: least rows of one.
        longest_ms: horizons up to this one count for losses.
        from_ns, until_ns: receive times of the newest held-out rows, which answers are compared with, UTC.
        rows: how many of these.
        quantiles: of the quantities that are told from answers, K columns of 1000.
        directions: how often each direction came, of each horizon.
        windows: in the order of time.
    """

    recent_s: float
    minimum_rows: int
    longest_ms: int
    from_ns: int
    until_ns: int
    rows: int
    quantiles: tuple[tuple[float, ...], ...]
    directions: tuple[tuple[float, float, float], ...]
    windows: tuple[AnswersWindow, ...]

    @cached_property
    def _said(self) -> Float64:
        return np.array(self.quantiles, np.float64).T

    def newest(self, answers: Answers, until_ns: int) -> Answers:
        """Return the answers of the newest window before a time."""
        return between(answers, until_ns - round(self.recent_s * NS_PER_S), until_ns)

    def shift(self, recent: Answers) -> tuple[float, tuple[FeatureShift, ...]]:
        """Return how far answers, at least one, have moved from those to held-out rows."""
        return shift_of_quantities(self._said, recent)

    def loss(self, recent: Answers) -> tuple[float, int] | None:
        """Return what rows cost more than the frequencies of the held-out rows would, and how many rows."""
        return excess_over(np.array(self.directions), recent, self.longest_ms)


class StreamNull(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is usual of one instrument; of answers None where the held-out rows are too few for windows of their own."""

    rows: tuple[MeasuredPair, ...]
    answers: HeldOut | None


class TrainingNull(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is usual of each instrument, `venue:symbol`, that was trained on."""

    streams: dict[str, StreamNull]

    def __str__(self) -> str:
        return "; ".join(
            f"{name}: {len(one.rows)} windows of rows, {len(one.answers.windows) if one.answers else 0} of answers"
            for name, one in self.streams.items()
        )


def training_null(
    reference: Reference, answers: Mapping[str, Answers], params: DriftParams, longest_ms: int
) -> TrainingNull:
    """Measure what is usual within a training window.

    Args:
        reference: of the window.
        answers: of the exported model to held-out rows of each instrument that has any, in the order of time.
        params: `drift`, as for data of any length.
        longest_ms: horizons up to this one count for losses.
    """
    streams = {}
    for name, rows in reference.rows.items():
        own = fitted(params, covered_ns(rows.time_ns, rows.segment))
        measured = measured_in_training(rows, reference.scaling, own)
        held_out = _held_out(answers[name], params, longest_ms) if name in answers else None
        streams[name] = StreamNull(rows=tuple(measured), answers=held_out)
    return TrainingNull(streams=streams)


def _held_out(answers: Answers, params: DriftParams, longest_ms: int) -> HeldOut | None:
    params = fitted(params, covered_ns(answers.time_ns, answers.segment))
    first, end, recent_ns = int(answers.time_ns[0]), int(answers.time_ns[-1]) + 1, round(params.recent_s * NS_PER_S)
    whole = between(answers, max(end - round(params.reference_s * NS_PER_S), first), end)
    windows = []
    for start in left_out_starts(first, end, recent_ns):
        recent, apart = between(answers, start, start + recent_ns), beside(start, recent_ns)
        before, after = between(whole, first, apart[0]), between(whole, apart[1], end)
        left = [one for one in (before, after) if answered(one).any()]
        if int(answered(recent).sum()) < params.minimum_rows or not left:
            continue
        rest = np.concatenate([quantities(one)[1] for one in left])
        shift, _ = shift_of_quantities(quantiles_of(rest), recent)
        found = excess_over(np.sum([direction_counts(one) for one in left], axis=0), recent, longest_ms)
        windows.append(AnswersWindow(from_ns=start, shift=shift, loss=None if found is None else found[0]))
    if len(windows) < 2:
        return None
    columns = quantiles_of(quantities(whole)[1]).T.round(_DIGITS).tolist()
    return HeldOut(
        recent_s=params.recent_s,
        minimum_rows=params.minimum_rows,
        longest_ms=longest_ms,
        from_ns=int(whole.time_ns[0]),
        until_ns=int(whole.time_ns[-1]),
        rows=int(answered(whole).sum()),
        quantiles=tuple(map(tuple, columns)),
        directions=tuple(map(tuple, direction_counts(whole).tolist())),
        windows=tuple(windows),
    )


def save_null(null: TrainingNull, path: Path) -> None:
    """Write it as JSON, whole or not at all; the same null gives the same bytes."""
    write_atomic(path, msgspec.json.encode(null))


def load_null(path: Path) -> TrainingNull:
    """Read what `save_null` wrote.

    Raises:
        DataError: the file is missing, or is none.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=TrainingNull)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not the null of a training window: {error}; restore the version's files") from error


class TrainingPairs(NamedTuple):
    """What was measured beside a version's own reference: windows of its training data, and earlier looks."""

    pairs: list[MeasuredPair]
    """In the order of time."""
    checks: int
    """How many of them, the newest, are looks."""


def training_pairs(
    training: RawRows,
    published: Iterable[MeasuredPair],
    scaling: Scaling,
    store: PastStore,
    params: DriftParams,
    *,
    until_ns: int,
    end: float,
) -> TrainingPairs:
    """Return what the present window is compared with as long as too few past pairs are as far apart as it is.

    Windows of the training data were measured when the version was published; where that is not so, or under other
    parameters, they are measured now, and kept. Earlier looks count where they do not overlap.

    Args:
        training: rows of the training window.
        published: what was measured at publication.
        scaling: frozen with the model.
        store: of looks, and of what is measured now.
        params: `drift`, fitted to the length of the rows.
        until_ns: when the present window begins.
        end: monotonic time at which measuring stops.
    """
    key, recent_ns = past_key(scaling, params), Lengths.of(params).recent
    last = int(training.time_ns[-1]) + 1 - recent_ns
    kept = store.measured(key, LEFT_OUT)
    old = [one for one in published if one.key == key] or [one for one in kept.values() if one.from_ns <= last]
    if not old:
        old = measured_in_training(training, scaling, params, end=end)
        store.add(old)
    checks: list[MeasuredPair] = []
    for one in kept.values():
        free_ns = checks[-1].from_ns + recent_ns if checks else last + 1
        if free_ns <= one.from_ns <= until_ns - recent_ns and not store.drifted(one.from_ns, one.from_ns + recent_ns):
            checks.append(one)
    return TrainingPairs([*old, *checks[-MOST:]], min(len(checks), MOST))

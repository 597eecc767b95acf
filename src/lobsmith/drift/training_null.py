"""The null distribution published with a version: statistics of windows of its own training data.

Of rows it holds `measured_in_training`. Of answers it holds those of the exported model to held-out rows of the window:
answers to fitted rows would cost too little.
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
    """A window of held-out rows from `from_ns`: its `shift_of_answers` and `excess_loss` beside the other ones.

    `from_ns` is UTC; `loss` is None where outcomes are unknown.
    """

    from_ns: int
    shift: float
    loss: float | None


class HeldOut(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    """Answers of the exported model to held-out rows of the training window.

    Attributes:
        recent_s: length of a window, s.
        minimum_rows: of a window.
        longest_ms: horizons up to this one count for losses.
        from_ns, until_ns, rows: the newest held-out rows, the reference of answers; receive times, UTC, and number.
        quantiles: of the quantities of answers, K columns of 1000.
        directions: count of each direction, at each horizon.
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
    def _reference_quantiles(self) -> Float64:
        return np.array(self.quantiles, np.float64).T

    def newest(self, answers: Answers, until_ns: int) -> Answers:
        """Return the answers of the newest window before a time."""
        return between(answers, until_ns - round(self.recent_s * NS_PER_S), until_ns)

    def shift(self, recent: Answers) -> tuple[float, tuple[FeatureShift, ...]]:
        """Return the shift of answers, at least one, from those to held-out rows."""
        return shift_of_quantities(self._reference_quantiles, recent)

    def loss(self, recent: Answers) -> tuple[float, int] | None:
        """Return the excess loss over the held-out rows' direction frequencies, and the number of rows."""
        return excess_over(np.array(self.directions), recent, self.longest_ms)


class StreamNull(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The null distribution of one instrument; `answers` is None where held-out rows are too few for windows."""

    rows: tuple[MeasuredPair, ...]
    answers: HeldOut | None


class TrainingNull(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The null distribution of each instrument, `venue:symbol`, trained on."""

    streams: dict[str, StreamNull]

    def __str__(self) -> str:
        return "; ".join(
            f"{name}: {len(null.rows)} windows of rows, {len(null.answers.windows) if null.answers else 0} of answers"
            for name, null in self.streams.items()
        )


def training_null(
    reference: Reference, answers: Mapping[str, Answers], params: DriftParams, longest_ms: int
) -> TrainingNull:
    """Measure the null distribution of a training window.

    Args:
        reference: of the window.
        answers: of the exported model to each instrument's held-out rows, in the order of time.
        params: `drift`, not fitted.
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
        rest = [part for part in (before, after) if answered(part).any()]
        if int(answered(recent).sum()) < params.minimum_rows or not rest:
            continue
        rest_quantities = np.concatenate([quantities(part)[1] for part in rest])
        shift, _ = shift_of_quantities(quantiles_of(rest_quantities), recent)
        excess = excess_over(np.sum([direction_counts(part) for part in rest], axis=0), recent, longest_ms)
        windows.append(AnswersWindow(from_ns=start, shift=shift, loss=None if excess is None else excess[0]))
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
    """Write it as JSON, atomically; the same null gives the same bytes."""
    write_atomic(path, msgspec.json.encode(null))


def load_null(path: Path) -> TrainingNull:
    """Read a null distribution.

    Raises:
        DataError: the file is missing or does not decode.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=TrainingNull)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not the null of a training window: {error}; restore the version's files") from error


class TrainingPairs(NamedTuple):
    """Pairs with the version's own reference: windows of its training data, and earlier checks."""

    pairs: list[MeasuredPair]
    """In the order of time."""
    checks: int
    """How many of them, the newest, are checks."""


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
    """Return the null distribution used while too few past pairs have the present gap.

    Training windows measured at publication, else now; and earlier checks that do not overlap.

    Args:
        training: rows of the training window.
        published: pairs measured at publication.
        store: of checks, and of what is measured now.
        params: fitted to the length of the rows.
        until_ns: start of the present window.
        end: monotonic time at which measuring stops.
    """
    key, recent_ns = past_key(scaling, params), Lengths.of(params).recent
    last = int(training.time_ns[-1]) + 1 - recent_ns
    kept = store.measured(key, LEFT_OUT)
    windows = [pair for pair in published if pair.key == key] or [
        pair for pair in kept.values() if pair.from_ns <= last
    ]
    if not windows:
        windows = measured_in_training(training, scaling, params, end=end)
        store.add(windows)
    checks: list[MeasuredPair] = []
    for pair in kept.values():
        free_ns, pair_until_ns = checks[-1].from_ns + recent_ns if checks else last + 1, pair.from_ns + recent_ns
        if free_ns <= pair.from_ns and pair_until_ns <= until_ns and not store.drifted(pair.from_ns, pair_until_ns):
            checks.append(pair)
    return TrainingPairs([*windows, *checks[-MOST:]], min(len(checks), MOST))

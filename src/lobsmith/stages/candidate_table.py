"""The table of compression candidates, each measured beside the network that it was made of."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from msgspec import structs

from lobsmith.compress.candidates import Candidate
from lobsmith.compress.footprint import measure_footprint
from lobsmith.compress.runtime import BoundModel, Float, OnnxModel, StepModel
from lobsmith.compress.step.compiled import open_step
from lobsmith.compress.timing import USES, Timing, compare_times
from lobsmith.errors import ReleaseError
from lobsmith.evaluation.fidelity import Fidelity, fidelity
from lobsmith.evaluation.stream import stream_predictions
from lobsmith.gates.compression import Row
from lobsmith.gates.parity import parity
from lobsmith.models.training_data import Part
from lobsmith.params import CompressParams, Params
from lobsmith.verdict import Verdict

_SLOW_USES = 4
"""A chunk or a batch takes about so many times as long as a step, and is timed so many times less often."""


def measure(
    candidates: Sequence[Candidate], part: Part, held_out: Float, params: Params, on_progress: Callable[[str], None]
) -> list[Row]:
    """Measure every candidate beside the first, the network as it was trained.

    Args:
        candidates: the network itself comes first, and could be made.
        part: whose validation and test rows count.
        held_out: consecutive test rows, float32 [N, F], for parity and times.
        params: all of `params.yaml`.
        on_progress: called with what is measured next.
    """
    use, rows = params.compress.use, {"test": part.split.test, "validation": part.split.validation}
    reference: dict[str, Float] = {}
    table = []
    for number, candidate in enumerate(candidates, start=1):
        row = Row(
            name=candidate.name, precision=candidate.precision, pruned=candidate.pruned, refused=candidate.refused
        )
        if candidate.trained is not None:
            on_progress(f"measure {candidate.name}, {number} of {len(candidates)}")
            limit = params.gates.parity.of(candidate.precision)
            verdict = parity(
                candidate.trained.network, OnnxModel(candidate.model), held_out, limit, step=candidate.step
            )
            row = structs.replace(row, parity=verdict.value, refused=_refusal(verdict))
            if verdict.value is not None:
                predictions = _predict(candidate, part, rows, use)
                reference = reference or predictions
                lost = {
                    name: fidelity(
                        part.dataset, where, predictions[name], reference[name], params.train.horizon_weights
                    )
                    for name, where in rows.items()
                }
                row = _with_figures(row, candidate, candidates[0], lost, held_out, params.compress)
        table.append(row)
    return table


def _refusal(verdict: Verdict) -> str:
    if verdict.passed:
        return ""
    if not verdict.evidence["finite"]:
        return "its answers are not finite"
    return "its directions at some horizon never change" if verdict.evidence["constant"] else str(verdict)


def _with_figures(
    row: Row,
    candidate: Candidate,
    reference: Candidate,
    lost: dict[str, Fidelity],
    held_out: Float,
    settings: CompressParams,
) -> Row:
    try:
        timings = _timings(candidate, reference, held_out, settings.calls)
        memory = measure_footprint(_file(candidate, settings.use), *USES[settings.use])
    except ReleaseError as error:
        return structs.replace(row, refused=str(error))
    timing = timings[list(USES).index(settings.use)]
    return structs.replace(
        row,
        delta_log_loss=lost["test"].delta_log_loss.value,
        delta_mcc=lost["test"].delta_mcc.value,
        agreement=lost["test"].agreement.value,
        p50_us=timing.p50_us,
        p99_us=timing.p99_us,
        speedup=timing.speedup,
        bytes=candidate.model.stat().st_size,
        memory_bytes=memory,
        test=lost["test"],
        validation=lost["validation"],
        timings=timings,
    )


def _predict(candidate: Candidate, part: Part, rows: Mapping[str, npt.NDArray[np.int64]], use: str) -> dict[str, Float]:
    """Predict rows in calls as long as those of the use: dynamic ranges depend on what else is in a call."""
    model, chunk = OnnxModel(_file(candidate, use)), USES[use][1]
    return {name: stream_predictions(model, part.dataset, where, chunk=chunk)[0] for name, where in rows.items()}


def _timings(candidate: Candidate, reference: Candidate, rows: Float, calls: int) -> tuple[Timing, ...]:
    timings = []
    for use in USES:
        model, against = (partial(_open, measured, use) for measured in (candidate, reference))
        timings.append(compare_times(model, against, use, rows, calls if use == "step" else calls // _SLOW_USES))
    return tuple(timings)


def _open(candidate: Candidate, use: str) -> StepModel:
    """Load a candidate as it would be used: single rows in process, the rest behind Triton."""
    if use == "step":
        return open_step(candidate.model, candidate.step)
    return BoundModel(candidate.model, *USES[use])


def _file(candidate: Candidate, use: str) -> Path:
    return candidate.step if use == "step" else candidate.model

"""The compress stage: candidates of one trained network, measured beside it, and the fastest that loses little enough."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct, structs

from lobsmith.compress import GOLDEN, MODEL, STEP
from lobsmith.compress.candidates import FP32, Candidate, make_candidates
from lobsmith.compress.footprint import measure_footprint
from lobsmith.compress.golden import GOLDEN_ROWS, golden_vectors, save_golden
from lobsmith.compress.priming import TOLERANCE, measure_prime_rows
from lobsmith.compress.runtime import BoundModel, Float, OnnxModel
from lobsmith.compress.timing import USES, Timing, compare_times
from lobsmith.errors import ReleaseError, TrainingError
from lobsmith.features.dataset import load_dataset, training_datasets
from lobsmith.files import write_atomic
from lobsmith.gates.evaluation import Interval
from lobsmith.gates.fidelity import Fidelity, fidelity
from lobsmith.gates.parity import parity
from lobsmith.gates.streams import stream_predictions
from lobsmith.gates.verdict import Verdict
from lobsmith.models.material import Part, parts_of
from lobsmith.models.split import longest_run
from lobsmith.models.train import load_network
from lobsmith.params import CompressParams, Params

SUMMARY = "compress.json"
CANDIDATES = "candidates"
_PRIMING_ROWS = 8192
_FEWEST_ROWS = GOLDEN_ROWS
_SLOW_USES = 4
"""A chunk or a batch takes about so many times as long as a step, and is timed so many times less often."""

Progress = Callable[[str], None]


class Row(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row of the table of candidates.

    `delta_log_loss` (a share: 0.005 is half a percent worse), `delta_mcc` and `agreement` are of the held-out test rows;
    the choice goes by the same figures of the validation rows, `validation`. Times are of the use that the parameters
    name; `timings` has all uses. What could not be made or measured has a reason in `refused` and no figures.
    """

    name: str
    precision: str
    pruned: float
    delta_log_loss: float | None = None
    delta_mcc: float | None = None
    agreement: float | None = None
    p50_us: float | None = None
    p99_us: float | None = None
    speedup: float | None = None
    bytes: int | None = None
    memory_bytes: int | None = None
    parity: float | None = None
    chosen: bool = False
    refused: str = ""
    test: Fidelity | None = None
    validation: Fidelity | None = None
    timings: tuple[Timing, ...] = ()


class Compressed(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the stage found out: the table, and of the chosen candidate what a version's manifest says.

    `network` is the folder of its weights, relative to the run's.
    """

    name: str
    precision: str
    network: str
    use: str
    bytes: int
    prime_rows: int
    prime_tolerance: float
    candidates: tuple[Row, ...]

    @property
    def chosen(self) -> Row:
        """The row of the candidate that is served."""
        return next(row for row in self.candidates if row.chosen)


def compress(params: Params, directory: Path, *, on_progress: Progress | None = None) -> Compressed:
    """Make the candidates of the network in `directory`, choose one, and write what is served of it beside them.

    Golden vectors and the priming figure come from the held-out rows' longest gap-free run.

    Args:
        params: all of `params.yaml`.
        directory: the run's folder, with datasets and network.
        on_progress: told what is made or measured next.

    Raises:
        TrainingError: there is no trained network, the held-out rows hold no run worth measuring on, or the parameters
            name a candidate that there is not.
        """
    told = on_progress or (lambda _text: None)
    parts = parts_of([load_dataset(path) for path in training_datasets(params, directory)], params.split)
    held_out = _held_out(parts[0])
    candidates = make_candidates(load_network(directory), parts, params, directory / CANDIDATES, on_progress=told)
    rows = _measure(candidates, parts[0], held_out, params, told)
    chosen = choose(rows, params.compress)
    rows = [structs.replace(row, chosen=row.name == chosen) for row in rows]
    candidate = next(one for one in candidates if one.name == chosen)
    for source, name in ((candidate.model, MODEL), (candidate.step, STEP)):
        write_atomic(directory / name, source.read_bytes())
    model = OnnxModel(directory / MODEL)
    save_golden(golden_vectors(model, held_out), directory / GOLDEN)
    summary = Compressed(
        name=candidate.name,
        precision=candidate.precision,
        network=str(candidate.directory.parent.relative_to(directory)),
        use=params.compress.use,
        bytes=candidate.model.stat().st_size,
        prime_rows=measure_prime_rows(model, held_out),
        prime_tolerance=TOLERANCE,
        candidates=tuple(rows),
    )
    write_atomic(directory / SUMMARY, msgspec.json.format(msgspec.json.encode(summary)))
    return summary


def load_summary(directory: Path) -> Compressed:
    """Read what `compress` found out.

    Raises:
        TrainingError: the file is missing or of another release.
    """
    path = directory / SUMMARY
    try:
        return msgspec.json.decode(path.read_bytes(), type=Compressed)
    except (OSError, msgspec.MsgspecError) as error:
        raise TrainingError(f"{path}: no summary of candidates: {error}; run the compress stage again") from error


def choose(rows: Sequence[Row], settings: CompressParams) -> str:
    """Return the name of the fastest candidate inside the budget; the first row is the network itself.

    A rise of the log-loss counts at the upper end of its interval and agreement at its value, both on validation rows:
    what is chosen by them cannot be tuned to the test rows. A speed-up counts where its interval leaves out 1. A name
    in the parameters is taken whatever its speed, so that a version can be made again: times differ, files do not.

    Raises:
        TrainingError: the parameters name a candidate that there is not.
    """
    if settings.candidate:
        able = [row.name for row in rows if not row.refused]
        if settings.candidate not in able:
            raise TrainingError(f"compress.candidate is {settings.candidate!r}; choose one of {', '.join(able)}")
        return settings.candidate
    best, name = 1.0, rows[0].name
    for row in rows[1:]:
        if row.refused or row.validation is None or row.speedup is None:
            continue
        timing = next(one for one in row.timings if one.use == settings.use)
        inside = row.validation.delta_log_loss.high <= settings.log_loss
        inside &= row.validation.agreement.value >= settings.agreement
        if inside and timing.low > 1.0 and row.speedup > best:
            best, name = row.speedup, row.name
    return name


def compression(summary: Compressed, settings: CompressParams) -> Verdict:
    """Ask whether the chosen candidate keeps within the budget on rows that had no say in the choice.

    The value is the rise of the log-loss as a share, at the upper end of its interval.
    """
    row = summary.chosen
    test = row.test or Fidelity(rows=0, delta_log_loss=_NOTHING, delta_mcc=_NOTHING, agreement=_NOTHING)
    value = test.delta_log_loss.high
    return Verdict(
        gate="compression",
        passed=value <= settings.log_loss and test.agreement.value >= settings.agreement,
        value=value if math.isfinite(value) else None,
        threshold=settings.log_loss,
        evidence={
            "candidate": row.name,
            "use": summary.use,
            "speedup": row.speedup,
            "agreement": test.agreement.value,
            "least_agreement": settings.agreement,
            "delta_log_loss": test.delta_log_loss.value,
            "delta_mcc": test.delta_mcc.value,
            "rows": test.rows,
        },
    )


_NOTHING = Interval(math.nan, math.nan, math.nan)


def _held_out(part: Part) -> Float:
    start, stop = longest_run(part.dataset, part.split.test)
    found = part.dataset.rows.features[start : min(stop, start + _PRIMING_ROWS)]
    if len(found) < _FEWEST_ROWS:
        raise TrainingError(
            f"{part.dataset.instrument}: the longest gap-free run of held-out rows is {len(found)}, fewer than "
            f"the {_FEWEST_ROWS} that golden vectors take; give more data"
        )
    return found


def _measure(
    candidates: Sequence[Candidate], part: Part, held_out: Float, params: Params, told: Progress
) -> list[Row]:
    """Measure every candidate beside the first one, the network as it was trained."""
    reference = candidates[0]
    dataset, splits = part.dataset, {"test": part.split.test, "validation": part.split.validation}
    said = {name: _predict(reference, part, rows) for name, rows in splits.items()}
    found = []
    for one in candidates:
        row = Row(name=one.name, precision=one.precision, pruned=one.pruned, refused=one.refused)
        if one.refused or one.trained is None:
            found.append(row)
            continue
        told(f"measure {one.name}")
        model = OnnxModel(one.model)
        verdict = parity(one.trained.network, model, held_out, params.gates.parity.of(one.precision), step=one.step)
        lost = {
            name: fidelity(dataset, rows, _predict(one, part, rows), said[name], params.train.horizon_weights)
            for name, rows in splits.items()
        }
        timings = _timings(one, reference, held_out, params.compress.calls)
        timing = timings[list(USES).index(params.compress.use)]
        found.append(
            structs.replace(
                row,
                delta_log_loss=lost["test"].delta_log_loss.value,
                delta_mcc=lost["test"].delta_mcc.value,
                agreement=lost["test"].agreement.value,
                p50_us=timing.p50_us,
                p99_us=timing.p99_us,
                speedup=timing.speedup,
                bytes=one.model.stat().st_size,
                memory_bytes=measure_footprint(_file(one, params.compress.use), *USES[params.compress.use]),
                parity=verdict.value,
                refused="" if verdict.passed else str(verdict),
                test=lost["test"],
                validation=lost["validation"],
                timings=timings,
            )
        )
    return found


def _predict(candidate: Candidate, part: Part, rows: npt.NDArray[np.int64]) -> Float:
    return stream_predictions(OnnxModel(candidate.model), part.dataset, rows)[0]


def _timings(one: Candidate, reference: Candidate, rows: Float, calls: int) -> tuple[Timing, ...]:
    found = []
    for use, (batch, steps) in USES.items():
        model, against = (BoundModel(_file(each, use), batch, steps) for each in (one, reference))
        found.append(compare_times(model, against, use, rows, calls if use == "step" else calls // _SLOW_USES))
    return tuple(found)


def _file(candidate: Candidate, use: str) -> Path:
    return candidate.step if use == "step" else candidate.model

"""The compress stage: candidates of one trained network beside it; the fastest that loses little is served."""

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct, structs

from lobsmith.compress import GOLDEN, MODEL, STEP
from lobsmith.compress.candidates import Candidate, make_candidates
from lobsmith.compress.compiled_step import open_step
from lobsmith.compress.footprint import measure_footprint
from lobsmith.compress.golden import GOLDEN_ROWS, golden_vectors, save_golden
from lobsmith.compress.priming import TOLERANCE, measure_prime_rows
from lobsmith.compress.runtime import BoundModel, Float, OnnxModel, Stepping
from lobsmith.compress.timing import USES, Timing, compare_times
from lobsmith.errors import TrainingError
from lobsmith.features.dataset import load_dataset, training_datasets
from lobsmith.files import write_atomic
from lobsmith.gates.fidelity import Fidelity, fidelity
from lobsmith.gates.parity import parity
from lobsmith.gates.streams import stream_predictions
from lobsmith.gates.verdict import Verdict
from lobsmith.models.material import Part, parts_of
from lobsmith.models.split import longest_run
from lobsmith.models.train import load_network
from lobsmith.params import CompressParams, Params

GATE = "compression"
SUMMARY = "compress.json"
CANDIDATES = "candidates"
_PRIMING_ROWS = 8192
_FEWEST_ROWS = GOLDEN_ROWS
_SLOW_USES = 4
"""A chunk or a batch takes about so many times as long as a step, and is timed so many times less often."""

Progress = Callable[[str], None]


class Row(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row of the table of candidates.

    `delta_log_loss` (a share: 0.005 is half a percent worse), `delta_mcc` and `agreement` are of the held-out test
    rows; the choice goes by the same figures of the validation rows. Times are of the use that the parameters name;
    `timings` has all uses. What may not be served has its reason in `refused`, what could not be made no figures.
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
        TrainingError: there is no trained network, its answers are not finite, the held-out rows hold no run worth
            measuring on, or the parameters name a candidate that there is not.
    """
    told = on_progress or (lambda _text: None)
    parts = parts_of([load_dataset(path) for path in training_datasets(params, directory)], params.split)
    held_out = _held_out(parts[0])
    candidates = make_candidates(load_network(directory), parts, params, directory / CANDIDATES, on_progress=told)
    if candidates[0].trained is None:
        raise TrainingError(
            f"{directory}: the network itself cannot be served: {candidates[0].refused}; train it again"
        )
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

    What is chosen by validation rows cannot be tuned to the test rows: those only have a veto, and where they use it
    the network itself is served. A speed-up counts where its interval leaves out 1. A name in the parameters is taken
    whatever its speed, so that a version can be made again: times differ, files do not.

    Raises:
        TrainingError: the parameters name a candidate that there is not.
    """
    if settings.candidate:
        able = [row.name for row in rows if not row.refused]
        if settings.candidate not in able:
            raise TrainingError(f"compress.candidate is {settings.candidate!r}; choose one of {', '.join(able)}")
        return settings.candidate
    faster = [row for row in rows[1:] if not row.refused and _is_faster(row, settings.use)]
    inside = [row for row in faster if row.validation and within_budget(row.validation, settings)]
    fastest = max(inside, key=lambda row: row.speedup or 0.0, default=rows[0])
    return fastest.name if fastest.test and within_budget(fastest.test, settings) else rows[0].name


def within_budget(lost: Fidelity, settings: CompressParams) -> bool:
    """Tell whether the upper end of the rise of the log-loss, and the agreement, are what the parameters allow."""
    return lost.delta_log_loss.high <= settings.log_loss and lost.agreement.value >= settings.agreement


def _is_faster(row: Row, use: str) -> bool:
    return any(one.use == use and one.low > 1.0 for one in row.timings)


def compression(summary: Compressed, settings: CompressParams) -> Verdict:
    """Ask whether the chosen candidate keeps within the budget on rows that had no say in the choice.

    The value is the rise of the log-loss as a share, at the upper end of its interval.
    """
    row = summary.chosen
    evidence = {
        "candidate": row.name,
        "use": summary.use,
        "least_agreement": settings.agreement,
    }
    if row.test is None:
        return Verdict(gate=GATE, passed=False, value=None, threshold=settings.log_loss, evidence=evidence)
    return Verdict(
        gate=GATE,
        passed=within_budget(row.test, settings),
        value=row.test.delta_log_loss.high,
        threshold=settings.log_loss,
        evidence={
            **evidence,
            "agreement": row.agreement,
            "delta_log_loss": row.delta_log_loss,
            "delta_mcc": row.delta_mcc,
            "rows": row.test.rows,
        },
    )


def _held_out(part: Part) -> Float:
    start, stop = longest_run(part.dataset, part.split.test)
    found = part.dataset.rows.features[start : min(stop, start + _PRIMING_ROWS)]
    if len(found) < _FEWEST_ROWS:
        raise TrainingError(
            f"{part.dataset.instrument}: the longest gap-free run of held-out rows is {len(found)}, fewer than "
            f"the {_FEWEST_ROWS} that golden vectors take; give more data"
        )
    return found


def _measure(candidates: Sequence[Candidate], part: Part, held_out: Float, params: Params, told: Progress) -> list[Row]:
    """Measure every candidate beside the first one, the network as it was trained."""
    rows = {"test": part.split.test, "validation": part.split.validation}
    said = {name: _predict(candidates[0], part, where) for name, where in rows.items()}
    found = []
    for one in candidates:
        row = Row(name=one.name, precision=one.precision, pruned=one.pruned, refused=one.refused)
        if one.trained is not None:
            told(f"measure {one.name}")
            limit = params.gates.parity.of(one.precision)
            verdict = parity(one.trained.network, OnnxModel(one.model), held_out, limit, step=one.step)
            row = structs.replace(row, parity=verdict.value, refused="" if verdict.passed else str(verdict))
            if verdict.value is not None:
                lost = {
                    name: fidelity(
                        part.dataset, where, _predict(one, part, where), said[name], params.train.horizon_weights
                    )
                    for name, where in rows.items()
                }
                row = _with_figures(row, one, candidates[0], lost, held_out, params.compress)
        found.append(row)
    return found


def _with_figures(
    row: Row,
    one: Candidate,
    reference: Candidate,
    lost: dict[str, Fidelity],
    held_out: Float,
    settings: CompressParams,
) -> Row:
    timings = _timings(one, reference, held_out, settings.calls)
    timing = timings[list(USES).index(settings.use)]
    return structs.replace(
        row,
        delta_log_loss=lost["test"].delta_log_loss.value,
        delta_mcc=lost["test"].delta_mcc.value,
        agreement=lost["test"].agreement.value,
        p50_us=timing.p50_us,
        p99_us=timing.p99_us,
        speedup=timing.speedup,
        bytes=one.model.stat().st_size,
        memory_bytes=measure_footprint(_file(one, settings.use), *USES[settings.use]),
        test=lost["test"],
        validation=lost["validation"],
        timings=timings,
    )


def _predict(candidate: Candidate, part: Part, rows: npt.NDArray[np.int64]) -> Float:
    return stream_predictions(OnnxModel(candidate.model), part.dataset, rows)[0]


def _timings(one: Candidate, reference: Candidate, rows: Float, calls: int) -> tuple[Timing, ...]:
    found = []
    for use in USES:
        model, against = (_open(each, use) for each in (one, reference))
        found.append(compare_times(model, against, use, rows, calls if use == "step" else calls // _SLOW_USES))
    return tuple(found)


def _open(candidate: Candidate, use: str) -> Stepping:
    """Load a candidate as it would be used: single rows in process, the rest behind Triton."""
    if use == "step":
        return open_step(candidate.model, candidate.step)
    return BoundModel(candidate.model, *USES[use])


def _file(candidate: Candidate, use: str) -> Path:
    return candidate.step if use == "step" else candidate.model

"""The compress stage: candidates of one trained network beside it; the fastest that loses little is served."""

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct, structs

from lobsmith.compress import GOLDEN, MODEL, STEP
from lobsmith.compress.candidates import make_candidates
from lobsmith.compress.golden import GOLDEN_ROWS, golden_vectors, save_golden
from lobsmith.compress.priming import TOLERANCE, measure_prime_rows
from lobsmith.compress.runtime import Float, OnnxModel
from lobsmith.errors import TrainingError
from lobsmith.features.dataset import load_dataset, training_datasets
from lobsmith.files import exclusive_lock, sha256_file, write_atomic
from lobsmith.gates.candidate_table import Row, measure
from lobsmith.gates.fidelity import Fidelity
from lobsmith.gates.verdict import Verdict
from lobsmith.models.material import Part, parts_of
from lobsmith.models.split import longest_run
from lobsmith.models.train import WEIGHTS, load_trained
from lobsmith.params import CompressParams, Params

GATE = "compression"
SUMMARY = "compress.json"
CANDIDATES = "candidates"
_LOCK, _LOCK_DEADLINE_S = ".compress.lock", 3.0
_PRIMING_ROWS = 8192
_FEWEST_ROWS = GOLDEN_ROWS

SERVED, SLOWER, COSTLY, VETOED, REFUSED = "served", "no faster", "loses too much", "vetoed", "refused"
"""What becomes of a candidate; a faster one that was not the fastest has an empty outcome."""

Progress = Callable[[str], None]


class Compressed(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the stage found out: the table, and of the chosen candidate what a version's manifest says.

    `network` is the folder of its weights, relative to the run's; `weights_sha256` is of the network as trained.
    """

    weights_sha256: str
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

    Golden vectors and the priming figure come from the held-out rows' longest gap-free run. The summary is written
    last, and that of an earlier run is deleted first: without it the folder holds nothing that may be served.

    Args:
        params: all of `params.yaml`.
        directory: the run's folder, with datasets and network.
        on_progress: told what is made or measured next.

    Raises:
        TrainingError: there is no trained network, its answers are not finite or refused by parity, the held-out rows
            hold no run worth measuring on, the parameters name a candidate that there is not, another process is at it,
            or the folder cannot be written.
    """
    try:
        with exclusive_lock(directory / _LOCK, _LOCK_DEADLINE_S):
            return _compress(params, directory, on_progress or (lambda _text: None))
    except TimeoutError:
        raise TrainingError(f"{directory}: its network is being compressed by another process; wait for it") from None
    except OSError as error:
        place = error.filename or directory
        raise TrainingError(f"{place}: {error.strerror or error}; {directory} holds no candidate to serve") from error


def _compress(params: Params, directory: Path, told: Progress) -> Compressed:
    (directory / SUMMARY).unlink(missing_ok=True)
    parts = parts_of([load_dataset(path) for path in training_datasets(params, directory)], params.split)
    trained = load_trained(directory, parts[0].dataset, params)
    held_out = _held_out(parts[0])
    candidates = make_candidates(trained, parts, params, directory / CANDIDATES, on_progress=told)
    if candidates[0].trained is None:
        reason = candidates[0].refused
        raise TrainingError(f"{directory}: the network itself cannot be served: {reason}; train it again")
    rows = choose(measure(candidates, parts[0], held_out, params, told), params.compress)
    candidate = next(one for one, row in zip(candidates, rows, strict=True) if row.chosen)
    for source, name in ((candidate.model, MODEL), (candidate.step, STEP)):
        write_atomic(directory / name, source.read_bytes())
    model = OnnxModel(directory / MODEL)
    save_golden(golden_vectors(model, held_out), directory / GOLDEN)
    summary = Compressed(
        weights_sha256=sha256_file(directory / WEIGHTS),
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
        TrainingError: the file is missing or of another release, or the network was trained again since.
    """
    path = directory / SUMMARY
    try:
        summary = msgspec.json.decode(path.read_bytes(), type=Compressed)
        weights = sha256_file(directory / WEIGHTS)
    except (OSError, msgspec.MsgspecError) as error:
        raise TrainingError(f"{path}: no summary of candidates: {error}; run the compress stage again") from error
    if summary.weights_sha256 != weights:
        raise TrainingError(f"{path}: of other weights; run the compress stage again")
    return summary


def choose(rows: Sequence[Row], settings: CompressParams) -> list[Row]:
    """Mark what becomes of each candidate: the fastest inside the budget is served; the first is the network itself.

    What is chosen by validation rows cannot be tuned to the test rows: those only have a veto, and where they use it
    the network itself is served. A speed-up counts where its interval leaves out 1. A name in the parameters is taken
    whatever its speed and losses, so that a version can be made again: times differ, files do not.

    Raises:
        TrainingError: the network itself is refused, or the parameters name a candidate that there is not.
    """
    if rows[0].refused:
        raise TrainingError(f"the network itself cannot be served: {rows[0].refused}; train it again")
    outcomes = {row.name: _outcome(row, settings) for row in rows[1:]}
    name = _named(rows, settings.candidate) if settings.candidate else rows[0].name
    fastest = max((row for row in rows[1:] if not outcomes[row.name]), key=lambda row: row.speedup or 0.0, default=None)
    if fastest is not None and not settings.candidate:
        if fastest.test is not None and within_budget(fastest.test, settings):
            name = fastest.name
        else:
            outcomes[fastest.name] = VETOED
    outcomes[name] = SERVED
    return [structs.replace(row, chosen=row.name == name, outcome=outcomes.get(row.name, "")) for row in rows]


def _named(rows: Sequence[Row], name: str) -> str:
    found = next((row for row in rows if row.name == name), None)
    if found is None or found.refused:
        able = ", ".join(row.name for row in rows if not row.refused)
        why = f" is refused ({found.refused})" if found else " is none of the candidates"
        raise TrainingError(f"compress.candidate: {name}{why}; choose one of {able}")
    return name


def _outcome(row: Row, settings: CompressParams) -> str:
    if row.refused:
        return REFUSED
    if not any(one.use == settings.use and one.low > 1.0 for one in row.timings):
        return SLOWER
    return "" if row.validation is not None and within_budget(row.validation, settings) else COSTLY


def within_budget(lost: Fidelity, settings: CompressParams) -> bool:
    """Tell whether the upper end of the rise of the log-loss, and the agreement, are what the parameters allow."""
    return lost.delta_log_loss.high <= settings.log_loss and lost.agreement.value >= settings.agreement


def compression(summary: Compressed, settings: CompressParams) -> Verdict:
    """Hold what the served candidate loses on the test rows against the budget.

    It refuses a candidate that the parameters name. One that was chosen has passed the test rows' veto already, or is
    the network itself: the verdict then records the figures.
    """
    row = summary.chosen
    evidence = {"candidate": row.name, "use": summary.use, "least_agreement": settings.agreement}
    if row.test is None:
        return Verdict(gate=GATE, passed=False, value=None, threshold=settings.log_loss, evidence=evidence)
    return judge(row.test, settings, evidence)


def judge(lost: Fidelity, settings: CompressParams, evidence: dict[str, object]) -> Verdict:
    """Return a verdict on losses; its value is the rise of the log-loss as a share, at its interval's upper end."""
    return Verdict(
        gate=GATE,
        passed=within_budget(lost, settings),
        value=lost.delta_log_loss.high,
        threshold=settings.log_loss,
        evidence={
            **evidence,
            "agreement": lost.agreement.value,
            "delta_log_loss": lost.delta_log_loss.value,
            "delta_mcc": lost.delta_mcc.value,
            "rows": lost.rows,
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

"""The compress stage: candidates of a trained network, measured beside it; the chosen one is written to be served."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from lobsmith.compress import GOLDEN, MODEL, STEP
from lobsmith.compress.candidates import make_candidates
from lobsmith.compress.golden import GOLDEN_ROWS, TOLERANCE, golden_vectors, measure_prime_rows, save_golden
from lobsmith.compress.runtime import Float, OnnxModel
from lobsmith.errors import TrainingError
from lobsmith.features.dataset import load_dataset, training_datasets
from lobsmith.files import exclusive_lock, sha256_file, write_atomic
from lobsmith.gates.compression import Compressed, choose
from lobsmith.models.split import longest_run
from lobsmith.models.train import WEIGHTS, load_trained
from lobsmith.models.training_data import Part, parts_of
from lobsmith.params import Params
from lobsmith.progress import Note
from lobsmith.stages.candidate_table import measure

SUMMARY = "compress.json"
CANDIDATES = "candidates"
_LOCK, _LOCK_DEADLINE_S = ".compress.lock", 3.0
_PRIMING_ROWS = 8192
_FEWEST_ROWS = GOLDEN_ROWS
Progress = Callable[[str], None]


def compress(params: Params, directory: Path, *, on_progress: Progress | None = None) -> Compressed:
    """Make the candidates of the network in `directory`, choose one, and write its served files beside them.

    The summary of an earlier run is deleted first and the new one written last: a folder without it holds nothing to
    serve.

    Args:
        params: all of `params.yaml`.
        directory: the run's folder, with datasets and network.
        on_progress: called with what is made or measured next, of how many, and the seconds since the start.

    Raises:
        TrainingError: there is no trained network, its answers are not finite or refused by parity, the held-out rows
            hold too short a run, the parameters name an unknown candidate, another process holds the lock, or the
            folder cannot be written.
    """
    try:
        with exclusive_lock(directory / _LOCK, _LOCK_DEADLINE_S):
            return _compress(params, directory, _with_seconds(on_progress))
    except TimeoutError:
        raise TrainingError(f"{directory}: its network is being compressed by another process; wait for it") from None
    except OSError as error:
        place = error.filename or directory
        raise TrainingError(f"{place}: {error.strerror or error}; {directory} holds no candidate to serve") from error


def _with_seconds(on_progress: Progress | None) -> Progress:
    started = time.monotonic()

    def report(text: str) -> None:
        if on_progress:
            on_progress(f"{text}, {time.monotonic() - started:.0f} s")

    return report


def _compress(params: Params, directory: Path, on_progress: Progress) -> Compressed:
    (directory / SUMMARY).unlink(missing_ok=True)
    parts = parts_of([load_dataset(path) for path in training_datasets(params, directory)], params.split)
    trained = load_trained(directory, parts[0].dataset, params)
    held_out = _held_out(parts[0])
    candidates = make_candidates(trained, parts, params, directory / CANDIDATES, on_progress=on_progress)
    if candidates[0].trained is None:
        reason = candidates[0].refused
        raise TrainingError(f"{directory}: the network itself cannot be served: {reason}; train it again")
    rows = choose(measure(candidates, parts[0], held_out, params, on_progress), params.compress)
    candidate = next(made for made, row in zip(candidates, rows, strict=True) if row.chosen)
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
    """Read the summary that `compress` wrote.

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


def _held_out(part: Part) -> Float:
    start, stop = longest_run(part.dataset, part.split.test)
    rows = part.dataset.rows.features[start : min(stop, start + _PRIMING_ROWS)]
    if len(rows) < _FEWEST_ROWS:
        raise TrainingError(
            f"{part.dataset.instrument}: the longest gap-free run of held-out rows is {len(rows)}, fewer than "
            f"the {_FEWEST_ROWS} that golden vectors take; give more data"
        )
    return rows


def run(params: Params, directory: Path, _captures: Sequence[Path], note: Note) -> str:
    """Run the stage in a folder; return a one-line outcome."""
    summary = compress(params, directory, on_progress=note)
    return f"{summary.name} of {len(summary.candidates)} candidates, {summary.bytes:,} bytes"

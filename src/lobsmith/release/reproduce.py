"""Making a published version again, from its manifest and its data, and comparing it with the original."""

import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

from msgspec import Struct, structs

from lobsmith.compress import GOLDEN, MODEL, STEP
from lobsmith.compress.candidates import Candidate, make_candidates, only
from lobsmith.compress.golden import golden_vectors, load_golden
from lobsmith.compress.runtime import OnnxModel
from lobsmith.drift import REFERENCE, SCORE
from lobsmith.errors import DataError, ReleaseError, TrainingError
from lobsmith.evaluation.assess import assess
from lobsmith.evaluation.baselines import mean_outlook, rivals
from lobsmith.evaluation.results import MODEL as PREDICTOR
from lobsmith.evaluation.results import flat_metrics
from lobsmith.evaluation.stream import stream_predictions
from lobsmith.features.dataset import Dataset, load_dataset, training_datasets
from lobsmith.files import sha256_file
from lobsmith.market.simulator import INSTRUMENT as SIMULATED
from lobsmith.market.store import Store
from lobsmith.models.train import load_trained
from lobsmith.models.trainer import Epoch
from lobsmith.models.training_data import Part, parts_of
from lobsmith.params import Params, load_params
from lobsmith.release.checks.validation import TOLERANCE, largest_difference
from lobsmith.release.version.manifest import Environment, Manifest, check_files
from lobsmith.release.version.recipe import environment, git_commit, recorded_params
from lobsmith.release.version.signing import Trust
from lobsmith.stages.compress import CANDIDATES
from lobsmith.stages.features import build_features
from lobsmith.stages.ingest import MARKET, ingest
from lobsmith.stages.reference import describe_window
from lobsmith.stages.train import train_stage
from lobsmith.workspace import Workspace

IDENTICAL, EQUIVALENT, DIFFERENT = "identical", "equivalent", "different"
SAME_METRIC = 1e-9
"""Largest difference of a metric that is computed from the same predictions."""
CLOSE_METRIC = 1e-3
"""Largest difference of a metric, in its own unit (nats, shares), that two equivalent models show."""
_ANSWERS = ("probabilities", "outlook", "next_state")
Note = Callable[[str], None]


class ChangedInput(Struct, frozen=True, kw_only=True):
    """Something with a name, as the manifest has it and as it is here."""

    name: str
    published: str | None
    here: str | None


class Metric(Struct, frozen=True, kw_only=True):
    """A metric on the held-out rows; the difference is the reproduction's less the version's."""

    name: str
    published: float
    reproduced: float
    difference: float


class Reproduced(Struct, frozen=True, kw_only=True):
    """What a reproduction found.

    `verdict` is `identical` (files have the published hashes, metrics are the same), `equivalent` (other bits, while
    golden vectors and metrics are within the tolerances) or `different`; `reason` says why in one line. `data` is where
    the data came from, `files` holds hashes, `golden_difference` is the largest one from the published golden vectors.
    Metrics of rivals are `not_compared`: they are networks of their own. `directory` holds the files where they were
    kept.
    """

    model: str
    version: int
    verdict: str
    reason: str
    data: str
    data_fingerprint: str
    environment: tuple[ChangedInput, ...]
    files: tuple[ChangedInput, ...]
    golden_difference: float
    golden_tolerance: float
    metrics: tuple[Metric, ...]
    not_compared: tuple[str, ...]
    directory: str | None


def environment_changes(
    published: Environment, here: Environment, published_commit: str | None, commit: str | None
) -> tuple[ChangedInput, ...]:
    """Return what of the environment is not as it was, by name; of the packages each for itself."""
    before, now = _flat(published, published_commit), _flat(here, commit)
    names = dict.fromkeys(chain(before, now))
    return tuple(
        ChangedInput(name=name, published=before.get(name), here=now.get(name))
        for name in names
        if before.get(name) != now.get(name)
    )


def _flat(environment: Environment, commit: str | None) -> dict[str, str | None]:
    return {
        "git commit": commit,
        "python": environment.python,
        **environment.packages,
        "threads": str(environment.threads),
        "instruction set": environment.instruction_set,
        "gpu": environment.gpu,
    }


def metric_changes(
    published: Mapping[str, float], reproduced: Mapping[str, float]
) -> tuple[tuple[Metric, ...], tuple[str, ...]]:
    """Return the metrics that both have, and the names of those that only the version has."""
    common = [name for name in published if name in reproduced]
    metrics = (
        Metric(
            name=name,
            published=published[name],
            reproduced=reproduced[name],
            difference=reproduced[name] - published[name],
        )
        for name in common
    )
    return tuple(metrics), tuple(name for name in published if name not in reproduced)


def judge(
    files: Sequence[ChangedInput],
    golden_difference: float,
    golden_tolerance: float,
    metrics: Sequence[Metric],
    environment: Sequence[ChangedInput],
) -> tuple[str, str]:
    """Return the verdict and its reason."""
    changed = [one.name for one in files if one.published != one.here]
    worst = max(metrics, key=_size, default=None)
    off = 0.0 if worst is None else _size(worst)
    figures = f"golden vectors within {golden_difference:.3g}, metrics within {off:.3g}"
    if not changed and golden_difference <= golden_tolerance and off <= SAME_METRIC:
        return IDENTICAL, f"{', '.join(one.name for one in files)} have the published hashes; {figures}"
    what = f"{', '.join(changed)} have other bits" if changed else "the files have the published hashes"
    why = ", ".join(f"{one.name} {one.published} is {one.here} here" for one in environment)
    why = why or "the environment is the recorded one"
    if not golden_difference <= golden_tolerance:
        far = f"golden vectors differ by {golden_difference:.3g}, more than {golden_tolerance:g}"
        return DIFFERENT, f"{what}; {far}; {why}"
    if worst is not None and not off <= CLOSE_METRIC:
        return DIFFERENT, f"{what}; {worst.name} differs by {worst.difference:.3g}, more than {CLOSE_METRIC:g}; {why}"
    return EQUIVALENT, f"{what}; {figures}; {why}"


def _size(metric: Metric) -> float:
    # A metric that is no number is further off than any.
    both = math.isnan(metric.published) and math.isnan(metric.reproduced)
    return 0.0 if both else math.inf if math.isnan(metric.difference) else abs(metric.difference)


def reproduce(
    workspace: Workspace,
    directory: Path,
    *,
    captures: Sequence[Path] = (),
    keep: bool = False,
    on_progress: Note | None = None,
) -> Reproduced:
    """Read the data of a version again, train, compress and evaluate, and compare what comes out with the version.

    Nothing is written but a temporary folder. Candidates are not timed, since which of them was the fastest stands in
    the manifest, and neither rivals nor the folds of walk-forward validation are trained: no figure of the model
    depends on them.

    Args:
        workspace: whose keys are trusted and whose runs may hold the version's data.
        directory: the version, published or set aside.
        captures: recorded files that it was made of, in order; without them the data are those of its run, and where
            that is gone what its parameters name.
        keep: whether the temporary folder stays.
        on_progress: told what is done next.

    Raises:
        ReleaseError: the version is not signed or was altered, holds plans, does not say what it was made of, or is of
            a release whose parameters or features are others.
        DataError: the data are not there, or are not those that the version was trained on.
        TrainingError: they could not be trained on.
    """
    note = on_progress or (lambda _text: None)
    manifest = check_files(directory, Trust.of(workspace))
    candidate = _candidate_name(directory, manifest)
    params = recorded_params(manifest, load_params(workspace.params))
    params = structs.replace(
        params,
        data=structs.replace(params.data, instrument=str(manifest.instruments[0])),
        compress=only(params.compress, candidate),
    )
    with _scratch(keep=keep) as scratch:
        market = _market(workspace, manifest, params, captures, scratch, note)
        note("features")
        _features(manifest, params, market, scratch)
        made, parts = _train(params, candidate, scratch, note)
        files = {MODEL: made.model, STEP: made.step, **_described(manifest, params, scratch, note)}
        changes = tuple(
            ChangedInput(name=name, published=manifest.files[name], here=sha256_file(path))
            for name, path in files.items()
            if name in manifest.files
        )
        return _compare(
            workspace, directory, manifest, params, market, made, parts, changes, scratch if keep else None, note
        )


def _candidate_name(directory: Path, manifest: Manifest) -> str:
    if manifest.engine is not None:
        raise ReleaseError(f"{directory}: holds TensorRT plans; reproduce the model whose network they hold")
    if manifest.candidate is None or not manifest.instruments:
        raise ReleaseError(f"{directory}: its manifest names no candidate or no instrument; no retrain has made it")
    return manifest.candidate


@contextmanager
def _scratch(*, keep: bool) -> Iterator[Path]:
    scratch = Path(tempfile.mkdtemp(prefix="lobsmith-reproduce-"))
    try:
        yield scratch
    finally:
        if not keep:
            shutil.rmtree(scratch, ignore_errors=True)


def _market(
    workspace: Workspace, manifest: Manifest, params: Params, captures: Sequence[Path], scratch: Path, note: Note
) -> Path:
    """Return the store with the version's data, that of its run or a new one."""
    if manifest.run is not None and not captures:
        kept = workspace.runs / manifest.run / MARKET
        if kept.is_dir():
            return kept
    note("market data")
    try:
        if not captures and params.data.source == "simulator" and manifest.instruments[0] != SIMULATED:
            raise DataError("it was trained on recorded files")
        ingest(params.data, captures, scratch / MARKET)
    except DataError as error:
        if captures:
            raise
        raise DataError(
            f"{manifest.model} {manifest.version}: the folder of its run, {manifest.run}, is gone, and {error}; "
            f"name those of {manifest.instruments[0]} with --capture"
        ) from error
    return scratch / MARKET


def _features(manifest: Manifest, params: Params, market: Path, scratch: Path) -> Dataset:
    """Compute the datasets to train on.

    Raises:
        DataError: these are not the data that the version was trained on.
        ReleaseError: features or labels are defined otherwise than they were.
    """
    name = params.data.instrument
    held = [str(one) for one in Store(market).instruments()]
    if name not in held:
        raise DataError(f"{market}: holds {', '.join(held)}, not {name}; name files of that with --capture")
    chosen = build_features(params, market, scratch, _tradable(params, market, scratch)).chosen
    version = f"{manifest.model} {manifest.version}"
    if chosen.data_fingerprint != manifest.data_fingerprint:
        raise DataError(
            f"{market}: the fingerprint of its data is {chosen.data_fingerprint}, while {version} was trained on "
            f"{manifest.data_fingerprint}; name the files that it was made of with --capture"
        )
    if chosen.definitions_sha256 != manifest.contract.definitions_sha256:
        raise ReleaseError(
            f"{version}: its features or labels are defined otherwise than here "
            f"({manifest.contract.definitions_sha256[:12]}, not {chosen.definitions_sha256[:12]}); "
            f"check out the commit that it was made with, {manifest.git_commit or 'which was not recorded'}"
        )
    return chosen


def _tradable(params: Params, market: Path, scratch: Path) -> Sequence[str]:
    """Return the instruments that have to be computed: the one to train on, for a pool all that may be traded."""
    if not params.train.pool:
        return [params.data.instrument]
    # Great Expectations takes seconds to import, and only a pool asks which other instruments belong to it.
    from lobsmith.stages.validate import validate

    return validate(params, market, scratch).tradable


def _train(params: Params, candidate: str, scratch: Path, note: Note) -> tuple[Candidate, list[Part]]:
    """Train and compress; return the candidate and the rows."""

    def show(epoch: Epoch) -> None:
        note(f"epoch {epoch.epoch} of {params.train.epochs}, validation {epoch.validation_loss:.4f}")

    note("train")
    paths = training_datasets(params, scratch)
    train_stage(params, paths, scratch, on_epoch=show)
    parts = parts_of([load_dataset(path) for path in paths], params.split)
    trained = load_trained(scratch, parts[0].dataset, params)
    candidates = make_candidates(trained, parts, params, scratch / CANDIDATES, on_progress=note)
    made = next((one for one in candidates if one.name == candidate), None)
    if made is None or made.trained is None:
        raise TrainingError(f"{candidate}: cannot be made again here: {made.refused if made else 'its network failed'}")
    return made, parts


def _described(manifest: Manifest, params: Params, scratch: Path, note: Note) -> dict[str, Path]:
    """Make the reference and its score again, where the version has them; return the files by their names."""
    if SCORE not in manifest.files:
        return {}
    note("reference")
    describe_window(params, scratch)
    return {name: scratch / name for name in (REFERENCE, SCORE)}


def _compare(
    workspace: Workspace,
    directory: Path,
    manifest: Manifest,
    params: Params,
    market: Path,
    made: Candidate,
    parts: Sequence[Part],
    files: tuple[ChangedInput, ...],
    kept: Path | None,
    note: Note,
) -> Reproduced:
    note("golden vectors")
    model, golden = OnnxModel(made.model), load_golden(directory / GOLDEN)
    again = golden_vectors(model, golden.features[0])
    difference = max(largest_difference(getattr(again, one), getattr(golden, one)) for one in _ANSWERS)
    note("held-out rows")
    metrics, not_compared = metric_changes(manifest.metrics, _metrics(params, model, parts))
    changes = environment_changes(
        manifest.environment, environment(params.train.threads), manifest.git_commit, git_commit(workspace.root)
    )
    verdict, reason = judge(files, difference, TOLERANCE[manifest.precision], metrics, changes)
    return Reproduced(
        model=manifest.model,
        version=manifest.version,
        verdict=verdict,
        reason=reason,
        data=str(market),
        data_fingerprint=manifest.data_fingerprint,
        environment=changes,
        files=files,
        golden_difference=difference,
        golden_tolerance=TOLERANCE[manifest.precision],
        metrics=metrics,
        not_compared=not_compared,
        directory=None if kept is None else str(kept),
    )


def _metrics(params: Params, model: OnnxModel, parts: Sequence[Part]) -> dict[str, float]:
    """Return the metrics of the model and of the base rates on the held-out rows."""
    settings = structs.replace(params.evaluation, rivals=(), seeds=())
    dataset, rows = parts[0].dataset, parts[0].split.test
    alone = structs.replace(params, evaluation=settings)
    predictions = {PREDICTOR: stream_predictions(model, dataset, rows)[0], **rivals(parts, alone, dataset, rows)}
    found = assess(dataset, rows, predictions, None, mean_outlook(parts), settings.fees_bps, settings.confidences)
    return flat_metrics(found.scores, found.calibration)

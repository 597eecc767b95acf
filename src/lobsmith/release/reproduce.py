"""Reproduction of a published version from its manifest and data, compared with the original."""

import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
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
from lobsmith.evaluation.baselines import mean_outlook, predict_baselines, train_baselines
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
from lobsmith.progress import Note
from lobsmith.release.checks.validation import TOLERANCE, largest_difference
from lobsmith.release.version.manifest import Environment, Manifest, check_files
from lobsmith.release.version.recipe import environment, git_commit, manifest_params
from lobsmith.release.version.signing import Trust
from lobsmith.stages.compress import CANDIDATES
from lobsmith.stages.features import build_features
from lobsmith.stages.ingest import MARKET, ingest
from lobsmith.stages.reference import describe_window
from lobsmith.stages.train import train_stage
from lobsmith.workspace import Workspace

IDENTICAL, EQUIVALENT, DIFFERENT = "identical", "equivalent", "different"
SAME_METRIC = 1e-9
"""Largest difference of a metric of the same predictions."""
CLOSE_METRIC = 1e-3
"""Largest difference of a metric between equivalent models, in its own unit (nats, shares)."""
_ANSWERS = ("probabilities", "outlook", "next_state")


class ChangedInput(Struct, frozen=True, kw_only=True):
    """A named input or file, as published and as it is here."""

    name: str
    published: str | None
    here: str | None


class Metric(Struct, frozen=True, kw_only=True):
    """A metric on the held-out rows; the difference is reproduced minus published."""

    name: str
    published: float
    reproduced: float
    difference: float


class Reproduced(Struct, frozen=True, kw_only=True):
    """Result of a reproduction.

    `verdict` is `identical` (published hashes and metrics), `equivalent` (other bits, golden vectors and metrics within
    tolerance) or `different`; `reason` is one line. `data` is the market store, `files` has hashes. Metrics of
    baselines are `not_compared`. `directory` is the temporary folder, if kept.
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
    """Return the differences of the environment by name, each package by itself."""
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
    changed = [file.name for file in files if file.published != file.here]
    worst = max(metrics, key=_size, default=None)
    off = 0.0 if worst is None else _size(worst)
    figures = f"golden vectors within {golden_difference:.3g}, metrics within {off:.3g}"
    if not changed and golden_difference <= golden_tolerance and off <= SAME_METRIC:
        return IDENTICAL, f"{', '.join(file.name for file in files)} have the published hashes; {figures}"
    what = f"{', '.join(changed)} have other bits" if changed else "the files have the published hashes"
    cause = ", ".join(f"{change.name} {change.published} is {change.here} here" for change in environment)
    cause = cause or "the environment is the published one"
    if not golden_difference <= golden_tolerance:
        far = f"golden vectors differ by {golden_difference:.3g}, more than {golden_tolerance:g}"
        return DIFFERENT, f"{what}; {far}; {cause}"
    if worst is not None and not off <= CLOSE_METRIC:
        return DIFFERENT, f"{what}; {worst.name} differs by {worst.difference:.3g}, more than {CLOSE_METRIC:g}; {cause}"
    return EQUIVALENT, f"{what}; {figures}; {cause}"


def _size(metric: Metric) -> float:
    # One NaN is infinitely far off.
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
    """Train, compress and evaluate a version again from its data, and compare the result with it.

    Only a temporary folder is written. The compression candidate is that of the manifest, without timing; baselines and
    walk-forward folds are not trained.

    Args:
        workspace: whose keys are trusted and whose runs may hold the version's data.
        directory: the version, published or quarantined.
        captures: the version's capture files, in order; by default the data of its run, else of its parameters.
        keep: whether the temporary folder stays.
        on_progress: called with the next phase.

    Raises:
        ReleaseError: the version is not signed or was altered, holds plans, does not name its data, or is of a release
            with other parameters or features.
        DataError: the data are missing, or not those that the version was trained on.
        TrainingError: training failed.
    """
    note = on_progress or (lambda _text: None)
    manifest = check_files(directory, Trust.of(workspace))
    candidate = _candidate_name(directory, manifest)
    params = manifest_params(manifest, load_params(workspace.params))
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
        files = {MODEL: made.model, STEP: made.step, **_reference_files(manifest, params, scratch, note)}
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
    if manifest.run is not None and not captures:
        kept = workspace.runs / manifest.run / MARKET
        if kept.is_dir():
            return kept
    note("market data")
    try:
        if not captures and params.data.source == "simulator" and manifest.instruments[0] != SIMULATED:
            raise DataError("it was trained on captures")
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
    """Compute the training datasets.

    Raises:
        DataError: the data are not those that the version was trained on.
        ReleaseError: features or labels have other definitions.
    """
    name = params.data.instrument
    stored = [str(instrument) for instrument in Store(market).instruments()]
    if name not in stored:
        raise DataError(f"{market}: holds {', '.join(stored)}, not {name}; name files of that with --capture")
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
            f"check out the commit that it was made with, {manifest.git_commit or 'which is unknown'}"
        )
    return chosen


def _tradable(params: Params, market: Path, scratch: Path) -> Sequence[str]:
    """Return the instruments to compute: the one to train on, for a pool all tradable ones."""
    if not params.train.pool:
        return [params.data.instrument]
    # Great Expectations takes seconds to import; only a pool needs it.
    from lobsmith.stages.validate import validate

    return validate(params, market, scratch).tradable


def _train(params: Params, candidate: str, scratch: Path, note: Note) -> tuple[Candidate, list[Part]]:
    """Train and compress; return the compression candidate and the datasets."""

    def show(epoch: Epoch) -> None:
        note(f"epoch {epoch.epoch} of {params.train.epochs}, validation {epoch.validation_loss:.4f}")

    note("train")
    paths = training_datasets(params, scratch)
    train_stage(params, paths, scratch, on_epoch=show)
    parts = parts_of([load_dataset(path) for path in paths], params.split)
    trained = load_trained(scratch, parts[0].dataset, params)
    candidates = make_candidates(trained, parts, params, scratch / CANDIDATES, on_progress=note)
    made = next((option for option in candidates if option.name == candidate), None)
    if made is None or made.trained is None:
        raise TrainingError(f"{candidate}: cannot be made again here: {made.refused if made else 'its network failed'}")
    return made, parts


def _reference_files(manifest: Manifest, params: Params, scratch: Path, note: Note) -> dict[str, Path]:
    """Make the reference and its score, where the version has them; return the files by name."""
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
    difference = max(largest_difference(getattr(again, name), getattr(golden, name)) for name in _ANSWERS)
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
    settings = structs.replace(params.evaluation, rivals=(), seeds=())
    dataset, rows = parts[0].dataset, parts[0].split.test
    alone = structs.replace(params, evaluation=settings)
    predictions = {
        PREDICTOR: stream_predictions(model, dataset, rows)[0],
        **predict_baselines(train_baselines(parts, alone), parts, dataset, rows),
    }
    results = assess(dataset, rows, predictions, None, mean_outlook(parts), settings.fees_bps, settings.confidences)
    return flat_metrics(results.horizon_metrics, results.calibration)

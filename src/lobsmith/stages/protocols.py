"""Evaluation of captures outside the retrain flow: within each session, or across days."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from lobsmith.compress import MODEL
from lobsmith.compress.export import export_onnx
from lobsmith.compress.runtime import OnnxModel
from lobsmith.errors import TrainingError
from lobsmith.evaluation.results import Evaluation
from lobsmith.features.captured import read_dataset
from lobsmith.features.dataset import Dataset, file_stem
from lobsmith.market.venues.formats import group_by_instrument
from lobsmith.models.networks.registry import architecture
from lobsmith.models.split import Split, split, train_only, usable_rows
from lobsmith.models.train import save_network, train
from lobsmith.models.training_data import Part
from lobsmith.params import Params
from lobsmith.stages.evaluate import Progress, evaluate_model


def read_datasets(files: Sequence[Path], params: Params) -> list[Dataset]:
    """Compute features and labels of captures, those of one instrument as one stream.

    Raises:
        DataError: a file cannot be read.
    """
    groups, failed = group_by_instrument(files)
    if failed:
        raise next(iter(failed.values()))
    return [read_dataset(paths, params) for paths in groups.values()]


def within_sessions(
    files: Sequence[Path], params: Params, directory: Path, *, on_train: Progress | None = None
) -> list[Evaluation]:
    """Train on the first rows of each instrument and test on its last, purged: protocol (ii)."""
    results = []
    for dataset in read_datasets(files, params):
        part = Part(dataset, split(dataset, params.split))
        protocol = f"within the session: its newest {params.split.test:.0%} held out, purged"
        results.append(_run([part], part, params, directory / file_stem(dataset.instrument), protocol, on_train))
    return results


def across_days(
    files: Sequence[Path], tested: Sequence[Path], params: Params, directory: Path, *, on_train: Progress | None = None
) -> list[Evaluation]:
    """Train on some files and test on all rows of others, which must not overlap them in time: protocol (i).

    Raises:
        TrainingError: training and test data overlap in time.
    """
    trained_on = read_datasets(files, params)
    parts = [Part(dataset, cut) for dataset, cut in zip(trained_on, train_only(trained_on, params.split), strict=True)]
    results = []
    for dataset in read_datasets(tested, params):
        for other in trained_on:
            first, last = int(dataset.rows.time[0]), int(dataset.rows.time[-1])
            if first <= other.rows.time[-1] and other.rows.time[0] <= last:
                raise TrainingError(
                    f"{dataset.instrument}: the test data overlap in time with training data of {other.instrument}; "
                    "two venues move together, so test on other hours"
                )
        rows = usable_rows(dataset)
        held_out = Part(dataset, Split(rows[:0], rows[:0], rows))
        protocol = f"across days: trained on {', '.join(path.name for path in files)}"
        results.append(_run(parts, held_out, params, directory / file_stem(dataset.instrument), protocol, on_train))
    return results


def _run(
    parts: list[Part], held_out: Part, params: Params, directory: Path, protocol: str, on_train: Progress | None
) -> Evaluation:
    directory.mkdir(parents=True, exist_ok=True)
    if on_train:
        on_train(f"{held_out.dataset.instrument}: {params.model.network}")
    trained = train(parts, params)
    save_network(trained, params.model, held_out.dataset.horizons_ms, directory)
    export_onnx(trained.network, directory / MODEL)
    model = OnnxModel(directory / MODEL)

    def on_predictor(name: str) -> None:
        if on_train:
            on_train(f"{held_out.dataset.instrument}: {name}")

    return evaluate_model(params, parts, held_out, trained, model, directory, protocol=protocol, on_train=on_predictor)


def with_baselines(params: Params, baselines: tuple[str, ...], seeds: tuple[int, ...]) -> Params:
    """Return the parameters with other baselines and seeds.

    Raises:
        TrainingError: there is no network of such a name.
    """
    for name in baselines:
        architecture(name)
    return msgspec.structs.replace(
        params, evaluation=msgspec.structs.replace(params.evaluation, rivals=baselines, seeds=seeds)
    )

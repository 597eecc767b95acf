"""The features stage: datasets of every instrument of a store, computed, windowed and saved."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lobsmith.errors import DataError
from lobsmith.features.dataset import DATASET, FEATURES, Dataset, dataset_of, file_stem, save_dataset, training_window
from lobsmith.gates.data_contract import DataContract, require
from lobsmith.market.store import Store
from lobsmith.params import Params
from lobsmith.progress import Note, console
from lobsmith.stages.ingest import MARKET
from lobsmith.stages.validate import load_validated
from lobsmith.verdict import Verdict

FEATURES_DOCS = "data_docs/features"


class Built(NamedTuple):
    """The dataset to train on, those of all instruments, and why others have none."""

    chosen: Dataset
    datasets: dict[str, Dataset]
    left_out: dict[str, str]


def build_features(params: Params, market: Path, directory: Path, tradable: Sequence[str] | None = None) -> Built:
    """Compute, window and save the datasets of every instrument of a store.

    They go to `features/`; the one to train on (`data.instrument` or the first with enough data) also to
    `dataset.safetensors`.

    Args:
        params: all of `params.yaml`.
        market: the store.
        directory: where the datasets go.
        tradable: instruments that passed their contract, best first; None takes all.

    Raises:
        DataError: there is no such instrument, or none has enough data.
    """
    store = Store(market)
    held = {str(instrument): instrument for instrument in store.instruments()}
    wanted = [name for name in tradable if name in held] if tradable is not None else list(held)
    if params.data.instrument and params.data.instrument not in wanted:
        raise DataError(
            f"data.instrument is {params.data.instrument}, not one of {', '.join(wanted) or 'the tradable: none'}"
        )
    datasets: dict[str, Dataset] = {}
    errors: dict[str, DataError] = {}
    shutil.rmtree(directory / FEATURES, ignore_errors=True)  # of an earlier run
    for name in wanted:
        try:
            datasets[name] = training_window(dataset_of(held[name], store.events(held[name]), params), params.window)
            save_dataset(datasets[name], directory / FEATURES / f"{file_stem(held[name])}.safetensors")
        except DataError as error:
            errors[name] = error
    name = params.data.instrument or next(iter(datasets), "")
    if name not in datasets:
        raise errors[name] if name in errors else next(iter(errors.values()), DataError("no instrument is tradable"))
    save_dataset(datasets[name], directory / DATASET)
    return Built(datasets[name], datasets, {name: str(error) for name, error in errors.items()})


def validate_features(params: Params, built: Built, directory: Path) -> Verdict:
    """Check the features and labels of every instrument, and write their data docs.

    Returns:
        The verdict on the dataset to train on.

    Raises:
        DataContractError: that dataset breaks the contract.
    """
    contract = DataContract(params.contract)
    results = {name: contract.check_features(dataset) for name, dataset in built.datasets.items()}
    contract.build_data_docs(directory / FEATURES_DOCS)
    return require(results[str(built.chosen.instrument)]).verdict


def run(params: Params, directory: Path, _captures: Sequence[Path], _note: Note) -> str:
    """Run the stage in a folder; return a one-line outcome."""
    built = build_features(params, directory / MARKET, directory, load_validated(directory).tradable)
    validate_features(params, built, directory)
    for name, error in built.left_out.items():
        console.print(f"[red]left out[/red] {name}: {error}")
    return "; ".join(f"{name}: {len(dataset.rows):,} rows" for name, dataset in built.datasets.items())

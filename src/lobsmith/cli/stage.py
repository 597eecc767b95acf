"""`lobsmith stage NAME`: one stage, as `dvc.yaml` runs it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from lobsmith.cli.options import capture_arguments, overrides, set_option
from lobsmith.params import Params, load_params
from lobsmith.progress import console
from lobsmith.progress import stage as show
from lobsmith.workspace import Workspace

Run = Callable[[Params, Path, list[Path]], Any]


def _ingest(params: Params, directory: Path, captures: list[Path]) -> str:
    from lobsmith.market.ingest import MARKET, ingest

    # The stage's output is this run's data and nothing that an earlier run has left there.
    shutil.rmtree(directory / MARKET, ignore_errors=True)
    done = ingest(params.data, captures, directory / MARKET)
    for name, error in done.failed.items():
        console.print(f"[red]left out[/red] {name}: {error}")
    return "; ".join(f"{name}: {one.accounting.records:,} records" for name, one in done.done.items())


def _validate(params: Params, directory: Path, _captures: list[Path]) -> str:
    from lobsmith.gates.validate import validate
    from lobsmith.market.ingest import MARKET

    done = validate(params, directory / MARKET, directory)
    for name, error in done.left_out.items():
        console.print(f"[red]left out[/red] {name}: {error}")
    return f"tradable: {', '.join(done.tradable)}"


def _features(params: Params, directory: Path, _captures: list[Path]) -> str:
    from lobsmith.features.dataset import build_features
    from lobsmith.gates.validate import load_validated, validate_features
    from lobsmith.market.ingest import MARKET

    built = build_features(params, directory / MARKET, directory, load_validated(directory).tradable)
    validate_features(params, built, directory)
    for name, error in built.left_out.items():
        console.print(f"[red]left out[/red] {name}: {error}")
    return "; ".join(f"{name}: {len(one.rows):,} rows" for name, one in built.datasets.items())


def _train(params: Params, directory: Path, _captures: list[Path]) -> str:
    from lobsmith.features.dataset import training_datasets
    from lobsmith.models.train import train_stage

    history = train_stage(params, training_datasets(params, directory), directory).history
    return f"validation {min(one.validation_loss for one in history):.4f}"


def _compress(params: Params, directory: Path, _captures: list[Path]) -> str:
    from lobsmith.compress.compress import compress
    from lobsmith.features.dataset import DATASET

    return f"{compress(params, directory / DATASET, directory).bytes:,} bytes"


def _evaluate(params: Params, directory: Path, _captures: list[Path]) -> str:
    from lobsmith.gates.evaluate import evaluate

    return "; ".join(map(str, evaluate(params, directory).verdicts))


STAGES: dict[str, Run] = {
    "ingest": _ingest,
    "validate": _validate,
    "features": _features,
    "train": _train,
    "compress": _compress,
    "evaluate": _evaluate,
}


@click.command()
@click.argument("name", type=click.Choice(list(STAGES)))
@capture_arguments
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".lobsmith/stages"),
    show_default=True,
    help="Where the stages' files lie.",
)
@set_option
@click.pass_obj
def stage(
    workspace: Workspace,
    name: str,
    captures: tuple[Path, ...],
    more: tuple[Path, ...],
    directory: Path,
    settings: tuple[str, ...],
) -> None:
    """Run one stage from files to files."""
    params = load_params(workspace.params, overrides(settings))
    directory.mkdir(parents=True, exist_ok=True)
    with show(name) as note:
        note(STAGES[name](params, directory, [*captures, *more]))

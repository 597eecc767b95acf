"""Executes the notebooks of this folder and stores their outputs: `python examples/run.py [NAME...]`.

They run in their order, each in a kernel of its own, in one temporary folder: the later ones continue the project that
the first one makes.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
NOTEBOOKS = ("first_model", "read_a_drift_report", "promote_and_roll_back")
_CELL_S = 900


def execute(name: str, folder: Path, *, ask: str | None = None) -> nbformat.NotebookNode:
    """Run a notebook in a folder; return it with outputs.

    Args:
        name: of the notebook, without ending.
        folder: where its files go.
        ask: an expression, whose value is printed by one more cell, the last.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    if ask is not None:
        notebook.cells.append(nbformat.v4.new_code_cell(f"print({ask})"))
    # `!lobsmith` is the command beside this interpreter, and no project but the notebook's is found.
    inherited = dict(os.environ)
    os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    for variable in ("LOBSMITH_ROOT", "LOBSMITH_MLFLOW_URI", "PREFECT_API_URL", "PREFECT_HOME"):
        os.environ.pop(variable, None)
    try:
        NotebookClient(
            notebook,
            timeout=_CELL_S,
            kernel_name="python3",
            resources={"metadata": {"path": str(folder)}},
            record_timing=False,
            startup_timeout=_CELL_S,
        ).execute()
    finally:
        os.environ.clear()
        os.environ.update(inherited)
    return notebook


def store(name: str, notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Write a notebook with its outputs, without the temporary folder's name."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if "text" in output:
                # `!` runs in a terminal, whose ends of lines and last reset of colours are kept.
                text = output["text"].replace("\r\n", "\n").replace("\x1b[0m", "")
                output["text"] = text.replace(f"{folder}/", "")
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.validate(notebook)
    nbformat.write(notebook, FOLDER / f"{name}.ipynb")


def main(names: Sequence[str]) -> None:
    """Run the notebooks up to the last one named; store the outputs of those named."""
    wanted = names or NOTEBOOKS
    with TemporaryDirectory(prefix="lobsmith-") as temporary:
        folder = Path(temporary).resolve()
        for name in NOTEBOOKS[: max(map(NOTEBOOKS.index, wanted)) + 1]:
            print(name, flush=True)
            notebook = execute(name, folder)
            if name in wanted:
                store(name, notebook, folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=NOTEBOOKS, metavar="NAME")
    main(parser.parse_args().names)

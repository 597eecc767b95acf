"""The ingest stage: from captures or the simulator to a saved session."""

import glob
from collections.abc import Sequence
from pathlib import Path

from lobsmith.errors import DataError
from lobsmith.market.readers import read_captures
from lobsmith.market.session import Session, save_session
from lobsmith.market.simulator import simulate
from lobsmith.params import Params

SESSION = "session.parquet"
"""Name of the stage's output in a run's folder."""


def expand(patterns: Sequence[str]) -> list[Path]:
    """Return the files that names and glob patterns stand for: patterns in order, the matches of each sorted.

    Raises:
        DataError: there is no pattern, or one matches nothing.
    """
    if not patterns:
        raise DataError("data.source is captures but data.captures is empty; name files or patterns there")
    paths: list[Path] = []
    for pattern in patterns:
        # A file whose name has brackets is meant as itself.
        matches = [pattern] if Path(pattern).exists() else sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207
        if not matches:
            raise DataError(f"data.captures: {pattern} matches no file")
        paths += map(Path, matches)
    return paths


def ingest(params: Params, captures: Sequence[Path] | None, destination: Path) -> Session:
    """Read the captures, or what `params.data` names, and save the session.

    Args:
        params: `data.source` decides when no captures are given.
        captures: capture files, in order; they win over the parameters.
        destination: the Parquet file to write.

    Raises:
        CaptureError: a capture cannot be used.
        DataError: the parameters name no data, or the session cannot be saved.
    """
    if captures:
        session = read_captures(captures)
    elif params.data.source == "simulator":
        session = simulate(params.data.simulator.seed, params.data.simulator.seconds)
    elif params.data.source == "captures":
        session = read_captures(expand(params.data.captures))
    else:
        raise DataError(f"data.source is {params.data.source!r}; it must be simulator or captures")
    save_session(session, destination)
    return session

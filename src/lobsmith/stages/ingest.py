"""The ingest stage: captures or the simulator into a store."""

import glob
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from msgspec import Struct

from lobsmith.errors import DataError
from lobsmith.market.readers import ScreenedFeed, open_captures, screen_session
from lobsmith.market.simulator import simulate
from lobsmith.market.store import Ingest, Store
from lobsmith.market.venues.formats import group_by_instrument
from lobsmith.params import DataParams, Params
from lobsmith.progress import Note, console
from lobsmith.stages.captured import LIVE

MARKET = "market"
"""The store's folder in a run's folder."""


class Ingested(Struct, frozen=True, kw_only=True):
    """The outcome of each instrument's files; an error does not hold up the others."""

    done: dict[str, Ingest]
    failed: dict[str, str]
    """The error, by the instrument's name or that of its first file."""


def expand(patterns: Sequence[str]) -> list[Path]:
    """Return the files of names and glob patterns: patterns in order, the matches of each sorted.

    Raises:
        DataError: there is no pattern, or a pattern matches nothing.
    """
    if not patterns:
        raise DataError("data.source is captures but data.captures is empty; name files or patterns there")
    paths: list[Path] = []
    for pattern in patterns:
        # An existing file whose name has brackets is no pattern.
        matches = [pattern] if Path(pattern).exists() else sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207
        if not matches:
            raise DataError(f"data.captures: {pattern} matches no file")
        paths += map(Path, matches)
    return paths


def ingest(data: DataParams, captures: Sequence[Path] | None, destination: Path, *, replace: bool = False) -> Ingested:
    """Read captures, or the source in the parameters, into a store.

    Args:
        data: `source` decides without captures; `screen` are the limits of the feed filter.
        captures: files, those of one instrument in order.
        destination: the store's folder.
        replace: whether days that the store holds with other content are replaced.

    Raises:
        DataError: the parameters name no data, or no instrument could be ingested.
    """
    store = Store(destination)
    if captures is None or not captures:
        if data.source == "simulator":
            session = simulate(data.simulator.seed, data.simulator.seconds)
            ingested = store.ingest(lambda listing: screen_session(session, data.screen, listing), replace=replace)
            return Ingested(done={str(ingested.instrument): ingested}, failed={})
        if data.source == LIVE:
            raise DataError("data.source is live, which the retrain flow reads; for a stage name files with --capture")
        captures = expand(data.captures)
    done_by_name: dict[str, Ingest] = {}
    groups, failed = group_by_instrument(captures)
    errors = dict(failed)
    for name, paths in groups.items():

        def open_feed(listing: TextIO, paths: list[Path] = paths) -> ScreenedFeed:
            return open_captures(paths, data.screen, listing)

        try:
            ingested = store.ingest(open_feed, replace=replace)
        except DataError as error:
            errors[name] = error
        else:
            done_by_name[str(ingested.instrument)] = ingested
    if not done_by_name:
        raise next(iter(errors.values()))
    return Ingested(done=done_by_name, failed={name: str(error) for name, error in errors.items()})


def run(params: Params, directory: Path, captures: Sequence[Path], _note: Note) -> str:
    """Run the stage in a folder; return a one-line outcome."""
    # The store holds this run's data only.
    shutil.rmtree(directory / MARKET, ignore_errors=True)
    ingested = ingest(params.data, captures, directory / MARKET)
    for name, error in ingested.failed.items():
        console.print(f"[red]left out[/red] {name}: {error}")
    return "; ".join(f"{name}: {instrument.accounting.records:,} records" for name, instrument in ingested.done.items())

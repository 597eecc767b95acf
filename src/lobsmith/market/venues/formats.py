"""The known formats; a new venue is one module and one entry."""

from collections.abc import Sequence
from pathlib import Path

from lobsmith.errors import CaptureError, DataError
from lobsmith.market.capture_reader import CaptureReader, Format
from lobsmith.market.quality.ledger import Ledger
from lobsmith.market.venues import bitstamp, lobster, tardis
from lobsmith.market.venues.binance import reader
from lobsmith.market.venues.captures import first_line

FORMATS: tuple[Format, ...] = (reader.FORMAT, bitstamp.LOG, bitstamp.ORDERS, tardis.FORMAT, lobster.FORMAT)


def open_reader(paths: Sequence[Path], ledger: Ledger) -> CaptureReader:
    """Open files of one instrument, in order; the first line identifies the format.

    Raises:
        CaptureError: the first file cannot be read or is of no known format.
        DataError: no files were given.
    """
    if not paths:
        raise DataError("no capture files given; name at least one")
    line = first_line(paths[0])
    for known in FORMATS:
        if known.sniff(line):
            return known.open(paths, ledger)
    raise unknown(paths[0])


def group_by_instrument(paths: Sequence[Path]) -> tuple[dict[str, list[Path]], dict[str, DataError]]:
    """Group files by instrument.

    Returns:
        (files in order by instrument, the other files' errors by file)
    """
    if len(paths) == 1:
        return {str(paths[0]): list(paths)}, {}
    groups: dict[str, list[Path]] = {}
    failed: dict[str, DataError] = {}
    for path in paths:
        try:
            line = first_line(path)
            known = next((entry for entry in FORMATS if entry.sniff(line)), None)
            if known is None:
                raise unknown(path)
            groups.setdefault(known.identify(path), []).append(path)
        except DataError as error:
            failed[str(path)] = error
    return groups, failed


def unknown(path: Path) -> CaptureError:
    """Return the error for a file of no known format."""
    return CaptureError(
        path, f"not a known capture format; known: {'; '.join(entry.name for entry in FORMATS)}", line=1
    )

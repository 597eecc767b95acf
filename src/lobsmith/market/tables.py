"""CSV files in batches of columns, strictly: a cell that is not what it should be is an error at its line."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from lobsmith.errors import CaptureError
from lobsmith.market.captures import text_batches
from lobsmith.market.ledger import Ledger

_DECIMALS = 12


class Table(NamedTuple):
    """Some lines of a file, as text; `place` is the place of the first (see `ledger`)."""

    frame: pl.DataFrame
    place: int
    ledger: Ledger

    def _cast(self, column: str, kind: type[pl.DataType]) -> pl.Series:
        values = self.frame[column].cast(kind, strict=False)
        if values.null_count():
            at = int(np.argmax(values.is_null().to_numpy()))
            what = "integer" if kind is pl.Int64 else "number"
            raise self.error(at, f"{column}: {self.frame[column][at]!r} is no {what}")
        return values

    def error(self, row: int, what: str) -> CaptureError:
        """Return an error at one of the lines."""
        return self.ledger.error(what, self.place + row)

    def integers(self, column: str, low: int, high: int) -> npt.NDArray[np.int64]:
        """Return a column of whole numbers, `low` <= x < `high`."""
        values = self._cast(column, pl.Int64).to_numpy()
        self._check(column, (values < low) | (values >= high))
        return values

    def numbers(self, column: str) -> npt.NDArray[np.float64]:
        """Return a column of decimal numbers, finite and not negative."""
        values = self._cast(column, pl.Float64).to_numpy()
        self._check(column, ~np.isfinite(values) | (values < 0))
        return values

    def one_of(self, column: str, codes: dict[str, int]) -> npt.NDArray[np.int8]:
        """Return a column of words as their codes."""
        values = self.frame[column].replace_strict(codes, default=None, return_dtype=pl.Int8)
        if values.null_count():
            at = int(np.argmax(values.is_null().to_numpy()))
            raise self.error(at, f"{column}: {self.frame[column][at]!r} is none of {', '.join(codes)}")
        return values.to_numpy()

    def only(self, column: str) -> str:
        """Return the one value that a column holds throughout."""
        values = self.frame[column]
        other = (values != values[0]).to_numpy() | values.is_null().to_numpy()
        if other.any():
            at = int(np.argmax(other))
            raise self.error(at, f"{column}: {values[at]!r} after {values[0]!r}; a session has one instrument")
        return str(values[0])

    def ticks(self, column: str, tick: float) -> npt.NDArray[np.int64]:
        """Return a column of prices in whole ticks."""
        prices = self.numbers(column)
        ticks: npt.NDArray[np.float64] = np.rint(prices / tick)
        self._check(column, (np.abs(prices - ticks * tick) > 1e-6 * tick) | (ticks >= 2**52), f"no multiple of {tick}")
        whole: npt.NDArray[np.int64] = ticks.astype(np.int64)
        return whole

    def _check(self, column: str, wrong: npt.NDArray[np.bool_], why: str = "out of range") -> None:
        if wrong.any():
            at = int(np.argmax(wrong))
            raise self.error(at, f"{column}: {self.frame[column][at]} is {why}")


def read_tables(path: Path, columns: Sequence[str], ledger: Ledger, *, header: bool) -> Iterator[Table]:
    """Yield a file's lines in bounded batches, all cells as text, and count them.

    Raises:
        CaptureError: the file cannot be read, or a line has another number of cells.
    """
    place = ledger.begin_file(path)
    skipped = 1 if header else 0
    for text in text_batches(path):
        lines = text.count(b"\n") - skipped
        body = text[text.index(b"\n") + 1 :] if skipped else text
        place += skipped
        skipped = 0
        if not body:
            continue
        frame = _parse(body, columns, ledger, place)
        if frame.height != lines:
            raise ledger.error("a blank line", _first_blank(body, place))
        ledger.records += lines
        yield Table(frame, place + 1, ledger)
        place += lines


def _parse(body: bytes, columns: Sequence[str], ledger: Ledger, place: int) -> pl.DataFrame:
    # Polars says neither which line is ragged nor fills it visibly.
    commas = len(columns) - 1
    for number, line in enumerate(body.split(b"\n")[:-1], 1):
        if line.count(b",") != commas:
            raise ledger.error(f"{line.count(b',') + 1} cells, not {commas + 1}", place + number)
    try:
        return pl.read_csv(
            io.BytesIO(body),
            has_header=False,
            new_columns=list(columns),
            schema_overrides=dict.fromkeys(columns, pl.String),
            infer_schema=False,
            quote_char=None,
            raise_if_empty=False,
        )
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        raise ledger.error(f"not a table of text: {' '.join(str(error).split())[:150]}", place + 1) from error


def _first_blank(body: bytes, place: int) -> int:
    return place + next((n for n, line in enumerate(body.split(b"\n"), 1) if not line.strip()), 1)


def tick_of(table: Table, columns: Sequence[str]) -> float:
    """Return the greatest common divisor of prices, as far as some lines tell: the tick size."""
    texts = pl.concat([table.frame[column].fill_null("") for column in columns]).str.strip_chars()
    texts = texts.filter(texts.str.contains(r"^\d{1,12}(\.\d{1,12})?$"))
    decimals = texts.str.split(".").list.get(1, null_on_oob=True).fill_null("").str.strip_chars_end("0").str.len_chars()
    places = min(int(decimals.max() or 0), _DECIMALS)  # type: ignore[arg-type]
    scaled = np.rint(texts.cast(pl.Float64).to_numpy() * 10.0**places).astype(np.int64)
    divisor = int(np.gcd.reduce(scaled)) if len(scaled) else 0
    return divisor / 10.0**places if divisor else 1.0

"""CSV files in batches of columns; an invalid cell is an error at its line."""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from lobsmith.errors import CaptureError
from lobsmith.market.quality.ledger import Ledger
from lobsmith.market.venues.captures import text_batches

Columns = Mapping[str, type[pl.DataType]]
"""Names and types of columns, in order: `pl.Int64`, `pl.Float64` or `pl.String`."""

_CHUNK = 4 << 20
_MOST_TICKS = 2.0**46  # float resolution below a tick
_DECIMALS = 12
_NEWLINE, _COMMA = ord("\n"), ord(",")


class Table(NamedTuple):
    """Lines of a file; empty cells are null; `place` is the first line's."""

    frame: pl.DataFrame
    place: int
    ledger: Ledger

    def error(self, row: int, message: str) -> CaptureError:
        """Return an error at a line."""
        return self.ledger.error(message, self.place + row)

    def part(self, start: int, stop: int) -> "Table":
        """Return lines `start` to `stop`."""
        return self._replace(frame=self.frame.slice(start, stop - start), place=self.place + start)

    def followed_by(self, other: "Table") -> "Table":
        """Append the same file's next lines."""
        return self._replace(frame=self.frame.vstack(other.frame))

    def integers(self, columns: Sequence[str], low: int, high: int) -> npt.NDArray[np.int64]:
        """Return columns of integers, `low` <= x < `high`: int64 [N, C]."""
        self._require(columns)
        values = self.frame.select(columns).to_numpy()
        self._check(columns, (values < low) | (values >= high))
        return values

    def numbers(self, columns: Sequence[str], *, empty: bool = False) -> npt.NDArray[np.float64]:
        """Return columns of finite, non-negative decimals: float64 [N, C].

        Args:
            columns: their names.
            empty: whether cells may be empty, as 0.
        """
        frame = self.frame.select(columns)
        if empty:
            frame = frame.fill_null(0.0)
        else:
            self._require(columns)
        values = frame.to_numpy()
        self._check(columns, ~((values >= 0) & (values < np.inf)))
        return values

    def ticks(self, columns: Sequence[str], tick: float, *, empty: bool = False) -> npt.NDArray[np.int64]:
        """Return columns of prices in ticks: int64 [N, C]; otherwise as `numbers`."""
        prices = self.numbers(columns, empty=empty)
        ticks: npt.NDArray[np.float64] = np.rint(prices / tick)
        self._check(columns, ticks >= _MOST_TICKS, f"too large for ticks of {tick}")
        # Both price and product are rounded floats.
        slack = np.maximum(1e-6 * tick, 4 * np.spacing(prices))
        self._check(columns, np.abs(prices - ticks * tick) > slack, f"no multiple of {tick}")
        whole: npt.NDArray[np.int64] = ticks.astype(np.int64)
        return whole

    def one_of(self, column: str, codes: Mapping[str, int]) -> npt.NDArray[np.int8]:
        """Return the codes of a text column, int8 [N]."""
        self._require([column])
        texts = self.frame[column]
        values = np.zeros(len(texts), np.int8)
        known = np.zeros(len(texts), np.bool_)
        for text, code in codes.items():
            same = (texts == text).to_numpy()
            values[same] = code
            known |= same
        if not known.all():
            at = int(np.argmin(known))
            raise self.error(at, f"{column}: {texts[at]!r} is none of {', '.join(codes)}")
        return values

    def only(self, column: str) -> str:
        """Return a column's single value."""
        self._require([column])
        values = self.frame[column]
        other = (values != values[0]).to_numpy()
        if other.any():
            at = int(np.argmax(other))
            raise self.error(at, f"{column}: {values[at]!r} after {values[0]!r}; a session has one instrument")
        return str(values[0])

    def _require(self, columns: Sequence[str]) -> None:
        for column in columns:
            if self.frame[column].null_count():
                raise self.error(int(self.frame[column].is_null().arg_true()[0]), f"{column}: the cell is empty")

    def _check(self, columns: Sequence[str], wrong: npt.NDArray[np.bool_], reason: str = "out of range") -> None:
        if wrong.any():
            row, column = divmod(int(np.argmax(wrong)), len(columns))
            raise self.error(row, f"{columns[column]}: {self.frame[columns[column]][row]} is {reason}")


def read_tables(path: Path, columns: Columns, ledger: Ledger, *, header: bool, chunk: int = _CHUNK) -> Iterator[Table]:
    """Yield and count a file's lines, about `chunk` bytes at once.

    Raises:
        CaptureError: the file cannot be read, or a line has a wrong number or type of cells.
    """
    place = ledger.begin_file(path)
    skipped = 1 if header else 0
    for text in text_batches(path, chunk):
        body = text[text.index(b"\n") + 1 :] if skipped else text
        place += skipped
        skipped = 0
        if not body:
            continue
        if b"\r" in body:
            body = body.replace(b"\r\n", b"\n")
        frame = _parse(body, columns, ledger, place)
        ledger.records += frame.height
        yield Table(frame, place + 1, ledger)
        place += frame.height


def _parse(body: bytes, columns: Columns, ledger: Ledger, place: int) -> pl.DataFrame:
    lines = _check_shape(body, len(columns), ledger, place)
    try:
        frame = _read(body, columns)
    except pl.exceptions.PolarsError:
        # Read as text to locate the cell.
        try:
            frame = _cast(_read(body, dict.fromkeys(columns, pl.String)), columns, ledger, place)
        except pl.exceptions.PolarsError as error:
            raise ledger.error(f"not a table of text: {' '.join(str(error).split())[:150]}", place + 1) from error
    if frame.height != lines:
        raise ledger.error(f"{lines} lines make {frame.height} rows; the file is no plain CSV", place + 1)
    return frame


def _check_shape(body: bytes, cells: int, ledger: Ledger, place: int) -> int:
    """Return the number of lines; polars silently fills short ones."""
    signs = np.frombuffer(body, np.uint8)
    ends = np.flatnonzero(signs == _NEWLINE)
    commas = np.diff(np.searchsorted(np.flatnonzero(signs == _COMMA), ends), prepend=0)
    wrong = commas != cells - 1
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ledger.error(f"{commas[at] + 1} cells, not {cells}", place + 1 + at)
    return len(ends)


def _read(body: bytes, columns: Columns) -> pl.DataFrame:
    return pl.read_csv(
        io.BytesIO(body),
        has_header=False,
        schema=dict(columns),
        quote_char=None,
        raise_if_empty=False,
    )


def _cast(texts: pl.DataFrame, columns: Columns, ledger: Ledger, place: int) -> pl.DataFrame:
    """Type an invalid batch's cells; raise at the first bad one."""
    frame = texts.cast(dict(columns), strict=False)  # type: ignore[arg-type]
    bad = [(texts[name].is_not_null() & frame[name].is_null()).arg_true() for name in columns]
    invalid = [(int(rows[0]), name) for rows, name in zip(bad, columns, strict=True) if len(rows)]
    if invalid:
        at, name = min(invalid, key=lambda cell: cell[0])
        kind = "integer" if columns[name] is pl.Int64 else "number"
        raise ledger.error(f"{name}: {str(texts[name][at])[:40]!r} is no {kind}", place + 1 + at)
    return frame


def tick_of(prices: pl.Series) -> float:
    """Return the prices' greatest common divisor, 1 without prices."""
    # A float's shortest text is what the file contained.
    exact = [Decimal(repr(price)) for price in prices.drop_nulls().unique().to_list() if 0 < price < math.inf]
    places = max((-int(price.normalize().as_tuple().exponent) for price in exact), default=0)
    scale = Decimal(10) ** min(max(places, 0), _DECIMALS)
    divisor = math.gcd(*(int(price * scale) for price in exact))
    return float(divisor / scale) if divisor else 1.0

"""Features of an event stream."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lobsmith.features.definitions import COUNT
from lobsmith.features.kernel import kernel_dtype, run
from lobsmith.features.normaliser import normaliser_dtype
from lobsmith.market.book import new_book
from lobsmith.market.events import END, TICKER, Events
from lobsmith.market.instrument import Instrument
from lobsmith.market.session import without_restated
from lobsmith.params import FeatureParams, Params, load_params
from lobsmith.workspace import Workspace


class Row(NamedTuple):
    """One feature row: the touch has changed. F = 75.

    Attributes:
        features: the network's input, float32 [F]: rolling columns as z-scores.
        raw: the same before any z-score, float32 [F].
        time_ns: local receive time, ns since 1970 UTC.
        segment: number of the gap-free segment.
        mid: best bid plus best ask, ticks.
        complete: the z-score's window has enough rows.
    """

    features: npt.NDArray[np.float32]
    raw: npt.NDArray[np.float32]
    time_ns: int
    segment: int
    mid: int
    complete: bool = True


@dataclass(frozen=True)
class Rows:
    """Feature rows, one per change of the touch.

    | column     | type           | meaning |
    |------------|----------------|---------|
    | `raw`      | float32 [N, F] | raw features |
    | `features` | float32 [N, F] | the network's input: rolling columns as z-scores |
    | `time`     | int64 [N]      | local receive time, ns since 1970 UTC |
    | `mid`      | int64 [N]      | best bid plus best ask, ticks |
    | `segment`  | int64 [N]      | number of the gap-free segment |
    | `complete` | bool [N]       | the z-score's window has enough rows |
    """

    raw: npt.NDArray[np.float32]
    features: npt.NDArray[np.float32]
    time: npt.NDArray[np.int64]
    mid: npt.NDArray[np.int64]
    segment: npt.NDArray[np.int64]
    complete: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.time)

    def __iter__(self) -> Iterator[Row]:
        columns = self.time.tolist(), self.segment.tolist(), self.mid.tolist(), self.complete.tolist()
        return map(Row._make, zip(self.features, self.raw, *columns, strict=True))

    def slice(self, start: int, stop: int) -> "Rows":
        """Return rows `start` to `stop` as views."""
        return Rows(*(getattr(self, field.name)[start:stop] for field in fields(self)))

    @classmethod
    def concatenate(cls, parts: "list[Rows]") -> "Rows":
        """Join rows; at least one part."""
        if len(parts) == 1:
            return parts[0]
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


class FeatureStream:
    """Features of one instrument's stream; the bits do not depend on how it is cut.

    >>> from lobsmith.market.simulator import simulate
    >>> session = simulate(seed=1, seconds=5)
    >>> rows = FeatureStream(session.instrument).push(session.events)
    >>> rows.features.dtype.name, rows.features.shape[1], len(rows) > 10
    ('float32', 75, True)
    """

    def __init__(self, instrument: Instrument, params: FeatureParams | None = None) -> None:
        """Begin with an empty book.

        Args:
            instrument: in whose ticks and lots the events are.
            params: `features` of `params.yaml`; of the current project by default.

        Raises:
            ParamsError: there is no project.
        """
        params = params or load_params(Workspace.find().params).features
        self._book = new_book()
        self._kernel = np.zeros(1, kernel_dtype())
        self._kernel["lot"] = instrument.lot_size
        self._kernel["flow_decay"] = params.flow_decays_s
        self._kernel["size_decay"] = params.size_decay_s
        self._kernel["short_decay"] = params.volatility_short_s
        self._kernel["long_decay"] = params.volatility_long_s
        self._window = np.zeros(1, normaliser_dtype(COUNT, params.normaliser_rows))
        self._minimum = params.normaliser_minimum

    def push(self, events: Events) -> Rows:
        """Process whole messages in the order of arrival; return the rows they complete."""
        capacity = int(np.count_nonzero((events.kind == TICKER) & ((events.flags & END) != 0)))
        raw = np.empty((capacity, COUNT), np.float32)
        scaled = np.empty((capacity, COUNT), np.float32)
        times, mids, segments, counts = (np.empty(capacity, np.int64) for _ in range(4))
        count = run(
            self._book,
            self._kernel,
            self._window,
            events.local_time,
            events.kind,
            events.side,
            events.flags,
            events.price,
            events.size,
            events.sequence,
            raw,
            scaled,
            times,
            mids,
            segments,
            counts,
        )
        complete = counts >= self._minimum
        return Rows(raw, scaled, times, mids, segments, complete).slice(0, count)

    @staticmethod
    def read(
        *files: Path | str, root: Workspace | Path | str | None = None, params: Params | None = None
    ) -> Iterator[Row]:
        """Yield the complete rows of captured files, in bounded memory.

        Args:
            files: of one instrument, in order, as one stream.
            root: the project's folder: see `Workspace.find`.
            params: instead of the project's.

        Raises:
            CaptureError: a file cannot be used.
            ParamsError: there is no project, or its parameters are wrong.
        """
        # Polars, which readers import, starts threads: they do not survive the fork of a flow run.
        from lobsmith.market.readers import open_captures

        params = params or load_params(Workspace.find(root).params)
        feed = open_captures([Path(file) for file in files], params.data.screen)
        stream: FeatureStream | None = None
        for events in feed:
            stream = stream or FeatureStream(feed.instrument, params.features)
            for row in stream.push(without_restated(events)):
                if row.complete:
                    yield row

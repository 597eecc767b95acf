"""The front door: rows that the model answers, the mode gates and the recorder logs."""

from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import TracebackType

import numpy as np

from lobsmith.errors import ParamsError, RequestError, ServingError
from lobsmith.features.definitions import COUNT, definitions_sha256
from lobsmith.features.stream import Row, Rows
from lobsmith.market.instrument import Instrument
from lobsmith.monitoring.log.writer import Source
from lobsmith.params import Params, load_params
from lobsmith.trading.client.ab import AbClient
from lobsmith.trading.client.stream import Client, Prediction, StreamClient
from lobsmith.trading.guard.effective_mode import Abstain
from lobsmith.trading.guard.guard import Guard
from lobsmith.trading.guard.guarded_client import GatedPrediction, GuardedClient, UnguardedClient
from lobsmith.trading.guard.monitor_mode import FileModes, HttpModes
from lobsmith.trading.guard.trained_instruments import TrainedInstruments
from lobsmith.trading.recorder.recorder import Recorder, RecorderSummary
from lobsmith.trading.transport import open_transport, transport_opener
from lobsmith.trading.transport.base import Transport
from lobsmith.workspace import Workspace


class Stream:
    """A stream of one instrument: see `open_stream`. Not thread-safe.

    The first row of another segment, after a gap in the feed, starts from a cold state.

    Attributes:
        client: without guard and recorder.
        guard: None where unguarded.
        recorder: None where nothing is logged.
        recorded: the recorder's summary, set when the stream is closed.
        definitions_sha256: of features and labels.
    """

    def __init__(
        self,
        transport: Transport,
        client: Client[Prediction],
        gated: GuardedClient | UnguardedClient,
        *,
        instruments: TrainedInstruments,
        guard: Guard | None,
        recorder: Recorder | None,
        definitions: str,
        backpressure: bool,
    ) -> None:
        """Take over transport, guard and recorder; `close` closes them."""
        self.client, self.guard, self.recorder = client, guard, recorder
        self.recorded: RecorderSummary | None = None
        self.definitions_sha256 = definitions
        self._gated = gated
        self._instruments = instruments
        self._backpressure = backpressure
        self._segment: int | None = None
        self._closed = self._failed = False
        self._parts = ExitStack()
        self._parts.callback(transport.close)
        if recorder is not None:
            self._parts.callback(self._end_recording, recorder)
        if guard is not None:
            self._parts.callback(guard.close)

    def step(self, row: Row) -> GatedPrediction:
        """Predict the next row; record row and prediction.

        Returns:
            `prediction.probabilities`, float32 [H, 3]: P(down), P(unchanged), P(up) of the mid after each horizon; what
            may be acted on, by horizon, and why not. Server failures are a reason in the prediction.

        Raises:
            RequestError: the stream is closed, or wrong shape or type.
        """
        self._check_open()
        self._enter(row.segment)
        gated = self._check_instrument(self._gated.step(row.features, row.raw, row.time_ns))
        if self.recorder is not None:
            self.recorder.record(row.time_ns, row.segment, row.mid, row.features, gated.prediction, row.raw)
        if self._backpressure:
            self._wait()
        return gated

    def ask(self, rows: Rows) -> list[GatedPrediction]:
        """Predict rows that came together, up to `MAX_ROWS` a request; in an A/B test by the active version.

        Raises:
            RequestError: see `step`.
        """
        self._check_open()
        answered: list[GatedPrediction] = []
        breaks = (np.flatnonzero(np.diff(rows.segment)) + 1).tolist()
        for start, stop in pairwise([0, *breaks, len(rows)]):
            answered += self._ask(rows.slice(start, stop))
        if self._backpressure:
            self._wait()
        return answered

    def _ask(self, rows: Rows) -> list[GatedPrediction]:
        """Predict and record rows of one segment."""
        if not len(rows):
            return []
        self._enter(int(rows.segment[0]))
        gated = list(map(self._check_instrument, self._gated.ask(rows.features, rows.raw, rows.time)))
        if self.recorder is not None:
            for answer, row in zip(gated, rows, strict=True):
                self.recorder.record(row.time_ns, row.segment, row.mid, row.features, answer.prediction, row.raw)
        return gated

    @property
    def not_trained(self) -> str | None:
        """One line where the version was not trained on the instrument, else None."""
        return self._instruments.fault

    def prime(self, rows: Rows) -> None:
        """Feed rows of one segment that precede the first predicted one.

        Raises:
            RequestError: see `step`.
        """
        self._check_open()
        if len(rows):
            self._enter(int(rows.segment[0]))
        if self.recorder is not None:
            for row in rows:
                self.recorder.prime(row.time_ns, row.segment, row.mid, row.features)
                if self._backpressure:
                    self.recorder.throttle()
        self._gated.predict(rows.features, rows.raw, rows.time)
        if self._backpressure:
            self._wait()

    def reset(self) -> None:
        """Start from a cold state with the next row, whatever its segment."""
        self._segment = None
        self._gated.reset()
        if self.recorder is not None:
            self.recorder.reset()

    def close(self, *, failed: bool = False) -> RecorderSummary | None:
        """Close all parts; return what was logged, None without a recorder.

        Waits until all rows are logged, for little more than `mirror.drain_s`.

        Args:
            failed: the session counts as crashed.
        """
        self._closed, self._failed = True, failed
        self._parts.close()
        return self.recorded

    def __enter__(self) -> "Stream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # An interrupt ends a client normally.
        self.close(failed=isinstance(error, Exception))

    def _enter(self, segment: int) -> None:
        if segment != self._segment:
            if self._segment is not None:
                self.reset()
            self._segment = segment

    def _check_instrument(self, gated: GatedPrediction) -> GatedPrediction:
        prediction = gated.prediction
        fault = self._instruments.check(prediction.model, prediction.version)
        if fault is None or gated.abstain is Abstain.NO_ANSWER:
            return gated
        none = (False,) * len(gated.actionable)
        return replace(gated, actionable=none, abstain=Abstain.OTHER_INSTRUMENT, detail=fault)

    def _check_open(self) -> None:
        if self._closed:
            raise RequestError("the stream is closed; open another one")

    def _wait(self) -> None:
        if self.guard is not None:
            self.guard.throttle()
        if self.recorder is not None:
            self.recorder.throttle()

    def _end_recording(self, recorder: Recorder) -> None:
        self.recorded = recorder.close(failed=self._failed)


def open_stream(
    instrument: Instrument | str,
    *,
    root: Workspace | Path | str | None = None,
    params: Params | None = None,
    model: str | None = None,
    transport: str = "grpc",
    url: str | None = None,
    guard: bool = True,
    modes: str | None = None,
    ab: bool = False,
    record: str | None = Source.LIVE,
    backpressure: bool = False,
    allow_other_instrument: bool = False,
) -> Stream:
    """Open a stream of rows to the served model.

        with open_stream("binance-usdm:BTCUSDT") as stream:
            for row in FeatureStream.read("session.gz"):
                gated = stream.step(row)
                if gated.actionable[0]:  # at the first horizon
                    trade(gated.prediction.probabilities[0])

    Args:
        instrument: of the rows, `venue:symbol`.
        root: the project's folder, of server, mode and prediction log: see `Workspace.find`.
        params: that the model was trained with, instead of the project's.
        model: instead of `model.name`.
        transport: grpc, http, or inprocess, which needs no server.
        url: HOST:PORT of a server outside the project.
        guard: gate predictions by the mode and by these rows' drift score.
        modes: URL of another machine's modes, `http://HOST:PORT/modes`.
        ab: the candidate answers `shadow.share` of the blocks of time.
        record: source of the rows in the prediction log: live, replay or demo; None records nothing.
        backpressure: for replays: each step waits for guard and recorder.
        allow_other_instrument: open although the active version was not trained on the instrument. Predictions of such
            a version, now or later, are logged and not actionable: `Abstain.OTHER_INSTRUMENT`.

    Raises:
        UntrainedInstrumentError: the active version was trained on other instruments only.
        ParamsError: no project, its parameters are wrong, `ab` without a share, or no such transport or source.
        ServingError: no server answers, it has no such model or one of other features, or `modes` is no such URL.
    """
    workspace, instrument = Workspace.find(root), str(instrument)
    params = params or load_params(workspace.params)
    source = _source(record)
    name = model or params.model.name
    if ab and not params.shadow.share:
        raise ParamsError("shadow.share is 0: the candidate would answer nothing; pass --set shadow.share=0.5")
    definitions = definitions_sha256(params.features, params.labels)
    horizons = len(params.labels.horizons_ms)
    connection = open_transport(workspace, params, transport, url)
    with ExitStack() as opened:
        opened.callback(connection.close)
        served = connection.describe(name).definitions_sha256
        instruments = TrainedInstruments(workspace, connection, name, instrument, remote=url is not None)
        check_definitions(name, served, definitions)
        active = max(connection.versions(name), default=None)
        if active is not None and not allow_other_instrument:
            instruments.require(active)
        client: Client[Prediction]
        if ab:
            shadow = params.shadow
            client = AbClient(
                connection,
                name,
                params.client,
                symbol=instrument,
                block_s=shadow.arm_s,
                share=shadow.share,
                salt=shadow.salt,
            )
        else:
            client = StreamClient.open(connection, name, params.client)
        gated: GuardedClient | UnguardedClient
        watcher = None
        if guard:
            watcher = open_guard(workspace, params, name, transport, url, modes)
            opened.callback(watcher.close)
            gated = GuardedClient(client, watcher, model=name, horizons=horizons)
        else:
            gated = UnguardedClient(client, horizons=horizons)
        recorder = None
        if source is not None:
            recorder = Recorder(
                workspace,
                params,
                model=name,
                instrument=instrument,
                source=source,
                transport=transport,
                url=url,
                backpressure=backpressure,
            )
        opened.pop_all()
    return Stream(
        connection,
        client,
        gated,
        instruments=instruments,
        guard=watcher,
        recorder=recorder,
        definitions=definitions,
        backpressure=backpressure,
    )


def check_definitions(model: str, served: str, described: str) -> None:
    """Check that a model reads the features, and predicts the labels, of the parameters.

    Raises:
        ServingError: the hashes differ.
    """
    if served != described:
        raise ServingError(
            f"{model}: the served model was made for other features or labels (definitions {served[:12]}) than "
            f"params.yaml describes ({described[:12]}); use the parameters it was trained with"
        )


def _source(record: str | None) -> Source | None:
    try:
        return None if record is None else Source(record)
    except ValueError:
        raise ParamsError(f"record={record!r}: no such source; there are {', '.join(Source)}, and None") from None


def open_guard(
    workspace: Workspace, params: Params, model: str, name: str, url: str | None = None, modes: str | None = None
) -> Guard:
    """Start the guard of one stream, with the arguments of `open_stream`; `name` is the transport.

    Raises:
        ParamsError: no such transport.
        ServingError: `modes` is no such URL.
    """
    source = FileModes(workspace, model) if modes is None else HttpModes(modes, model)
    return Guard(model, COUNT, params, source, transport_opener(workspace, params, name, url))

"""The front door: rows that the model answers, the mode gates and the recorder logs."""

from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType

from lobsmith.errors import ParamsError, RequestError, ServingError
from lobsmith.features.definitions import COUNT, definitions_sha256
from lobsmith.features.stream import Rows
from lobsmith.monitoring.log.writer import Source
from lobsmith.params import Params
from lobsmith.trading.client.ab import AbClient
from lobsmith.trading.client.stream import Client, Float32, Prediction, StreamClient
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
        self._closed = self._failed = False
        self._parts = ExitStack()
        self._parts.callback(transport.close)
        if recorder is not None:
            self._parts.callback(self._end_recording, recorder)
        if guard is not None:
            self._parts.callback(guard.close)

    def step(self, row: Float32, raw: Float32, time_ns: int, segment: int, mid: int) -> GatedPrediction:
        """Predict the next row; record row and prediction.

        Args:
            row: float32 [F], normalised.
            raw: float32 [F], the same in natural units.
            time_ns: local receive time, UTC.
            segment: number of the gap-free segment.
            mid: twice the mid, ticks.

        Raises:
            RequestError: the stream is closed, or wrong shape or type. Server failures are a reason in the prediction.
        """
        self._check_open()
        gated = self._check_instrument(self._gated.step(row, raw, time_ns))
        if self.recorder is not None:
            self.recorder.record(time_ns, segment, mid, row, gated.prediction, raw)
        if self._backpressure:
            self._wait()
        return gated

    def ask(self, rows: Rows) -> list[GatedPrediction]:
        """Predict rows that came together, up to `MAX_ROWS` a request; in an A/B test by the active version.

        Raises:
            RequestError: see `step`.
        """
        self._check_open()
        gated = list(map(self._check_instrument, self._gated.ask(rows.features, rows.raw, rows.time)))
        if self.recorder is not None:
            columns = rows.time.tolist(), rows.segment.tolist(), rows.mid.tolist(), rows.features, rows.raw
            for answer, time_ns, segment, mid, row, raw in zip(gated, *columns, strict=True):
                self.recorder.record(time_ns, segment, mid, row, answer.prediction, raw)
        if self._backpressure:
            self._wait()
        return gated

    @property
    def not_trained(self) -> str | None:
        """One line where the version was not trained on the instrument, else None."""
        return self._instruments.fault

    def prime(self, rows: Rows) -> None:
        """Feed rows that precede the first predicted one.

        Raises:
            RequestError: see `step`.
        """
        self._check_open()
        if self.recorder is not None:
            columns = zip(rows.time.tolist(), rows.segment.tolist(), rows.mid.tolist(), rows.features, strict=True)
            for time_ns, segment, mid, row in columns:
                self.recorder.prime(time_ns, segment, mid, row)
                if self._backpressure:
                    self.recorder.throttle()
        self._gated.predict(rows.features, rows.raw, rows.time)
        if self._backpressure:
            self._wait()

    def reset(self) -> None:
        """Reset client and recorder: see `Client.reset`."""
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
    workspace: Workspace,
    params: Params,
    instrument: str,
    *,
    model: str | None = None,
    transport: str = "grpc",
    url: str | None = None,
    guard: bool = True,
    modes: str | None = None,
    ab: bool = False,
    record: Source | None = Source.LIVE,
    backpressure: bool = False,
    allow_other_instrument: bool = False,
) -> Stream:
    """Open a stream of rows to the served model.

        with open_stream(workspace, params, "binance-usdm:BTCUSDT") as stream:
            for row, raw, time_ns, segment, mid in rows:
                gated = stream.step(row, raw, time_ns, segment, mid)
                if gated.actionable[horizon]:
                    trade(gated.prediction)

    Args:
        workspace: of server, mode and prediction log.
        params: that the model was trained with.
        instrument: `venue:symbol`.
        model: instead of `model.name`.
        transport: grpc, http or inprocess.
        url: HOST:PORT of a server outside the workspace.
        guard: gate predictions by the mode and by these rows' drift score.
        modes: URL of another machine's modes, `http://HOST:PORT/modes`.
        ab: the candidate answers `shadow.share` of the blocks of time.
        record: source of the rows in the prediction log; None records nothing.
        backpressure: for replays: each step waits for guard and recorder.
        allow_other_instrument: open although the active version was not trained on the instrument. Predictions of such
            a version, now or later, are logged and not actionable: `Abstain.OTHER_INSTRUMENT`.

    Raises:
        UntrainedInstrumentError: the active version was trained on other instruments only.
        ParamsError: `ab` without a share, or no such transport.
        ServingError: no server answers, it has no such model or one of other features, or `modes` is no such URL.
    """
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
        if served != definitions:
            raise ServingError(
                f"{name}: the served model was made for other features or labels (definitions {served[:12]}) than "
                f"params.yaml describes ({definitions[:12]}); use the parameters it was trained with"
            )
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
        if record is not None:
            recorder = Recorder(
                workspace,
                params,
                model=name,
                instrument=instrument,
                source=record,
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

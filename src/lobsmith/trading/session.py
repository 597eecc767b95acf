"""The front door: one stream of rows, answered by the served model, gated by the mode, and recorded."""

from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType

from lobsmith.errors import ParamsError, RequestError, ServingError
from lobsmith.features.definitions import COUNT, definitions_sha256
from lobsmith.features.stream import Rows
from lobsmith.monitoring.log.writer import Source
from lobsmith.params import Params
from lobsmith.trading.client.ab import SplitClient
from lobsmith.trading.client.stream import Client, Float32, Prediction, StreamClient
from lobsmith.trading.guard.effective_mode import Abstain
from lobsmith.trading.guard.guard import Guard
from lobsmith.trading.guard.guarded_client import GatedPrediction, GuardedClient, UnguardedClient
from lobsmith.trading.guard.learnt import LearntInstruments
from lobsmith.trading.guard.monitor_mode import FileModes, HttpModes
from lobsmith.trading.recorder.recorder import Recorded, Recorder
from lobsmith.trading.transport import open_transport, transport_opener
from lobsmith.trading.transport.base import Transport
from lobsmith.workspace import Workspace


class Stream:
    """One stream of one instrument: see `open_stream`. Not safe to share between threads.

    Attributes:
        client: the versions' side of it, without guard and recorder.
        guard: None where nothing watches.
        recorder: None where nothing is recorded.
        recorded: what was recorded, once the stream is closed.
        definitions_sha256: what its rows mean.
    """

    def __init__(
        self,
        transport: Transport,
        client: Client[Prediction],
        gated: GuardedClient | UnguardedClient,
        *,
        learnt: LearntInstruments,
        guard: Guard | None,
        recorder: Recorder | None,
        definitions: str,
        backpressure: bool,
    ) -> None:
        """Put the parts together; the stream closes transport, guard and recorder."""
        self.client, self.guard, self.recorder = client, guard, recorder
        self.recorded: Recorded | None = None
        self.definitions_sha256 = definitions
        self._gated = gated
        self._learnt = learnt
        self._backpressure = backpressure
        self._closed = self._failed = False
        self._parts = ExitStack()
        self._parts.callback(transport.close)
        if recorder is not None:
            self._parts.callback(self._end_recording, recorder)
        if guard is not None:
            self._parts.callback(guard.close)

    def step(self, row: Float32, raw: Float32, time_ns: int, segment: int, mid: int) -> GatedPrediction:
        """Ask about the next row, and have row and answer recorded.

        Args:
            row: float32 [F], what the network sees.
            raw: float32 [F], the same row in its own units.
            time_ns: local receive time of the row, UTC.
            segment: number of the gap-free segment of the feed.
            mid: twice the mid, ticks.

        Raises:
            RequestError: the stream is closed, or wrong shape or type. Whatever happens at the server is a reason in
                the prediction instead.
        """
        self._check_open()
        gated = self._marked(self._gated.step(row, raw, time_ns))
        if self.recorder is not None:
            self.recorder.record(time_ns, segment, mid, row, gated.prediction, raw)
        if self._backpressure:
            self._wait()
        return gated

    def ask(self, rows: Rows) -> list[GatedPrediction]:
        """Ask about rows that have come together, in requests of up to `MAX_ROWS`; the answers are those of `step`.

        In an A/B test the active version answers all of them.

        Raises:
            RequestError: see `step`.
        """
        self._check_open()
        gated = [self._marked(one) for one in self._gated.ask(rows.features, rows.raw, rows.time)]
        if self.recorder is not None:
            about = rows.time.tolist(), rows.segment.tolist(), rows.mid.tolist(), rows.features, rows.raw
            for one, time_ns, segment, mid, row, raw in zip(gated, *about, strict=True):
                self.recorder.record(time_ns, segment, mid, row, one.prediction, raw)
        if self._backpressure:
            self._wait()
        return gated

    @property
    def not_learnt(self) -> str | None:
        """That the version in use has not learnt the stream's instrument, one line; None where it has."""
        return self._learnt.fault

    def prime(self, rows: Rows) -> None:
        """Move the stream over rows that come before the first one that is asked about.

        Raises:
            RequestError: wrong shape or type, or the stream is closed.
        """
        self._check_open()
        if self.recorder is not None:
            about = zip(rows.time.tolist(), rows.segment.tolist(), rows.mid.tolist(), rows.features, strict=True)
            for time_ns, segment, mid, row in about:
                self.recorder.prime(time_ns, segment, mid, row)
                if self._backpressure:
                    self.recorder.pace()
        self._gated.predict(rows.features, rows.raw, rows.time)
        if self._backpressure:
            self._wait()

    def reset(self) -> None:
        """Forget the stream: after a gap in the feed the next row starts from a cold state."""
        self._gated.reset()
        if self.recorder is not None:
            self.recorder.reset()

    def close(self, *, failed: bool = False) -> Recorded | None:
        """End guard, recording and connections; return what was recorded, None where nothing was to be.

        It waits until all rows are written down, for little more than `mirror.drain_s`.

        Args:
            failed: the stream ends because of an error; the monitor then takes its session for one that crashed.
        """
        self._closed, self._failed = True, failed
        self._parts.close()
        return self.recorded

    def __enter__(self) -> "Stream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # An interrupt is how a client is ended; anything else has ended it.
        self.close(failed=isinstance(error, Exception))

    def _marked(self, gated: GatedPrediction) -> GatedPrediction:
        prediction = gated.prediction
        fault = self._learnt.check(prediction.model, prediction.version)
        if fault is None or gated.abstain is Abstain.NO_ANSWER:
            return gated
        nothing = (False,) * len(gated.actionable)
        return replace(gated, actionable=nothing, abstain=Abstain.OTHER_INSTRUMENT, detail=fault)

    def _check_open(self) -> None:
        if self._closed:
            raise RequestError("the stream is closed; open another one")

    def _wait(self) -> None:
        if self.guard is not None:
            self.guard.pace()
        if self.recorder is not None:
            self.recorder.pace()

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
                advised = stream.step(row, raw, time_ns, segment, mid)
                if advised.may_act[horizon]:
                    trade(advised.prediction)

    Args:
        workspace: of the server, of the mode's record and of the prediction log.
        params: those that the model was trained with.
        instrument: `venue:symbol` of the stream.
        model: instead of `model.name`.
        transport: grpc, http or inprocess.
        url: HOST:PORT of a server that is not the workspace's.
        guard: gate answers by the mode of now and by scores of these rows.
        modes: URL of the pages of modes of another machine, `http://HOST:PORT/modes`.
        ab: let the candidate answer `shadow.share` of the time, by blocks.
        record: what the rows count as in the prediction log; None records nothing.
        backpressure: rows come faster than a market's, as in a replay: each step waits for guard and recorder.
        allow_other_instrument: ask although the active version has not learnt the instrument. Its answers are logged,
            and none may be acted on: `Abstain.OTHER_INSTRUMENT`. The same holds of a version that becomes active later.

    Raises:
        UnlearntInstrumentError: the active version has learnt other instruments.
        ParamsError: `ab` without a share, or there is no such transport.
        ServingError: no server answers, it has no such model, the model means other features by its inputs, or `modes`
            is no such URL.
    """
    name = model or params.model.name
    if ab and not params.shadow.share:
        raise ParamsError("shadow.share is 0: the candidate would answer nothing; pass --set shadow.share=0.5")
    definitions = definitions_sha256(params.features, params.labels)
    horizons = len(params.labels.horizons_ms)
    channel = open_transport(workspace, params, transport, url)
    with ExitStack() as opened:
        opened.callback(channel.close)
        served = channel.describe(name).definitions_sha256
        learnt = LearntInstruments(workspace, channel, name, instrument, remote=url is not None)
        if served != definitions:
            raise ServingError(
                f"{name}: the served model was made for other features or labels (definitions {served[:12]}) than "
                f"params.yaml describes ({definitions[:12]}); use the parameters it was trained with"
            )
        active = max(channel.versions(name), default=None)
        if active is not None and not allow_other_instrument:
            learnt.require(active)
        client: Client[Prediction]
        if ab:
            shadow = params.shadow
            client = SplitClient(
                channel,
                name,
                params.client,
                symbol=instrument,
                block_s=shadow.arm_s,
                share=shadow.share,
                salt=shadow.salt,
            )
        else:
            client = StreamClient.open(channel, name, params.client)
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
                patient=backpressure,
            )
        opened.pop_all()
    return Stream(
        channel,
        client,
        gated,
        learnt=learnt,
        guard=watcher,
        recorder=recorder,
        definitions=definitions,
        backpressure=backpressure,
    )


def open_guard(
    workspace: Workspace, params: Params, model: str, name: str, url: str | None = None, modes: str | None = None
) -> Guard:
    """Return a guard of one stream, which runs until it is closed.

    Args:
        workspace: of the server, and of the record of the mode.
        params: those that the model was trained with.
        model: the production model.
        name: grpc, http or inprocess.
        url: HOST:PORT of another server.
        modes: URL of the pages of modes on another machine, `http://HOST:PORT/modes`.

    Raises:
        ParamsError: there is no such transport.
        ServingError: `modes` is no such URL.
    """
    source = FileModes(workspace, model) if modes is None else HttpModes(modes, model)
    return Guard(model, COUNT, params, source, transport_opener(workspace, params, name, url))

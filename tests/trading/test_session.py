"""A stream from one call: the client's own answers, gated and recorded."""

import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from lobsmith import clock
from lobsmith.errors import ParamsError, RequestError, ServingError, UntrainedInstrumentError
from lobsmith.features.stream import Row, Rows
from lobsmith.market.instrument import Instrument
from lobsmith.monitoring.log.reader import PredictionLog, answers
from lobsmith.monitoring.log.sessions import ClientSession, Status, sessions_of
from lobsmith.monitoring.mode.machine import Mode
from lobsmith.params import Params
from lobsmith.trading.client.stream import Prediction, StreamClient
from lobsmith.trading.guard import trained_instruments
from lobsmith.trading.guard.effective_mode import Abstain
from lobsmith.trading.guard.trained_instruments import TrainedInstruments
from lobsmith.trading.session import Stream, open_stream
from lobsmith.trading.transport import open_transport
from lobsmith.trading.transport.base import ModelShape
from lobsmith.workspace import Workspace
from tests.served import publish_small
from tests.small import params_file, small_params
from tests.trading.recorded import MIDS, RAW, ROWS, SEGMENTS, TIMES, probabilities

PRIMED, COUNT = 100, 300


@pytest.fixture(scope="module")
def params() -> Params:
    return small_params()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, params: Params) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("session"))
    shutil.copy(params_file(), workspace.params)
    publish_small(workspace, params, seed=1)
    return workspace


@pytest.fixture(scope="module")
def expected(workspace: Workspace, params: Params) -> list[Prediction]:
    client = StreamClient.open(open_transport(workspace, params, "inprocess"), "lob", params.client)
    client.predict(ROWS[:PRIMED])
    return [client.step(row) for row in ROWS[PRIMED:COUNT]]


EVERY = Rows(RAW, ROWS, TIMES, MIDS, SEGMENTS, np.ones(len(ROWS), bool))


def through(stream: Stream) -> list:
    stream.prime(EVERY.slice(0, PRIMED))
    return [stream.step(row) for row in EVERY.slice(PRIMED, COUNT)]


def test_answers_are_the_clients_own_and_are_logged_as_live_rows(workspace, params, expected) -> None:
    with open_stream("simulator:SIM", root=workspace, params=params, transport="inprocess") as stream:
        gated = through(stream)
        assert stream.recorded is None
    np.testing.assert_allclose(
        probabilities([answer.prediction for answer in gated]), probabilities(expected), atol=1e-6
    )
    # No monitor has made a drift check, and the version has no score.
    assert {(answer.mode, answer.abstain) for answer in gated} == {(Mode.CONSERVATIVE, Abstain.NO_SIGNAL)}
    recorded = stream.close()
    assert recorded is stream.recorded
    assert (recorded.rows, recorded.logged, recorded.dropped) == (COUNT - PRIMED, COUNT - PRIMED, 0)
    with PredictionLog.of(workspace, "lob") as log:
        (session,) = log.sessions()
        assert (session["session"], session["source"], session["instrument"]) == (
            recorded.session,
            "live",
            "simulator:SIM",
        )
        live = answers(log, "lob", expected[0].version, sessions=[recorded.session])
    np.testing.assert_array_equal(live.time_ns, TIMES[PRIMED:COUNT])


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt(), Status.CLOSED), (ServingError("the feed has ended"), Status.CRASHED)]
)
def test_a_client_that_an_error_ends_has_crashed_and_an_interrupted_one_has_not(workspace, params, error, status):
    def trade() -> None:
        with open_stream("simulator:SIM", root=workspace, params=params, transport="inprocess", guard=False):
            assert last_session(workspace).status is Status.OPEN
            raise error

    with pytest.raises(type(error)):
        trade()
    assert last_session(workspace).status is status


def last_session(workspace: Workspace) -> ClientSession:
    return sessions_of(workspace, "lob", 0, ["live"], now_ns=clock.now_ns(), recent_ns=0)[-1]


def test_without_a_guard_every_answer_may_be_acted_on(workspace, params, expected) -> None:
    bad = ROWS[COUNT].copy()
    bad[0] = np.nan
    with open_stream(
        "simulator:SIM", root=workspace, params=params, transport="inprocess", guard=False, record=None
    ) as stream:
        gated = through(stream)
        missing = stream.step(Row(bad, RAW[COUNT], 0, 5, 20_000))
        stream.reset()
        cold = stream.step(Row(ROWS[PRIMED], RAW[PRIMED], 0, 5, 20_000))
    assert stream.close() is None
    with pytest.raises(RequestError, match="closed"):
        stream.step(Row(ROWS[0], RAW[0], 0, 1, 20_000))
    np.testing.assert_allclose(
        probabilities([answer.prediction for answer in gated]), probabilities(expected), atol=1e-6
    )
    assert {(answer.mode, answer.actionable, answer.abstain) for answer in gated} == {(Mode.NORMAL, (True, True), None)}
    assert (missing.actionable, missing.abstain) == ((False, False), Abstain.NO_ANSWER)
    assert not np.allclose(cold.prediction.probabilities, expected[0].probabilities, atol=1e-4)


def test_rows_that_come_together_are_answered_as_one_by_one(workspace, params, expected) -> None:
    with open_stream("simulator:SIM", root=workspace, params=params, transport="inprocess") as stream:
        stream.prime(EVERY.slice(0, PRIMED))
        gated = [answer for at in range(PRIMED, COUNT, 50) for answer in stream.ask(EVERY.slice(at, at + 50))]
        assert stream.not_trained is None
    np.testing.assert_allclose(
        probabilities([answer.prediction for answer in gated]), probabilities(expected), atol=1e-6
    )
    assert stream.recorded.logged == COUNT - PRIMED


def test_a_row_of_another_segment_starts_from_a_cold_state(workspace, params) -> None:
    gap = int(np.argmax(SEGMENTS[0] != SEGMENTS))
    rows = EVERY.slice(gap - 20, gap + 20)

    def answered(ask) -> np.ndarray:
        options = {"transport": "inprocess", "guard": False, "record": None}
        with open_stream("simulator:SIM", root=workspace, params=params, **options) as stream:
            return probabilities([gated.prediction for gated in ask(stream)])

    one_by_one = answered(lambda stream: [stream.step(row) for row in rows])
    cold = answered(lambda stream: [stream.step(row) for row in rows.slice(20, 40)])
    np.testing.assert_allclose(one_by_one[20:], cold, atol=1e-6)
    np.testing.assert_allclose(answered(lambda stream: stream.ask(rows)), one_by_one, atol=1e-6)
    carried = answered(lambda stream: [stream.step(row._replace(segment=1)) for row in rows])
    assert not np.allclose(carried[20:], cold, atol=1e-4)


def test_a_model_is_not_opened_for_an_instrument_that_it_was_not_trained_on(workspace, params) -> None:
    other = "binance-usdm:BTCUSDT"
    with pytest.raises(
        UntrainedInstrumentError, match=r"^lob \d+ was trained on simulator:SIM, not binance-usdm:BTCUSDT; "
    ):
        open_stream(other, root=workspace, params=params, transport="inprocess")
    with open_stream(
        other, root=workspace, params=params, transport="inprocess", guard=False, allow_other_instrument=True
    ) as stream:
        gated = through(stream)
        assert stream.not_trained.endswith(f"was trained on simulator:SIM, not {other}")
    assert {(answer.actionable, answer.abstain) for answer in gated} == {((False, False), Abstain.OTHER_INSTRUMENT)}
    assert all(answer.prediction.probabilities is not None for answer in gated)
    assert stream.recorded.logged == COUNT - PRIMED


def test_the_instruments_of_a_version_that_becomes_active_are_checked_too(tmp_path: Path) -> None:
    params = small_params(**{"client.poll_s": 0.001})
    workspace = Workspace(tmp_path)
    first = publish_small(workspace, params, seed=1)
    elsewhere = Instrument(venue="simulator", symbol="OTHER", tick_size=0.1, lot_size=0.001)
    with open_stream(
        "simulator:SIM",
        root=workspace,
        params=params,
        transport="inprocess",
        guard=False,
        record=None,
        backpressure=True,
    ) as stream:
        before = stream.step(Row(ROWS[0], RAW[0], 0, 1, 20_000))
        second = publish_small(workspace, params, seed=2, instruments=(elsewhere,))
        time.sleep(0.01)
        after = stream.step(Row(ROWS[1], RAW[1], 1, 1, 20_000))
    assert (before.prediction.version, before.abstain, before.actionable) == (first.version, None, (True, True))
    assert (after.prediction.version, after.abstain) == (second.version, Abstain.OTHER_INSTRUMENT)
    assert after.prediction.probabilities is not None


class Elsewhere:
    """Another machine's server; the workspace has no manifests of its models."""

    def __init__(self, instruments: tuple[str, ...]) -> None:
        self.instruments = instruments

    def describe(self, _model: str) -> ModelShape:
        return ModelShape(1, 1, 1, 1, "", self.instruments)


@pytest.mark.parametrize(
    ("trained_on", "fault"),
    [
        (("simulator:SIM", "binance-usdm:BTCUSDT"), None),
        (("binance-usdm:BTCUSDT",), "lob 3 was trained on binance-usdm:BTCUSDT, not simulator:SIM"),
        ((), None),
    ],
)
def test_of_a_server_elsewhere_the_configuration_lists_the_instruments(workspace, trained_on, fault) -> None:
    instruments = TrainedInstruments(workspace, Elsewhere(trained_on), "lob", "simulator:SIM", remote=True)
    assert instruments.check("lob", 3) == fault
    assert instruments.check("lob_trt", 3) == fault


def test_a_failed_lookup_of_instruments_is_repeated(workspace, monkeypatch) -> None:
    away = [ServingError("no answer"), None]

    class Away(Elsewhere):
        def describe(self, model: str) -> ModelShape:
            if (error := away.pop(0)) is not None:
                raise error
            return super().describe(model)

    monkeypatch.setattr(trained_instruments, "_RETRY_S", 0.0)
    instruments = TrainedInstruments(workspace, Away(("simulator:OTHER",)), "lob", "simulator:SIM", remote=True)
    assert instruments.check("lob", 3) is None
    fault = "lob 3 was trained on simulator:OTHER, not simulator:SIM"
    # A successful lookup is not repeated.
    assert [instruments.check("lob", 3) for _ in range(2)] == [fault] * 2


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"labels.significant_bps": 9.0}, {}, "made for other features or labels"),
        ({}, {"model": "absent"}, "absent"),
        ({}, {"modes": "ftp://nowhere"}, "not the URL of modes"),
        ({}, {"record": "smoke"}, "no such source; there are live, replay, demo, and None"),
        ({}, {"transport": "smoke"}, "smoke: no such transport"),
        ({}, {"transport": "http", "url": "http://127.0.0.1:8000"}, "not a server"),
        ({}, {"transport": "http", "url": "127.0.0.1:99999"}, "not a server"),
    ],
)
def test_what_cannot_be_opened_leaves_nothing_behind(workspace, changes, options, message: str) -> None:
    before, sessions = set(threading.enumerate()), list(workspace.predictions.glob("recording/*.json"))
    with pytest.raises((ServingError, ParamsError), match=message):
        open_stream(
            "simulator:SIM", root=workspace, params=small_params(**changes), **{"transport": "inprocess", **options}
        )
    assert set(threading.enumerate()) <= before
    assert list(workspace.predictions.glob("recording/*.json")) == sessions


@pytest.mark.parametrize(
    ("name", "others"), [("inprocess", ["gevent", "tritonclient.http"]), ("grpc", ["gevent", "onnxruntime"])]
)
def test_a_transport_imports_nothing_that_another_one_needs(tmp_path: Path, name: str, others: list[str]) -> None:
    code = f"""
import sys
from pathlib import Path
from lobsmith.trading.transport import open_transport
from lobsmith.trading.transport.base import ModelShape
from lobsmith.workspace import Workspace
from tests.small import small_params
open_transport(Workspace(Path({str(tmp_path)!r})), small_params(), {name!r}, "127.0.0.1:1")
print([other for other in {others!r} if other in sys.modules])
"""
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert completed.stdout == "[]\n"

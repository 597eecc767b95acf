"""The supervisor of Triton: start, load, watch, restart, stop."""

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from types import FrameType

import msgspec

from lobsmith.errors import LobsmithError, ServingError
from lobsmith.params import Params, ServingParams
from lobsmith.release.audit.incidents import journal_foreign
from lobsmith.release.repository.incidents import journal_integrity_errors
from lobsmith.release.repository.repository import Repository
from lobsmith.release.version.names import may_produce
from lobsmith.serving.endpoint import Endpoint, sole_server, write_endpoint
from lobsmith.serving.mode_page import Pages, mode_page
from lobsmith.serving.ports import check_free, free_ports
from lobsmith.serving.triton.control import TritonControl
from lobsmith.serving.triton.embedded import PORTS, Triton, describe_exit, ipv4, ports_of
from lobsmith.serving.triton.loading import Loaded, load_valid
from lobsmith.serving.triton.stubs import StubWatch
from lobsmith.workspace import Workspace

RESTARTS = 5
"""Restarts within `RESTART_WINDOW_S` before the supervisor gives up."""
RESTART_WINDOW_S = 300.0
_FIRST_BACKOFF_S = 0.25
_LONGEST_BACKOFF_S = 10.0
_POLL_S = 0.1
_STUB_POLL_S = 0.5


class EventKind(StrEnum):
    """What can happen to a supervised server."""

    STARTED = "started"
    LOADED = "loaded"
    SKIPPED = "skipped"
    FAILED = "failed"
    SERVING = "serving"
    EXITED = "died"
    STOPPED = "stopped"


@dataclass(frozen=True)
class ServeEvent:
    """An event, with a line for people.

    `STARTED` carries the endpoint; `LOADED` and `FAILED` name a model; `SKIPPED` a version that is invalid or made for
    another machine. `SERVING` comes once every model was tried.
    """

    kind: EventKind
    message: str
    model: str | None = None
    version: int | None = None
    endpoint: Endpoint | None = None


OnEvent = Callable[[ServeEvent], None]


def _ignore(event: ServeEvent) -> None:
    pass


def serve(
    workspace: Workspace,
    params: Params,
    *,
    on_event: OnEvent = _ignore,
    stop: threading.Event | None = None,
    pages: Pages | None = None,
) -> None:
    """Serve the workspace's repository until `stop` is set; leaves no process and no endpoint file.

    Triton is restarted after an exit, with a growing pause, at most `RESTARTS` times in `RESTART_WINDOW_S`.

    Args:
        workspace: the project.
        params: `serving`.
        on_event: called in this thread; must not raise.
        stop: see `stop_on_signals`.
        pages: what `serving.modes_port` gives browsers besides the modes.

    Raises:
        PortBusyError: a port is taken.
        ServingError: Triton cannot be started or exited too often, or another server of this workspace runs.
    """
    stop = stop or threading.Event()
    with sole_server(workspace), _mode_page(workspace, params.serving, pages):
        exits_s: deque[float] = deque()
        started_once = False
        while not stop.is_set():
            triton = Triton(workspace, params.serving)
            try:
                endpoint = triton.start(stop)
                if endpoint is None:
                    break
                started_once = True
                # Before the repository is read: a publisher that finds no endpoint has written its version by now; one
                # that finds it loads the version.
                write_endpoint(workspace, endpoint)
                on_event(
                    ServeEvent(EventKind.STARTED, f"Triton listens on http {endpoint.http_url}", endpoint=endpoint)
                )
                control = TritonControl(endpoint, Repository.of(workspace))
                watch = _Watch(triton, StubWatch(control, params.serving.load_deadline_s))
                trouble = _load_all(workspace, params, control, watch, stop, on_event)
                while trouble is None and not stop.wait(_POLL_S):
                    trouble = watch.trouble()
            except ServingError as error:
                if not started_once:
                    raise
                trouble = str(error)
            finally:
                workspace.endpoint.unlink(missing_ok=True)
                triton.stop()
            if trouble is not None:
                _pause(trouble, exits_s, stop, on_event)
        on_event(ServeEvent(EventKind.STOPPED, "Triton is stopped"))


@contextmanager
def _mode_page(workspace: Workspace, params: ServingParams, pages: Pages | None) -> Iterator[None]:
    # All at once: the first start reports the first taken port.
    check_free(ports_of(params))
    with mode_page(workspace, params, pages):
        yield


class _Watch:
    def __init__(self, triton: Triton, stubs: StubWatch) -> None:
        self._triton = triton
        self._stubs = stubs
        self._next_check_s = 0.0

    def trouble(self) -> str | None:
        """Return why Triton must be restarted, None where it need not."""
        code = self._triton.exit_code()
        if code is not None:
            error = self._triton.last_error()
            return f"Triton exited ({describe_exit(code)})" + (f": {error}" if error and code >= 0 else "")
        if time.monotonic() < self._next_check_s:
            return None
        self._next_check_s = time.monotonic() + _STUB_POLL_S
        return self._stubs.check()


def _pause(reason: str, exits_s: deque[float], stop: threading.Event, on_event: OnEvent) -> None:
    now = time.monotonic()
    while exits_s and now - exits_s[0] > RESTART_WINDOW_S:
        exits_s.popleft()
    exits_s.append(now)
    if len(exits_s) > RESTARTS:
        raise ServingError(
            f"{reason}; it was restarted {RESTARTS} times within {RESTART_WINDOW_S:g} s and is given up; "
            "see .lobsmith/serving/triton.log"
        )
    pause = min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2 ** (len(exits_s) - 1))
    on_event(ServeEvent(EventKind.EXITED, f"{reason}; restarting in {pause:g} s"))
    stop.wait(pause)


def _load_all(
    workspace: Workspace,
    params: Params,
    control: TritonControl,
    watch: _Watch,
    stop: threading.Event,
    on_event: OnEvent,
) -> str | None:
    """Load every model; a failure is reported and stops no other.

    Returns:
        Why Triton must be restarted, None where it need not.
    """
    try:
        journal_foreign(workspace, actor="supervisor")
    except LobsmithError as error:
        on_event(ServeEvent(EventKind.FAILED, str(error)))
    # Production models first: a load that hangs must not delay them.
    for model in sorted(Repository.of(workspace).models(), key=lambda name: not may_produce(name)):
        load = _LoadThread(workspace, control, model, params.serving.load_deadline_s)
        # A stop or a crash must not wait for a load.
        while not load.ended.wait(_POLL_S):
            if (trouble := watch.trouble()) or stop.is_set():
                return trouble
        for event in load.events:
            on_event(event)
    on_event(ServeEvent(EventKind.SERVING, "every model was tried", endpoint=control.endpoint))
    return None


class _LoadThread:
    def __init__(self, workspace: Workspace, control: TritonControl, model: str, deadline_s: float) -> None:
        self.ended = threading.Event()
        self.events: list[ServeEvent] = []
        self._arguments = (workspace, control, model, deadline_s)
        threading.Thread(target=self._run, name=f"load {model}", daemon=True).start()

    def _run(self) -> None:
        model = self._arguments[2]
        try:
            self._report(load_valid(*self._arguments))
        except LobsmithError as error:
            self.events.append(ServeEvent(EventKind.FAILED, str(error), model))
        except Exception as error:  # noqa: BLE001 - other models must be served
            self.events.append(ServeEvent(EventKind.FAILED, f"{model}: {type(error).__name__}: {error}", model))
        finally:
            self.ended.set()

    def _report(self, loaded: Loaded) -> None:
        workspace, model = self._arguments[0], loaded.model
        for version, reason in sorted(loaded.skipped.items()):
            message = f"{model}/{version} is left out: {reason}"
            self.events.append(ServeEvent(EventKind.SKIPPED, message, model, version))
        repository = Repository.of(workspace)
        if loaded.ready:
            ready = ", ".join(map(str, loaded.ready))
            self.events.append(ServeEvent(EventKind.LOADED, f"{model}: {ready} ready", model, max(loaded.ready)))
        elif not repository.is_companion(model):
            reasons = "; ".join(loaded.skipped.values()) or "config.pbtxt lists none"
            self.events.append(ServeEvent(EventKind.FAILED, f"{model}: no version can be served: {reasons}", model))
        # Plans for another machine are skipped, but valid.
        faults = repository.valid(model)[1] if repository.is_plans(model) else loaded.skipped
        journal_integrity_errors(workspace, model, faults, actor="supervisor")


@contextmanager
def stop_on_signals(stop: threading.Event) -> Iterator[None]:
    """Set `stop` on SIGINT and SIGTERM; a second signal raises KeyboardInterrupt. Main thread only."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    handlers = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def running_triton(workspace: Workspace, params: Params, *, on_event: OnEvent = _ignore) -> Iterator[TritonControl]:
    """Run `serve` in a thread within the block.

    Yields:
        Control of the server, once every model was tried; after a restart use `control.connect`.

    Raises:
        ServingError: Triton cannot be started.
    """
    stop, serving = threading.Event(), threading.Event()
    failures: list[BaseException] = []
    endpoints: list[Endpoint] = []

    def note(event: ServeEvent) -> None:
        on_event(event)
        if event.kind is EventKind.SERVING and event.endpoint is not None:
            endpoints.append(event.endpoint)
            serving.set()

    def run() -> None:
        try:
            serve(workspace, params, on_event=note, stop=stop)
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            failures.append(error)
        finally:
            serving.set()

    thread = threading.Thread(target=run, name="triton supervisor", daemon=True)
    thread.start()
    try:
        serving.wait()
        if failures:
            raise failures[0]
        yield TritonControl(endpoints[-1], Repository.of(workspace))
    finally:
        stop.set()
        thread.join()


def with_free_ports(params: Params) -> Params:
    """Return the parameters with ports that are free now."""
    ports = dict(zip(PORTS, free_ports(len(PORTS), ipv4(params.serving.host)), strict=True))
    return msgspec.structs.replace(params, serving=msgspec.structs.replace(params.serving, **ports))

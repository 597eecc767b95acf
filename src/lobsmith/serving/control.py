"""Control calls to a running server: load, unload, list.

They go over HTTP: a control call that Triton refuses over gRPC answers UNAVAILABLE, which reads like an outage.
"""

import http.client
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

from lobsmith.errors import ReleaseError, ServingError
from lobsmith.files import exclusive_lock
from lobsmith.params import Params
from lobsmith.release.config import plans_model
from lobsmith.release.repository import Repository
from lobsmith.serving.endpoint import Endpoint, read_endpoint
from lobsmith.serving.loadable import loadable
from lobsmith.serving.triton import KEY_HEADER
from lobsmith.workspace import Workspace

_POLL_S = 0.1
_CALL_DEADLINE_S = 10.0
_SETTLE_POLL_S = 0.02
_READY = "READY"
_HELD = frozenset({_READY, "LOADING", "UNLOADING"})


class UnreachableError(ServingError):
    """The server does not answer; it may be starting again."""


@dataclass(frozen=True)
class VersionState:
    """A row of the server's repository index; `version` is None for a model that is not loaded."""

    model: str
    version: int | None
    state: str
    reason: str


@dataclass(frozen=True)
class Loaded:
    """What a load left behind: the READY versions, rising, and why others were left out.

    Only plans may have no version READY: their ONNX model answers in their place.
    """

    model: str
    ready: tuple[int, ...]
    skipped: dict[int, str]


class TritonControl:
    """The control calls of one running server; safe to use from several threads."""

    def __init__(self, endpoint: Endpoint, repository: Repository) -> None:
        self.endpoint = endpoint
        self._repository = repository

    def index(self) -> list[VersionState]:
        """Return the state of every version that the server knows.

        Raises:
            ServingError: the server does not answer.
        """
        rows = self._call("/v2/repository/index", {}, _CALL_DEADLINE_S)
        return [
            VersionState(
                model=row["name"],
                version=int(row["version"]) if row.get("version") else None,
                state=row.get("state", ""),
                reason=row.get("reason", ""),
            )
            for row in rows
        ]

    def ready_versions(self, model: str) -> list[int]:
        """Return the versions of a model that answer requests, rising."""
        return sorted(
            row.version
            for row in self.index()
            if row.model == model and row.version is not None and row.state == _READY
        )

    def counts(self, model: str) -> dict[int, tuple[int, int]]:
        """Return how many requests each loaded version answered and failed since it was loaded, warm-ups included.

        Raises:
            ServingError: the server does not answer, or has no such model.
        """
        rows = self._call(f"/v2/models/{model}/stats", None, _CALL_DEADLINE_S)["model_stats"]
        return {
            int(row["version"]): (
                int(row["inference_stats"]["success"]["count"]),
                int(row["inference_stats"]["fail"]["count"]),
            )
            for row in rows
        }

    def load(self, model: str, versions: list[int], *, deadline_s: float = 120.0) -> None:
        """Have the server serve exactly these versions of a model; those it serves already are not interrupted.

        Args:
            model: the model's name.
            versions: what the model's version policy is to list, whatever `config.pbtxt` says.
            deadline_s: a load may hang for ever, for instance when the Python stub cannot start.

        Raises:
            ServingError: a version could not be loaded, or not in time.
        """
        config = override(self._repository.config_text(model), versions)
        self._call(f"/v2/repository/models/{model}/load", {"parameters": {"config": config}}, deadline_s)

    def unload(self, model: str, *, deadline_s: float = 30.0) -> None:
        """Have the server serve no version of a model.

        Raises:
            ServingError: the server does not answer.
        """
        self._call(f"/v2/repository/models/{model}/unload", {}, deadline_s)

    def _call(self, path: str, body: dict[str, Any] | None, deadline_s: float) -> Any:
        where = self.endpoint.http_url
        connection = http.client.HTTPConnection(self.endpoint.host, self.endpoint.http_port, timeout=deadline_s)
        try:
            headers = {KEY_HEADER: self.endpoint.key, "Content-Type": "application/json"}
            if body is None:
                connection.request("GET", path, headers=headers)
            else:
                connection.request("POST", path, json.dumps(body), headers)
            response = connection.getresponse()
            content = response.read()
        except TimeoutError as error:
            raise ServingError(f"{where}{path}: Triton did not answer within {deadline_s:g} s") from error
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(f"{where}{path}: Triton does not answer: {error}") from error
        finally:
            connection.close()
        if response.status != 200:
            raise ServingError(f"{where}{path}: {_reason(content)} (HTTP {response.status})")
        return json.loads(content) if content else None


def connect(workspace: Workspace) -> TritonControl | None:
    """Return the control of the workspace's running server, None where no server lives."""
    endpoint = read_endpoint(workspace)
    return None if endpoint is None else TritonControl(endpoint, Repository.of(workspace))


def override(config_text: str, versions: list[int]) -> str:
    """Return a model's configuration as JSON with a version policy that lists exactly these versions.

    Raises:
        ReleaseError: the text is not a model configuration.
    """
    try:
        config = text_format.Parse(config_text, model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise ReleaseError(f"config.pbtxt: {' '.join(str(error).split())}") from error
    config.version_policy.specific.versions[:] = sorted(versions)
    text: str = json_format.MessageToJson(config, preserving_proto_field_name=True, indent=None)
    return text


def load_sound(workspace: Workspace, control: TritonControl, model: str, deadline_s: float) -> Loaded:
    """Load a model's listed versions whose hashes hold, and see the newest of them READY.

    Versions whose hashes do not hold are left out because one corrupt directory makes every version unavailable. Plans
    that this machine cannot run are left out too; where none is left the server is told to drop what it has of them.

    Raises:
        ServingError: no version is sound, or the newest sound one is not READY within `deadline_s`. The message names
            the versions that still answer.
    """
    deadline = time.monotonic() + deadline_s
    repository = Repository.of(workspace)
    with sole_load(workspace, deadline):
        # Read inside the lock: of two loads, the later one must know at least what the earlier one knew.
        versions, skipped = loadable(workspace, model)
        if not versions and repository.is_plans(model):
            if control.ready_versions(model):
                control.unload(model, deadline_s=max(0.1, deadline - time.monotonic()))
            return Loaded(model=model, ready=(), skipped=skipped)
        if not versions:
            reasons = "; ".join(skipped.values()) or "config.pbtxt lists none"
            raise ServingError(f"{model}: no version can be served: {reasons}")
        _settle(control, model, versions, deadline)
        failure: ServingError | None = None
        try:
            control.load(model, versions, deadline_s=max(0.1, deadline - time.monotonic()))
        except UnreachableError:
            raise
        except ServingError as error:
            failure = error
        newest = max(versions)
        ready = control.ready_versions(model)
        while failure is None and newest not in ready and time.monotonic() < deadline:
            time.sleep(_POLL_S)
            ready = control.ready_versions(model)
    if newest not in ready:
        why = str(failure) if failure else f"it is not READY after {deadline_s:g} s"
        serving = f"versions {', '.join(map(str, ready))} answer" if ready else "no version answers"
        raise ServingError(f"{model}/{newest}: {why}; {serving}") from failure
    return Loaded(model=model, ready=tuple(ready), skipped=skipped)


def _settle(control: TritonControl, model: str, versions: list[int], deadline: float) -> None:
    """Wait until Triton can be told to serve `versions`: a load that fails while an unload is under way has crashed it.

    And it queues the control calls of a model behind a load that hangs, to carry them out when they are out of date.
    What only drops versions need not wait for unloads, so that rolling back is quick.

    Raises:
        ServingError: it is still loading or unloading at `deadline`, on the monotonic clock.
    """
    while True:
        rows = [row for row in control.index() if row.model == model]
        drops = set(versions) <= {row.version for row in rows if row.state == _READY}
        busy = [row for row in rows if row.state == "LOADING" or (row.state == "UNLOADING" and not drops)]
        if not busy:
            return
        if time.monotonic() > deadline:
            raise ServingError(
                f"{model}/{busy[0].version}: Triton is still {busy[0].state.lower()} it; try again later"
            )
        time.sleep(_SETTLE_POLL_S)


def activate(workspace: Workspace, params: Params, model: str) -> Loaded:
    """Have the running server serve what the repository lists for a model, and its plans follow.

    A server that is starting again is waited for.

    Raises:
        ServingError: no server runs, the model's newest listed version is not sound (the server then keeps what it
            serves), or it is not READY within `serving.load_deadline_s`.
    """
    deadline = time.monotonic() + params.serving.load_deadline_s
    repository = Repository.of(workspace)
    active = repository.active(model)
    if active is None:
        raise ServingError(f"{model}: config.pbtxt lists no version; publish one first")
    sound, skipped = loadable(workspace, model)
    if active not in sound:
        raise ServingError(f"{model}/{active}: {skipped.get(active, 'not sound')}; the server keeps what it serves")
    while True:
        control = connect(workspace)
        if control is None:
            raise ServingError(f"{workspace.root}: no server runs here; start one with `lobsmith serve`")
        try:
            loaded = load_sound(workspace, control, model, max(0.1, deadline - time.monotonic()))
        except UnreachableError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL_S)
        else:
            break
    # The model answers, whatever becomes of its plans.
    with suppress(ReleaseError, ServingError):
        if repository.is_plans(plans_model(model)):
            load_sound(workspace, control, plans_model(model), max(0.1, deadline - time.monotonic()))
    return loaded


@dataclass(frozen=True)
class RunningServer:
    """The workspace's running server, as publishing sees it."""

    workspace: Workspace
    params: Params

    def serve(self, model: str, version: int) -> None:
        """Serve what the repository lists for a model; see `lobsmith.release.server.Server`."""
        loaded = activate(self.workspace, self.params, model)
        if version not in loaded.ready:
            raise ServingError(f"{model}/{version}: {loaded.skipped.get(version, 'it is not READY')}")

    def withdraw(self, model: str, versions: Sequence[int]) -> None:
        """Wait until none of these versions is loaded; see `lobsmith.release.server.Server`."""
        control = connect(self.workspace)
        if control is None:
            return
        repository = Repository.of(self.workspace)
        deadline = time.monotonic() + self.params.serving.load_deadline_s
        if not set(repository.listed(model)) - set(versions):
            control.unload(model)
        gone = set(versions)
        while any(row.model == model and row.version in gone and row.state in _HELD for row in control.index()):
            if time.monotonic() > deadline:
                raise ServingError(f"{model}: the server has not let go of {', '.join(map(str, versions))} in time")
            time.sleep(_POLL_S)


def running_server(workspace: Workspace, params: Params) -> RunningServer | None:
    """Return the workspace's running server, None where none lives."""
    return None if connect(workspace) is None else RunningServer(workspace, params)


@contextmanager
def sole_load(workspace: Workspace, deadline: float) -> Iterator[None]:
    """Let one process at a time decide which versions the server loads."""
    path, held = workspace.serving / "load.lock", False
    try:
        with exclusive_lock(path, max(0.0, deadline - time.monotonic())):
            held = True
            yield
    except TimeoutError as error:
        if held:
            raise
        raise ServingError(f"{path}: another load has not ended in time; look at `lobsmith status`") from error


def _reason(content: bytes) -> str:
    """Return Triton's error in one bounded line; a failed load carries a stack trace of many."""
    try:
        text = str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError):
        text = content.decode(errors="replace")
    return " ".join(text.split())[:500] or "no reason given"

"""Control calls to a running server: load, unload, index.

Loads and unloads go over gRPC: over HTTP they block inference on their thread. Short calls go over HTTP: over gRPC a
refusal is UNAVAILABLE, like an outage.
"""

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import tritonclient.grpc
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import InferenceServerException

from lobsmith.errors import DeadlineError, ReleaseError, ServingError
from lobsmith.release.repository.repository import Repository
from lobsmith.serving.endpoint import Endpoint, read_endpoint
from lobsmith.serving.triton.embedded import GRPC_KEY_HEADER, KEY_HEADER
from lobsmith.workspace import Workspace

_CALL_DEADLINE_S = 10.0
_REASON_LENGTH = 500
_FAILED, _UNLOADED = "UNAVAILABLE", "unloaded"
READY = "READY"
CHANNEL = [("grpc.enable_http_proxy", 0)]
"""Options of a gRPC channel: a proxy variable of the shell must not apply."""


class UnreachableError(ServingError):
    """The server does not answer; it may be restarting."""


@dataclass(frozen=True)
class VersionState:
    """A row of the repository index; `version` is None for a model that is not loaded."""

    model: str
    version: int | None
    state: str
    reason: str


class TritonControl:
    """Control calls of one running server; thread-safe."""

    def __init__(self, endpoint: Endpoint, repository: Repository) -> None:
        self.endpoint = endpoint
        self._repository = repository

    def index(self) -> list[VersionState]:
        """Return the state of every known version.

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
        """Return a model's READY versions, ascending."""
        return sorted(
            row.version for row in self.index() if row.model == model and row.version is not None and row.state == READY
        )

    def failures(self, model: str) -> dict[int, str]:
        """Return the reasons, one bounded line each, by version that Triton could not load.

        Raises:
            ServingError: the server does not answer.
        """
        return {
            row.version: f"Triton cannot load it: {_one_line(row.reason)}"
            for row in self.index()
            if row.model == model and row.version is not None and row.state == _FAILED and row.reason != _UNLOADED
        }

    def counts(self, model: str) -> dict[int, tuple[int, int]]:
        """Return answered and failed requests by loaded version, warm-ups included.

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
        """Serve exactly these versions of a model, without interrupting those already served.

        Args:
            model: the model's name.
            versions: whatever `config.pbtxt` lists.
            deadline_s: a load may hang, for instance when the stub cannot start.

        Raises:
            ServingError: a version could not be loaded, or not in time.
        """
        config = override(self._repository.config_text(model), versions)
        with self._control_client(f"load {model}", deadline_s) as client:
            client.load_model(model, config=config, headers=self._headers, client_timeout=deadline_s)

    def unload(self, model: str, *, deadline_s: float = 30.0) -> None:
        """Unload a model.

        Raises:
            ServingError: the server does not answer.
        """
        with self._control_client(f"unload {model}", deadline_s) as client:
            client.unload_model(model, headers=self._headers, client_timeout=deadline_s)

    @property
    def _headers(self) -> dict[str, str]:
        return {GRPC_KEY_HEADER: self.endpoint.key}

    @contextmanager
    def _control_client(self, action: str, deadline_s: float) -> Iterator[tritonclient.grpc.InferenceServerClient]:
        where = f"{self.endpoint.grpc_url}: {action}"
        client = tritonclient.grpc.InferenceServerClient(self.endpoint.grpc_url, channel_args=CHANNEL)
        try:
            yield client
        except InferenceServerException as error:
            status, text = str(error.status()), _one_line(str(error.message() or ""))
            if status == "StatusCode.DEADLINE_EXCEEDED":
                raise DeadlineError(f"{where}: Triton did not answer within {deadline_s:.1f} s") from error
            if status == "StatusCode.UNAVAILABLE" and "restricted" not in text:
                raise UnreachableError(f"{where}: Triton does not answer: {text}") from error
            raise ServingError(f"{where}: {text or status}") from error
        finally:
            client.close()

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
            raise DeadlineError(f"{where}{path}: Triton did not answer within {deadline_s:.1f} s") from error
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(f"{where}{path}: Triton does not answer: {error}") from error
        finally:
            connection.close()
        if response.status != 200:
            raise ServingError(f"{where}{path}: {_reason(content)} (HTTP {response.status})")
        return json.loads(content) if content else None


def connect(workspace: Workspace) -> TritonControl | None:
    """Return the control of the running server, None without a server."""
    endpoint = read_endpoint(workspace)
    return None if endpoint is None else TritonControl(endpoint, Repository.of(workspace))


def served_versions(workspace: Workspace) -> dict[str, list[int]] | None:
    """Return the running server's READY versions by model, ascending; None without a server.

    Raises:
        ServingError: the server does not answer.
    """
    control = connect(workspace)
    if control is None:
        return None
    served: dict[str, list[int]] = {}
    for row in control.index():
        if row.version is not None and row.state == READY:
            served[row.model] = sorted([*served.get(row.model, []), row.version])
    return served


def override(config_text: str, versions: list[int]) -> str:
    """Return a configuration as JSON whose version policy lists exactly these versions.

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


def _reason(content: bytes) -> str:
    try:
        text = str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError):
        text = content.decode(errors="replace")
    return _one_line(text) or "no reason given"


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_REASON_LENGTH]

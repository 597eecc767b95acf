"""Where a client reads its mode: the record in the workspace, or the page that the workspace's server has of it."""

import http.client
import time
from typing import Protocol
from urllib.parse import quote, urlsplit

from lobsmith.errors import DeadlineError, ModeError, ServingError
from lobsmith.monitoring.mode_store import decode_mode, last_known
from lobsmith.monitoring.modes import ModeRecord
from lobsmith.workspace import Workspace

_DEADLINE_S = 2.0
_MOST_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 16


class ModeSource(Protocol):
    """The seam between a client and whatever holds the monitor's record."""

    def read(self) -> ModeRecord | None:
        """Return the record, None where the monitor has left none.

        Raises:
            ModeError: there is something, and it is no record of that model.
            ServingError: it is out of reach.
        """


class FileModes:
    """The record of a workspace on this machine."""

    def __init__(self, workspace: Workspace, model: str) -> None:
        """Prepare to read the record of `model`."""
        self._workspace = workspace
        self._model = model

    def read(self) -> ModeRecord | None:
        """See `ModeSource.read`."""
        return last_known(self._workspace, self._model)


class HttpModes:
    """The page of a model's mode, `GET /modes/<model>`."""

    def __init__(self, url: str, model: str, deadline_s: float = _DEADLINE_S) -> None:
        """Prepare to ask.

        Args:
            url: of the pages, up to and including `/modes`: `http://127.0.0.1:8003/modes`.
            model: whose mode.
            deadline_s: of each wait for the server, and of a page that comes piece by piece.

        Raises:
            ServingError: it is no such URL.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if not host or parts.scheme != "http":
            raise ServingError(f"{url}: not the URL of modes; write http://HOST:PORT/modes")
        self._host, self._port = host, port
        self._path = f"{parts.path.rstrip('/')}/{quote(model, safe='')}"
        self._where = f"{url.rstrip('/')}/{model}"
        self._model = model
        self._deadline_s = deadline_s

    def read(self) -> ModeRecord | None:
        """See `ModeSource.read`."""
        connection = http.client.HTTPConnection(self._host, self._port, timeout=self._deadline_s)
        try:
            until = time.monotonic() + self._deadline_s
            connection.request("GET", self._path)
            response = connection.getresponse()
            content = self._content(response, until)
        except TimeoutError as error:
            raise self._late() from error
        except (OSError, http.client.HTTPException) as error:
            raise ServingError(f"{self._where}: {error or type(error).__name__}; is the server up?") from error
        finally:
            connection.close()
        if response.status == http.client.NOT_FOUND:
            return None
        if response.status != http.client.OK:
            raise ServingError(f"{self._where}: answers {response.status} {response.reason}")
        record = decode_mode(content)
        if record is None or record.model != self._model:
            raise ModeError(f"{self._where}: no record of that model's mode")
        return record

    def _content(self, response: http.client.HTTPResponse, until: float) -> bytes:
        parts: list[bytes] = []
        while sum(map(len, parts)) <= _MOST_BYTES:
            if time.monotonic() > until:
                raise self._late()
            part = response.read1(_CHUNK_BYTES)
            if not part:
                return b"".join(parts)
            parts.append(part)
        raise ModeError(f"{self._where}: longer than any record of a mode")

    def _late(self) -> DeadlineError:
        return DeadlineError(f"{self._where}: no answer within {self._deadline_s:g} s")

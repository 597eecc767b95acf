"""Triton over HTTP, tensors in binary."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import gevent
import tritonclient.http

from lobsmith.errors import DeadlineError, ServingError
from lobsmith.trading.transport.triton import (
    LOOKUP_DEADLINE_S,
    Float32,
    TritonAnswer,
    TritonTransport,
    request_tensors,
)


class HttpTransport(TritonTransport):
    """Triton over HTTP, tensors in binary."""

    def __init__(self, url: str) -> None:
        """Prepare for `url`, HOST:PORT such as 127.0.0.1:8000.

        Raises:
            ServingError: `url` is something else.
        """
        super().__init__(url)
        try:
            if "://" in url:
                raise ValueError("a server has no scheme")
            _ = urlsplit(f"//{url}").port
        except ValueError as error:
            raise ServingError(f"{url}: not a server ({error}); write HOST:PORT") from error
        self._client = tritonclient.http.InferenceServerClient(url)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _ask_versions(self, model: str) -> list[Any]:
        with self._within(LOOKUP_DEADLINE_S):
            return list(self._client.get_model_metadata(model).get("versions", []))

    def _ask_config(self, model: str) -> dict[str, Any]:
        with self._within(LOOKUP_DEADLINE_S):
            config: dict[str, Any] = self._client.get_model_config(model)
        return config

    def _ask(
        self, model: str, version: int, arrays: dict[str, Float32], outputs: tuple[str, ...], deadline_s: float
    ) -> TritonAnswer:
        with self._within(deadline_s):
            result = self._client.infer(
                model,
                request_tensors(tritonclient.http.InferInput, arrays),
                model_version=str(version),
                outputs=[tritonclient.http.InferRequestedOutput(name, binary_data=True) for name in outputs],
            )
        return result.get_response().get("model_version"), result.as_numpy

    @contextmanager
    def _within(self, deadline_s: float) -> Iterator[None]:
        """Limit the whole block; the client's own time-outs hold for each read."""
        limit = gevent.Timeout.start_new(deadline_s)
        try:
            yield
        except gevent.Timeout as error:
            if error is not limit:
                raise
            # Half an answer may still come on that connection.
            self._client.close()
            self._client = tritonclient.http.InferenceServerClient(self._url)
            raise DeadlineError(f"{self._url}: no answer within {deadline_s:g} s") from error
        finally:
            limit.close()

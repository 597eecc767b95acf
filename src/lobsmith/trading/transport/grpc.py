"""Triton over gRPC."""

from typing import Any

import tritonclient.grpc

from lobsmith.trading.transport.triton import (
    LOOKUP_DEADLINE_S,
    Float32,
    TritonAnswer,
    TritonTransport,
    request_tensors,
)

_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # By default a channel that lost its server waits up to two minutes before it reconnects.
    ("grpc.initial_reconnect_backoff_ms", 100),
    # In spite of its name: duration of one attempt.
    ("grpc.min_reconnect_backoff_ms", 2000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Clients of one server would share one connection and its backoff.
    ("grpc.use_local_subchannel_pool", 1),
    # A proxy variable of the shell must not apply.
    ("grpc.enable_http_proxy", 0),
]


class GrpcTransport(TritonTransport):
    """Triton over gRPC."""

    def __init__(self, url: str) -> None:
        """Prepare for `url`, HOST:PORT such as 127.0.0.1:8001."""
        super().__init__(url)
        self._client = tritonclient.grpc.InferenceServerClient(url, channel_args=_OPTIONS)

    def close(self) -> None:
        """Close the channel."""
        self._client.close()

    def _ask_versions(self, model: str) -> list[Any]:
        return list(self._client.get_model_metadata(model, client_timeout=LOOKUP_DEADLINE_S).versions)

    def _ask_config(self, model: str) -> dict[str, Any]:
        answer = self._client.get_model_config(model, as_json=True, client_timeout=LOOKUP_DEADLINE_S)
        config: dict[str, Any] = answer["config"]
        return config

    def _ask(
        self, model: str, version: int, arrays: dict[str, Float32], outputs: tuple[str, ...], deadline_s: float
    ) -> TritonAnswer:
        result = self._client.infer(
            model,
            request_tensors(tritonclient.grpc.InferInput, arrays),
            model_version=str(version),
            outputs=[tritonclient.grpc.InferRequestedOutput(name) for name in outputs],
            client_timeout=deadline_s,
        )
        return result.get_response().model_version, result.as_numpy

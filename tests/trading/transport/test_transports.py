"""Transports that meet silence, refusal, nonsense and damage instead of a server."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from lobsmith.compress import MODEL
from lobsmith.drift import SCORE
from lobsmith.errors import DeadlineError, RequestError, ServingError
from lobsmith.release.context import Release
from lobsmith.release.repository.repository import Repository
from lobsmith.trading.transport.grpc import GrpcTransport
from lobsmith.trading.transport.http import HttpTransport
from lobsmith.trading.transport.inprocess import InProcessTransport
from lobsmith.workspace import Workspace
from tests.release import toy
from tests.release.in_process import publish

FEATURES, STATE = np.zeros((1, 2, toy.F), np.float32), np.zeros((1, toy.S), np.float32)
BLOCK = np.arange(4 * toy.F, dtype=np.float32).reshape(4, toy.F) - 3


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that accepts and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("kind", [GrpcTransport, HttpTransport])
def test_silence_ends_at_the_deadline(silent: str, kind: type) -> None:
    transport = kind(silent)
    started = time.monotonic()
    with pytest.raises(DeadlineError, match=silent):
        transport.infer("toy", 1, FEATURES, STATE, 0.3)
    assert time.monotonic() - started < 60  # of a silence without an end
    with pytest.raises(DeadlineError, match=silent):
        transport.score("toy", 1, BLOCK, 0.3)
    transport.close()


@pytest.mark.parametrize("kind", [GrpcTransport, HttpTransport])
def test_a_refused_connection_is_an_outage(kind: type) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{probe.getsockname()[1]}"
    transport = kind(url)
    for call in (
        lambda: transport.infer("toy", 1, FEATURES, STATE, 5.0),
        lambda: transport.score("toy", 1, BLOCK, 5.0),
        lambda: transport.versions("toy"),
        lambda: transport.describe("toy"),
    ):
        with pytest.raises(ServingError, match=url) as caught:
            call()
        assert type(caught.value) is ServingError
    transport.close()


class Nonsense(BaseHTTPRequestHandler):
    """Answers as Triton does, but with the version and the shapes that the test asks for."""

    version, probabilities, outlook, next_state = "1", (1, 2, 2, 3), (1, 2, 2, 5), (1, toy.S)
    score, contributions = (1, 1), (1, toy.F)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        names = ("probabilities", "outlook", "next_state", "score", "contributions")
        named = {name: getattr(self, name) for name in names}
        named = {name: shape for name, shape in named.items() if shape}
        outputs = [
            {"name": name, "datatype": "FP32", "shape": shape, "data": [0.0] * int(np.prod(shape))}
            for name, shape in named.items()
        ]
        body = json.dumps({"model_name": "toy", "model_version": self.version, "outputs": outputs}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None: ...


@contextmanager
def nonsense(changes: dict[str, object]) -> Iterator[HttpTransport]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Nonsense,), changes))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    transport = HttpTransport(f"127.0.0.1:{server.server_port}")
    try:
        yield transport
    finally:
        transport.close()
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "2"}, "version 1 was requested, version 2 answered"),
        (
            {"probabilities": (1, 3, 2, 3)},
            r"expected float32 \[1, 2, H, 3\], got float32 \[1, 3, 2, 3\]",
        ),
        ({"probabilities": (1, 2, 6)}, "probabilities: expected"),
        ({"outlook": (1, 2, 2, 4)}, r"outlook: expected float32 \[1, 2, 2, 5\], got float32 \[1, 2, 2, 4\]"),
        ({"outlook": (1, 2, 3, 5)}, r"outlook: expected float32 \[1, 2, 2, 5\], got float32 \[1, 2, 3, 5\]"),
        ({"outlook": ()}, "lacks a tensor"),
        ({"next_state": (1, toy.S + 1)}, r"next_state: expected float32 \[1, 2\], got float32 \[1, 3\]"),
    ],
)
def test_an_answer_of_another_version_or_shape_is_refused(changes: dict[str, object], message: str) -> None:
    with nonsense(changes) as transport, pytest.raises(ServingError, match=message):
        transport.infer("toy", 1, FEATURES, STATE, 5.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "2"}, "version 1 was requested, version 2 answered"),
        ({"score": (1,)}, r"score: expected float32 \[1, 1\], got float32 \[1\]"),
        ({"contributions": (1, toy.F + 1)}, r"contributions: expected float32 \[1, 3\], got float32 \[1, 4\]"),
        ({"contributions": ()}, "lacks a tensor"),
    ],
)
def test_a_score_of_another_version_or_shape_is_refused(changes: dict[str, object], message: str) -> None:
    with nonsense({}) as transport:
        assert transport.score("toy", 1, BLOCK, 5.0).score == 0
    with nonsense(changes) as transport, pytest.raises(ServingError, match=message):
        transport.score("toy", 1, BLOCK, 5.0)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    workspace = Workspace(tmp_path)
    for scale in (0.3, 0.6):
        artifact = toy.artifact(tmp_path / "run", scale=scale)
        publish(Release(workspace, toy.params()), artifact, model="toy", contract=toy.CONTRACT)
    return Repository.of(workspace)


def test_in_process_serves_what_is_listed(repository: Repository) -> None:
    transport, (old, new) = InProcessTransport(repository), repository.listed("toy")
    assert transport.versions("toy") == [old, new]
    assert transport.versions("unknown") == []
    shape = transport.describe("toy")
    assert (shape.feature_count, shape.state_size, shape.horizons, shape.prime_rows) == (toy.F, toy.S, 2, 7)
    answer = transport.infer("toy", new, FEATURES, STATE, 5.0)
    assert answer.version == new
    assert (answer.probabilities.shape, answer.outlook.shape) == ((1, 2, 2, 3), (1, 2, 2, 5))
    repository.list_versions("toy", [old])
    assert transport.versions("toy") == [old]
    with pytest.raises(ServingError, match="not a listed version"):
        transport.infer("toy", new, FEATURES, STATE, 5.0)
    with pytest.raises(RequestError):
        transport.infer("toy", old, FEATURES[:, :, :-1], STATE, 5.0)
    with pytest.raises(DeadlineError):
        transport.infer("toy", old, FEATURES, STATE, 0.0)


def test_in_process_leaves_damage_out(repository: Repository) -> None:
    old, new = repository.listed("toy")
    path = repository.directory("toy", new) / MODEL
    path.write_bytes(path.read_bytes()[:-1])
    transport = InProcessTransport(repository)
    with pytest.raises(ServingError, match="changed after publication"):
        transport.infer("toy", new, FEATURES, STATE, 5.0)
    assert transport.versions("toy") == [old]
    (repository.root / "toy" / "config.pbtxt").write_text("{")
    with pytest.raises(ServingError, match="cannot be read"):
        transport.versions("toy")


def test_in_process_scores_what_is_listed_and_has_a_score(repository: Repository, tmp_path: Path) -> None:
    transport, old = InProcessTransport(repository), repository.active("toy")
    with pytest.raises(ServingError, match="published without a score"):
        transport.score("toy", old, BLOCK, 5.0)
    scored = toy.artifact(tmp_path / "run", scale=0.9, scored=True)
    new = publish(Release(Workspace(tmp_path), toy.params()), scored, model="toy", contract=toy.CONTRACT).version
    score = transport.score("toy", new, BLOCK, 5.0)
    np.testing.assert_allclose(score.contributions, (BLOCK**2).mean(axis=0), rtol=1e-6)
    assert score.score == pytest.approx((BLOCK**2).mean(axis=0).sum())
    with pytest.raises(RequestError, match=r"rows: expected .* got \[1, 4, 2\]"):
        transport.score("toy", new, BLOCK[:, 1:], 5.0)
    with pytest.raises(DeadlineError):
        transport.score("toy", new, BLOCK, 0.0)
    with pytest.raises(ServingError, match="not a listed version"):
        transport.score("toy", new + 1, BLOCK, 5.0)
    path = repository.directory("toy", new) / SCORE
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ServingError, match="changed after publication"):
        InProcessTransport(repository).score("toy", new, BLOCK, 5.0)

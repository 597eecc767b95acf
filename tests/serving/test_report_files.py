"""Which files below `.lobsmith/` a browser gets, and where reports are linked."""

import os
import socket
from pathlib import Path

import pytest

from lobsmith.process import start_ticks
from lobsmith.serving.endpoint import Endpoint, write_endpoint
from lobsmith.serving.report_files import answer_report, linked, report_path
from lobsmith.workspace import Workspace

RUN = "20260301T115900-abcdef"
DOCS = f"runs/{RUN}/data_docs/events"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path)
    files = (
        f"runs/{RUN}/report.html",
        f"runs/{RUN}/weights.html",
        f"runs/{RUN}/contract.json",
        f"{DOCS}/index.html",
        f"{DOCS}/.events.html",
        f"{DOCS}/static/fonts/a.otf",
        f"{DOCS}/expectations/simulator SIM events, levels.html",
        f"{DOCS}/static/script.py",
        "drift/reports/lob/20260301T115900.000Z/drift.html",
        "drift/reports/lob/looks.jsonl",
        "reports/shadow-lob_candidate-7.html",
        "keys/publisher.html",
        "serving/endpoint.json",
    )
    for name in files:
        path = workspace.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (workspace.home / "reports" / "link.html").symlink_to(workspace.home / "keys" / "publisher.html")
    (workspace.home / DOCS / "linked").symlink_to(workspace.home / "keys")
    os.mkfifo(workspace.home / "reports" / "pipe.html")
    (workspace.home / "reports" / "folder.html").mkdir()
    return workspace


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        (f"runs/{RUN}/report.html", "text/html; charset=utf-8"),
        (f"{DOCS}/index.html", "text/html; charset=utf-8"),
        (f"{DOCS}/static/fonts/a.otf", "font/otf"),
        (f"{DOCS}/expectations/simulator SIM events, levels.html", "text/html; charset=utf-8"),
        ("drift/reports/lob/20260301T115900.000Z/drift.html", "text/html; charset=utf-8"),
        ("reports/shadow-lob_candidate-7.html", "text/html; charset=utf-8"),
    ],
)
def test_a_report_is_given_under_the_path_that_links_name(workspace: Workspace, name: str, content_type: str) -> None:
    answer = answer_report(workspace, report_path(workspace, workspace.home / name))
    assert answer is not None
    assert not isinstance(answer.content, bytes)
    with answer.content as file:
        assert (answer.content_type, file.read().decode()) == (content_type, name)
    assert "'self'" in answer.headers["Content-Security-Policy"]
    assert "http" not in answer.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    "path",
    [
        "keys/publisher.html",
        "serving/endpoint.json",
        f"runs/{RUN}/weights.html",
        f"runs/{RUN}/contract.json",
        f"{DOCS}/.events.html",
        f"{DOCS}/static/script.py",
        f"{DOCS}/",
        f"{DOCS}",
        "drift/reports/lob/looks.jsonl",
        "reports/link.html",
        f"{DOCS}/linked/publisher.html",
        "reports/pipe.html",
        "reports/folder.html",
        "reports/missing.html",
        "reports/../keys/publisher.html",
        "reports/%2e%2e/keys/publisher.html",
        f"{DOCS}/../../../../keys/publisher.html",
        f"{DOCS}/%2e%2e%2f%2e%2e%2f%2e%2e%2f%2e%2e%2fkeys%2fpublisher.html",
        "/etc/passwd",
        "//etc/passwd.html",
        "reports/%00.html",
        "reports/" + "l" * 5000 + ".html",
        "",
    ],
)
def test_nothing_else_is_given(workspace: Workspace, path: str) -> None:
    assert answer_report(workspace, f"/files/{path}") is None


def test_a_report_is_linked_while_a_server_runs_and_named_otherwise(workspace: Workspace) -> None:
    page = workspace.home / DOCS / "expectations" / "simulator SIM events, levels.html"
    assert linked(workspace, "Data docs", page) == f"Data docs: `{page}`"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ports = dict.fromkeys(("http_port", "grpc_port", "metrics_port"), 1)
    pid = os.getpid()
    endpoint = Endpoint(
        pid=pid,
        started_ticks=start_ticks(pid) or 0,
        triton_pid=pid,
        host="127.0.0.1",
        **ports,
        modes_port=port,
        key="",
    )
    write_endpoint(workspace, endpoint)
    url = f"http://127.0.0.1:{port}/files/{DOCS}/expectations/simulator%20SIM%20events%2C%20levels.html"
    assert linked(workspace, "Data docs", page) == f"[Data docs]({url})"
    elsewhere = workspace.root / "report.html"
    assert linked(workspace, "Elsewhere", elsewhere) == f"Elsewhere: `{elsewhere}`"

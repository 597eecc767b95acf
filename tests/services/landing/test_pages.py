"""The landing page and reports beside the modes, over HTTP, read by the child process."""

import http.client
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from lobsmith.monitoring.mode.machine import Mode
from lobsmith.monitoring.mode.store import set_mode, state_path
from lobsmith.params import ServingParams
from lobsmith.services.landing.pages import landing_pages
from lobsmith.serving.mode_page import mode_page
from lobsmith.serving.supervisor import with_free_ports
from lobsmith.workspace import Workspace
from tests.browser import browser
from tests.release import toy
from tests.services.landing import landed
from tests.trading.recorded import eventually

WIDTHS = (1400, 420)
SIDEWAYS = "document.documentElement.scrollWidth > document.documentElement.clientWidth"


@contextmanager
def served(workspace: Workspace) -> Iterator[ServingParams]:
    params = with_free_ports(toy.params()).serving
    with landing_pages(workspace) as pages, mode_page(workspace, params, pages):
        yield params


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace that no test changes."""
    return landed.filled(tmp_path_factory.mktemp("landing"))[0]


@pytest.fixture(scope="module")
def serving(template: Workspace) -> Iterator[ServingParams]:
    with served(template) as params:
        yield params


@pytest.fixture
def filled(template: Workspace, tmp_path: Path) -> Workspace:
    shutil.copytree(template.root, tmp_path, dirs_exist_ok=True)
    return Workspace(tmp_path)


def ask(
    serving: ServingParams, path: str, method: str = "GET", **headers: str
) -> tuple[int, bytes, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection("127.0.0.1", serving.modes_port, timeout=60)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers
    finally:
        connection.close()


def children() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children():
        # One that has just ended has no command line.
        with suppress(psutil.Error):
            found += [child] if "lobsmith.services.landing" in child.cmdline() else []
    return found


def test_the_page_the_document_and_a_report(serving: ServingParams) -> None:
    status, body, headers = ask(serving, "/")
    assert (status, headers["Content-Type"], headers["Cache-Control"]) == (200, "text/html; charset=utf-8", "no-store")
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    status, document, headers = ask(serving, "/status.json")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    headline = json.loads(document)["headline"]
    assert "mode paused" in headline
    assert f"<title>{headline}</title>" in body.decode()
    for path in re.findall(r'href="(/files/[^"]+)"', body.decode()):
        status, content, _ = ask(serving, path)
        assert (status, content.decode()) == (200, f"<title>{path.removeprefix('/files/')}</title>")
    assert ask(serving, "/", "HEAD")[:2] == (200, b"")
    assert ask(serving, "/", "POST")[0] == 501


def test_modes_are_as_without_the_page(template: Workspace, serving: ServingParams) -> None:
    status, body, headers = ask(serving, "/modes/toy")
    assert (status, body) == (200, state_path(template, "toy").read_bytes())
    assert sorted(headers) == ["Cache-Control", "Content-Length", "Content-Type", "Date", "Server"]
    # A client of another name may read the modes, as ever.
    assert ask(serving, "/modes/toy", Host="desk.example")[0] == 200


@pytest.mark.parametrize("path", ["/index.html", "/files/", "/files/keys/publisher.key", "/status", "/../params.yaml"])
def test_there_are_no_other_pages(serving: ServingParams, path: str) -> None:
    status, body, _ = ask(serving, path)
    assert (status, len(body.splitlines())) == (404, 1)


@pytest.mark.parametrize("host", ["desk.example", "127.0.0.1.desk.example:80", "localhost.desk.example", "[::"])
@pytest.mark.parametrize("path", ["/", "/status.json", "/files/runs/20260301T115900-abcdef/report.html"])
def test_a_site_whose_name_leads_here_reads_nothing(serving: ServingParams, host: str, path: str) -> None:
    assert ask(serving, path, Host=host)[0] == 403


def test_a_page_that_cannot_be_made_leaves_the_modes_alone(filled: Workspace) -> None:
    (filled.root / "params.yaml").write_text("serving: 5\n")
    with served(filled) as serving:
        status, body, headers = ask(serving, "/")
        assert (status, len(body.splitlines()), headers["Refresh"]) == (503, 1, "3")
        assert ask(serving, "/modes/toy")[0] == 200


def test_a_child_that_was_killed_is_started_again_and_none_is_left(filled: Workspace) -> None:
    with served(filled) as serving:
        assert ask(serving, "/")[0] == 200
        before = children()
        child = max(before, key=psutil.Process.create_time)
        child.kill()
        eventually(lambda: ask(serving, "/")[0] == 200 and set(children()) - set(before))
        started = set(children()) - set(before)
    assert [child for child in started if child.is_running()] == []


@pytest.mark.slow
@pytest.mark.integration
def test_a_browser_shows_all_and_follows_a_promotion_and_a_mode(filled: Workspace) -> None:
    with served(filled) as serving, browser() as page:
        url = f"http://127.0.0.1:{serving.modes_port}/"
        for width in WIDTHS:
            page.open(url, width=width, dark=width == WIDTHS[0])
            page.wait_until_idle()
            assert not page.run(SIDEWAYS)
            assert page.run("document.querySelectorAll('[data-part]').length") == 10
            assert page.run("document.title").startswith("toy ")
            assert page.errors == []
            assert {requested for requested in page.requested if not requested.startswith((url, "data:"))} == set()
        for change, shown in (
            (lambda: set_mode(filled, "toy", Mode.NORMAL, "by hand", "operator"), lambda _: "mode normal"),
            (lambda: landed.serve_version(filled, 0.4), lambda manifest: f"toy {manifest.version} "),
        ):
            text = shown(change())
            page.requested.clear()
            page.wait_for(f"document.getElementById('headline').textContent.includes({text!r})")
            # A request each two seconds: the second sees it, though the first were a moment too early.
            assert page.requested.count(url) <= 2, "seen within five seconds"
        assert page.errors == []

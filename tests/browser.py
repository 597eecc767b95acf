"""A real browser without a window, driven through Chromium's debugging protocol."""

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest
from websockets.sync.client import ClientConnection, connect

_START_DEADLINE_S = 120.0
_PAGE_DEADLINE_S = 60.0
_QUIET_S = 1.0
"""Time without a message after which a page is complete, s."""


class Page:
    """A page, its network requests and its errors."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._last = 0
        self.requested: list[str] = []
        self.errors: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def open(self, url: str, *, dark: bool = False, width: int = 1200, height: int = 900) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self._call("Emulation.setScrollbarsHidden", hidden=True)
        self.requested.clear()
        self.errors.clear()
        # An open page would not be loaded again.
        self._call("Page.navigate", url="about:blank")
        self._call("Page.navigate", url=url)
        self.wait_until_idle()
        # A busy machine may be silent for longer in the middle of a page.
        self.wait_for("document.readyState === 'complete'")

    def wait_until_idle(self) -> None:
        end = time.monotonic() + _PAGE_DEADLINE_S
        while time.monotonic() < end:
            try:
                self._note(json.loads(self._connection.recv(timeout=_QUIET_S)))
            except TimeoutError:
                return

    def run(self, script: str) -> Any:
        return self._call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def wait_for(self, script: str) -> Any:
        """Return the value of a script once it is true."""
        end = time.monotonic() + _PAGE_DEADLINE_S
        while time.monotonic() < end:
            if value := self.run(script):
                return value
            time.sleep(0.1)
        raise AssertionError(f"never true: {script}; errors: {self.errors}")

    def click(self, element: str) -> None:
        """Click the middle of an expression's element."""
        self.wait_for(f"!!{element}")
        middle = "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2];"
        x, y = self.run(f"(() => {{ const e = {element}; e.scrollIntoView({{block: 'center'}}); {middle} }})()")
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def write(self, element: str, text: str) -> None:
        """Write into an expression's element, and press Enter."""
        self.wait_for(f"!!{element}")
        self.run(f"{element}.focus()")
        self._call("Input.insertText", text=text)
        self.wait_until_idle()
        for kind in ("rawKeyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13)

    def screenshot(self) -> bytes:
        return base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"])

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._last += 1
        self._connection.send(json.dumps({"id": self._last, "method": method, "params": params}))
        while True:
            message = json.loads(self._connection.recv(timeout=_PAGE_DEADLINE_S))
            if message.get("id") == self._last:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        match message.get("method"):
            case "Network.requestWillBeSent":
                self.requested.append(params["request"]["url"])
            case "Runtime.exceptionThrown":
                self.errors.append(str(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if params["type"] == "error":
                self.errors.append(str(params["args"]))
            case "Log.entryAdded" if params["entry"]["level"] == "error":
                self.errors.append(str(params["entry"]))


@contextmanager
def browser() -> Iterator[Page]:
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium is installed")
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # Chromium's sandbox refuses root; the pages are ours.
        options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
        where = ("--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank")
        child = subprocess.Popen([program, *options, *where], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            with connect(_address(Path(profile), child), max_size=None) as connection:
                yield Page(connection)
        finally:
            child.terminate()
            child.wait(60)


def _address(profile: Path, child: "subprocess.Popen[bytes]") -> str:
    end = time.monotonic() + _START_DEADLINE_S
    while time.monotonic() < end and child.poll() is None:
        try:
            port = (profile / "DevToolsActivePort").read_text().splitlines()[0]
            pages = httpx.get(f"http://127.0.0.1:{port}/json/list").json()
            return next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
        except (OSError, IndexError, StopIteration, httpx.HTTPError):
            time.sleep(0.05)
    raise AssertionError(f"Chromium did not start; its status is {child.poll()}")

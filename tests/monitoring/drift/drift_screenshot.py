"""Draws the picture of a drift report: `python -m tests.monitoring.drift.drift_screenshot docs/images/drift.png`."""

import sys
import tempfile
from pathlib import Path

from lobsmith.monitoring.drift.page import render_drift
from tests.browser import browser
from tests.monitoring.drift import drifted


def main(target: str) -> None:
    with tempfile.TemporaryDirectory() as folder, browser() as page:
        path = Path(folder) / "drift.html"
        path.write_text(render_drift(drifted.content()))
        page.open(path.as_uri(), width=1240, height=1480)
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).write_bytes(page.screenshot())


if __name__ == "__main__":
    main(sys.argv[1])

"""Photographs the pages of a workspace for the documents: `python docs/screenshots.py ROOT`.

Run it from a clone, with Chromium, while `lobsmith up` or `lobsmith serve` runs in ROOT.
"""

import sys
from pathlib import Path

CLONE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CLONE))

from lobsmith.errors import ServingError  # noqa: E402
from lobsmith.serving.report_files import landing_page  # noqa: E402
from lobsmith.workspace import Workspace  # noqa: E402
from tests.browser import browser  # noqa: E402

IMAGES = CLONE / "docs" / "images"
WIDTH = 1400
PAGES = {"landing": "/"}
"""Names of the pictures, and the paths of the pages on the server."""


def main(root: str) -> None:
    """Write each picture, as high as its page."""
    address = landing_page(Workspace.open(Path(root)))
    if address is None:
        raise ServingError(f"{root}: no page is served there; start lobsmith up")
    with browser() as page:
        for name, path in PAGES.items():
            page.open(address + path, width=WIDTH)
            # A second opening, as parts are read for the first time.
            height = page.run("document.documentElement.scrollHeight")
            page.open(address + path, width=WIDTH, height=height)
            (IMAGES / f"{name}.png").write_bytes(page.screenshot())
            print(IMAGES / f"{name}.png")  # noqa: T201 - what was written


if __name__ == "__main__":
    main(sys.argv[1])

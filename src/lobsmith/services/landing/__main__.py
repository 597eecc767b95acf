"""The process that reads the workspace for the landing page, so that Triton's supervisor needs none of its imports.

`python -m lobsmith.services.landing ROOT` answers each line of standard input with one line, a `Built`; it ends with
its input, or where none came for `IDLE_S`.
"""

import os
import select
import sys
from pathlib import Path

import msgspec

from lobsmith import clock
from lobsmith.services.landing.page import render_landing
from lobsmith.services.landing.pages import IDLE_S, Built
from lobsmith.services.landing.snapshot import Reader
from lobsmith.workspace import Workspace


def main(root: str) -> None:
    """Answer until the input ends."""
    # What a library prints must not get between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    workspace = Workspace.open(Path(root))
    reader = Reader(workspace)
    while select.select([sys.stdin], [], [], IDLE_S)[0] and sys.stdin.readline():
        clock.use(workspace.clock)
        snapshot = reader.read()
        page = render_landing(snapshot)
        built = Built(html=page.html, policy=page.policy, document=msgspec.Raw(msgspec.json.encode(snapshot)))
        answers.write(msgspec.json.encode(built) + b"\n")
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1])

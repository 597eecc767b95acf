"""A module of lobsmith in a process of its own: what it loads may crash, hang, or keep its memory."""

import subprocess
import sys


def run_module(module: str, *arguments: str, deadline_s: float) -> subprocess.CompletedProcess[bytes]:
    """Run `python -m MODULE` and return what it printed and how it ended.

    Args:
        module: its full name.
        arguments: of its command line.
        deadline_s: seconds after which the process is killed.

    Raises:
        subprocess.TimeoutExpired: it was.
    """
    # -P keeps a local file named like a package from being imported in its place.
    command = [sys.executable, "-P", "-m", module, *arguments]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=deadline_s, check=False)

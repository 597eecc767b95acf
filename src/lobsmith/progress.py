"""Progress of long jobs on standard error, a line per stage."""

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

if "JPY_PARENT_PID" in os.environ:
    # A command in a notebook gets a terminal, and colours asked for, but its output is kept as text.
    os.environ.setdefault("TTY_COMPATIBLE", "0")
console = Console(stderr=True, highlight=False, soft_wrap=True)

Note = Callable[[str], None]


@contextmanager
def room_permitting() -> Iterator[None]:
    """Ignore errors of a full disk in the block, which prints to a log."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise


@contextmanager
def stage(name: str) -> Iterator[Note]:
    """Show a running stage, then its duration; yield a function that sets the detail behind its name."""
    started = time.monotonic()
    detail = ""
    with console.status(name) as status:

        def note(text: str) -> None:
            nonlocal detail
            detail = text
            status.update(f"{name}  [dim]{text}[/dim]")

        try:
            yield note
        except BaseException:
            console.print(f"[red]✗[/red] {name}")
            raise
    console.print(f"[green]✓[/green] {name:<28} [dim]{time.monotonic() - started:5.1f} s  {detail}[/dim]")

"""What a long job shows while it runs: one line a stage, on standard error."""

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

console = Console(stderr=True, highlight=False, soft_wrap=True)

Note = Callable[[str], None]


@contextmanager
def room_permitting() -> Iterator[None]:
    """Show something in the block; a disk that is full, as that of a log may be, is no reason to end."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise


@contextmanager
def stage(name: str) -> Iterator[Note]:
    """Show that a stage runs, then how long it took.

    Yields a function that sets what stands behind the stage's name.
    """
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

"""Working ahead: an iterator run in a thread of its own, a few items before its consumer."""

import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

Item = TypeVar("Item")

_POLL_S = 0.05


def ahead(items: Iterable[Item], depth: int = 2) -> Generator[Item, None, None]:
    """Yield what an iterable yields, in order, while a thread fetches up to `depth` items more.

    Worth it where the iterable spends its time outside the interpreter's lock, as decompression does. What it raises is
    raised here, after the items before; a consumer that stops early stops the thread.
    """
    waiting: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(entry: tuple[Item | None, BaseException | None]) -> bool:
        while not stopped.is_set():
            try:
                waiting.put(entry, timeout=_POLL_S)
            except queue.Full:
                continue
            return True
        return False

    def fetch() -> None:
        try:
            for item in items:
                if not put((item, None)):
                    return
            put((None, StopIteration()))
        except BaseException as error:  # noqa: BLE001 - it is raised again in the consumer
            put((None, error))

    thread = threading.Thread(target=fetch, name="ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join()

"""Readings that may take long or hang: each in a thread of its own, with its last value meanwhile."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from lobsmith.errors import LobsmithError
from lobsmith.services.landing.content import Tone, Trouble

T = TypeVar("T")
_WAIT_S = 1.0


class Slow(Generic[T]):
    """A reading that is repeated on request.

    Args:
        what: it reads, for people.
        read: the reading.
        period_s: least time between two.
        late_s: time after which a reading that has not returned takes the place of its last value.
    """

    def __init__(self, what: str, read: Callable[[], T], *, period_s: float, late_s: float) -> None:
        self._what = what
        self._read = read
        self._period_s = period_s
        self._late_s = late_s
        self._started_s = -period_s
        self._thread: threading.Thread | None = None
        self._value: T | Trouble = Trouble(f"{what}: being read", Tone.MISSING)

    def get(self) -> T | Trouble:
        """Return the value, at most a second later; a failed or late reading as `Trouble`."""
        if self._thread is None or not self._thread.is_alive():
            if time.monotonic() - self._started_s < self._period_s:
                return self._value
            self._started_s = time.monotonic()
            self._thread = threading.Thread(target=self._run, name=self._what, daemon=True)
            self._thread.start()
        self._thread.join(_WAIT_S)
        late_s = time.monotonic() - self._started_s
        if self._thread.is_alive() and late_s > self._late_s:
            return Trouble(f"{self._what}: no answer for {late_s:.0f} s")
        return self._value

    def _run(self) -> None:
        self._value = attempt(self._read)


def attempt(read: Callable[[], T]) -> T | Trouble:
    """Return the value of a reading, or its failure: one part must not take the others down."""
    try:
        return read()
    except LobsmithError as error:
        return Trouble(" ".join(str(error).split()))
    except Exception as error:  # noqa: BLE001 - shown in the part's place
        return Trouble(" ".join(f"{type(error).__name__}: {error}".split()))

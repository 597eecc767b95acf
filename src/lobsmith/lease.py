"""A lease on a file, with fencing: the right to change something alone; it expires unless renewed.

A kernel lock would be kept by a holder that hangs; with an expiry alone a paused holder could go on after a takeover.
So each lease has a higher token than any before, and irreversible changes are made inside `Lease.fence`, which holds
the file's lock and refuses a stale token (Kleppmann 2016, "How to do distributed locking").
"""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from lobsmith import jsonl
from lobsmith.errors import LeaseError, LeaseLostError
from lobsmith.files import exclusive_lock
from lobsmith.process import Process
from lobsmith.units import NS_PER_S

_POLL_S = 0.05


class Held(Struct, frozen=True, kw_only=True):
    """The file's content: the holder, now or last, its purpose, and the expiry without renewal."""

    token: int
    holder: Process
    purpose: str
    ttl_s: float
    expires_ns: int

    def __str__(self) -> str:
        return f"{self.holder} ({self.purpose})"


class Lease:
    """A held lease; a thread renews it."""

    def __init__(self, path: Path, held: Held) -> None:
        self._path = path
        self._held = held
        self._ended = threading.Event()
        self._lost = threading.Event()
        # The renewing thread must not wait for a file lock that this process holds.
        self._mutex = threading.RLock()
        self._depth = 0
        self._thread = threading.Thread(target=self._renew, name=f"lease {path.name}", daemon=True)
        self._thread.start()

    @property
    def token(self) -> int:
        """Higher than that of every earlier lease on the file."""
        return self._held.token

    @property
    def lost(self) -> bool:
        """Whether the lease is known to be lost; a False is reliable only inside `fence`."""
        return self._lost.is_set()

    @contextmanager
    def fence(self) -> Iterator[None]:
        """Make an irreversible change: no process can take the lease over until the block ends. Blocks nest.

        An expired lease that no process has taken is renewed. Keep the block short: a rollback waits for it.

        Raises:
            LeaseLostError: it was taken over; nothing may be changed any more.
        """
        with self._mutex:
            if self._depth:
                yield
                return
            with _locked(self._path, self._held.ttl_s):
                self._extend()
                self._depth += 1
                try:
                    yield
                finally:
                    self._depth -= 1
                    self._extend()

    def _extend(self) -> None:
        """Renew; needs the file's lock."""
        current = _read(self._path)
        if current is None or current.token != self._held.token:
            self._lost.set()
            by = "" if current is None else f" by {current}"
            raise LeaseLostError(f"{self._path}: the lease to {self._held.purpose} was taken over{by}; start again")
        _write(self._path, msgspec.structs.replace(self._held, expires_ns=_after(self._held.ttl_s)))

    def _renew(self) -> None:
        while not self._ended.wait(self._held.ttl_s / 3):
            try:
                with self.fence():
                    pass
            except LeaseLostError:
                return
            except (LeaseError, OSError):
                # The next attempt may succeed; otherwise `fence` reports the takeover.
                continue

    def _release(self) -> None:
        self._ended.set()
        self._thread.join()
        with suppress(LeaseError, OSError), _locked(self._path, self._held.ttl_s):
            current = _read(self._path)
            if current is not None and current.token == self._held.token:
                _write(self._path, msgspec.structs.replace(self._held, expires_ns=0))


@contextmanager
def hold_lease(path: Path, purpose: str, *, ttl_s: float, wait_s: float, seize: bool = False) -> Iterator[Lease]:
    """Hold the lease of a file, which is made and never removed.

    Args:
        path: the file.
        purpose: an infinitive: "publish lob".
        ttl_s: seconds until an unrenewed lease is free; renewed at a third of that.
        wait_s: seconds to wait for another holder.
        seize: take it from a live holder, which is refused at its next change; for emergencies.

    Raises:
        LeaseError: another process held it all the time, or the file cannot be used.
    """
    lease = Lease(path, _take(path, purpose, ttl_s, wait_s, seize))
    try:
        yield lease
    finally:
        lease._release()


@contextmanager
def unless_held(path: Path, purpose: str, *, ttl_s: float) -> Iterator[str | None]:
    """Hold a lease while the block runs and yield None; where it is not free now, yield the reason in one line.

    Args: see `hold_lease`.
    """
    with ExitStack() as stack:
        refused = None
        try:
            stack.enter_context(hold_lease(path, purpose, ttl_s=ttl_s, wait_s=0.0))
        except LeaseError as error:
            refused = str(error)
        yield refused


def lease_holder(path: Path) -> Held | None:
    """Return the holder of the lease of a file, None where it is free; read without the lock or write permission."""
    current = _read(path)
    return None if current is None or _free(current) else current


def _take(path: Path, purpose: str, ttl_s: float, wait_s: float, seize: bool) -> Held:
    end = time.monotonic() + wait_s
    last_change: tuple[Held | None, float] = (None, time.monotonic())
    while True:
        with _locked(path, max(wait_s, ttl_s)):
            current = _read(path)
            if current != last_change[0]:
                last_change = (current, time.monotonic())
            # After a clock was set back, the expiry of a crashed holder's lease is far ahead.
            unchanged_s = time.monotonic() - last_change[1]
            if seize or current is None or _free(current) or unchanged_s > current.ttl_s:
                taken = Held(
                    # Above old tokens even if the file was lost.
                    token=max(time.time_ns(), 0 if current is None else current.token + 1),
                    holder=Process.this(),
                    purpose=purpose,
                    ttl_s=ttl_s,
                    expires_ns=_after(ttl_s),
                )
                _write(path, taken)
                return taken
        if time.monotonic() > end:
            raise LeaseError(f"{path}: {current} has held the lease for {wait_s:g} s; end that process, or wait for it")
        time.sleep(_POLL_S)


def _free(held: Held) -> bool:
    return held.expires_ns < time.time_ns() or held.holder.is_dead()


def _after(seconds: float) -> int:
    return time.time_ns() + int(seconds * NS_PER_S)


@contextmanager
def _locked(path: Path, deadline_s: float) -> Iterator[None]:
    entered = False
    try:
        with exclusive_lock(path, deadline_s):
            entered = True
            yield
    except TimeoutError as error:
        if entered:
            raise
        # Without the lock, for the message only.
        by = _read(path) or "another process"
        raise LeaseError(
            f"{path}: {by} has been in the middle of a change for {deadline_s:g} s; end that process"
        ) from error
    except OSError as error:
        if entered:
            raise
        raise _unusable(path, error) from error


def _read(path: Path) -> Held | None:
    """Decode the first line; the rest of a longer, older content is ignored."""
    try:
        return jsonl.decode(path.read_bytes().partition(b"\n")[0], Held)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    except OSError as error:
        raise _unusable(path, error) from error


def _write(path: Path, held: Held) -> None:
    """Write in place: renewal must work on a full disk, and the lock is on this file."""
    with path.open("r+b") as file:
        file.write(msgspec.json.encode(held) + b"\n")


def _unusable(path: Path, error: OSError) -> LeaseError:
    return LeaseError(f"{path}: {error.strerror}; it must be a file that this user can read and write")

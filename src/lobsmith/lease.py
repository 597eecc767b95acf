"""The right to act alone, on a file; it expires.

A lock that the kernel frees with its holder's death is not enough: a holder that hangs, or that was stopped, keeps it
for ever, and one on another machine may be gone without anybody being told. A lease has to be renewed, and is free once
it was not. That alone is not enough either: who was stopped and goes on believes that he still holds it. So every lease
has a token of its own, higher than any before, and each step that cannot be undone is done inside `Lease.fence`, which
holds the file's lock and refuses when the token in the file is another one (Kleppmann 2016, "How to do distributed
locking").

Clocks decide only how soon a lease may be taken over, never whether two may act: that is up to the file's lock.
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
    """What the file says: who has the lease or had it last, what for, and until when if it is not renewed."""

    token: int
    holder: Process
    purpose: str
    ttl_s: float
    expires_ns: int

    def __str__(self) -> str:
        return f"{self.holder} ({self.purpose})"


class Lease:
    """A lease that is held, and renewed by a thread of its own."""

    def __init__(self, path: Path, held: Held) -> None:
        self._path = path
        self._held = held
        self._ended = threading.Event()
        self._lost = threading.Event()
        # The thread that renews must not wait for the file's lock while this process has it.
        self._mutex = threading.RLock()
        self._depth = 0
        self._thread = threading.Thread(target=self._renew, name=f"lease {path.name}", daemon=True)
        self._thread.start()

    @property
    def token(self) -> int:
        """Higher than that of every lease before on the same file."""
        return self._held.token

    @property
    def lost(self) -> bool:
        """Whether it is known to be lost; only inside `fence` is a False final."""
        return self._lost.is_set()

    @contextmanager
    def fence(self) -> Iterator[None]:
        """Do a step that cannot be undone: nobody can take the lease over until the block ends. Blocks may be nested.

        A lease that expired but that nobody has taken is renewed. Keep the block short: even an emergency waits for it.

        Raises:
            LeaseLostError: it was taken over, and nothing may be done any more.
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
        """Renew; the file's lock is held."""
        now = _read(self._path)
        if now is None or now.token != self._held.token:
            self._lost.set()
            by = "" if now is None else f" by {now}"
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
                # The next turn may succeed; where none does, somebody else takes over and `fence` says so.
                continue

    def _release(self) -> None:
        self._ended.set()
        self._thread.join()
        with suppress(LeaseError, OSError), _locked(self._path, self._held.ttl_s):
            now = _read(self._path)
            if now is not None and now.token == self._held.token:
                _write(self._path, msgspec.structs.replace(self._held, expires_ns=0))


@contextmanager
def hold_lease(path: Path, purpose: str, *, ttl_s: float, wait_s: float, seize: bool = False) -> Iterator[Lease]:
    """Hold the lease of a file.

    Args:
        path: the file; it is made, and never removed.
        purpose: what for, as an infinitive: "publish lob".
        ttl_s: seconds after which it is free if it was not renewed; it is renewed at a third of that.
        wait_s: seconds to wait for another holder.
        seize: take it from a holder that lives. That one is refused at its next step; only an emergency may do so.

    Raises:
        LeaseError: another one holds it all the time, or the file cannot be used.
    """
    held = Lease(path, _take(path, purpose, ttl_s, wait_s, seize))
    try:
        yield held
    finally:
        held._release()


@contextmanager
def unless_held(path: Path, purpose: str, *, ttl_s: float) -> Iterator[str | None]:
    """Hold a lease while the block runs and give None; where it cannot be had at once, give why, in one line.

    Args:
        path: of the lease.
        purpose: what for, as others are told.
        ttl_s: who has not renewed it for so long may be replaced.
    """
    with ExitStack() as stack:
        refused = None
        try:
            stack.enter_context(hold_lease(path, purpose, ttl_s=ttl_s, wait_s=0.0))
        except LeaseError as error:
            refused = str(error)
        yield refused


def lease_holder(path: Path) -> Held | None:
    """Return who holds the lease of a file, None where nobody does or where it may be taken over.

    It is only looked at, which needs no right to write: by the time of the answer things may have changed.
    """
    now = _read(path)
    return None if now is None or _free(now) else now


def _take(path: Path, purpose: str, ttl_s: float, wait_s: float, seize: bool) -> Held:
    end = time.monotonic() + wait_s
    seen: tuple[Held | None, float] = (None, time.monotonic())
    while True:
        with _locked(path, max(wait_s, ttl_s)):
            now = _read(path)
            if now != seen[0]:
                seen = (now, time.monotonic())
            # A clock that was set back would put the end of a dead holder's lease far ahead.
            unchanged_s = time.monotonic() - seen[1]
            if seize or now is None or _free(now) or unchanged_s > now.ttl_s:
                taken = Held(
                    # A file that was lost must not bring old tokens back.
                    token=max(time.time_ns(), 0 if now is None else now.token + 1),
                    holder=Process.this(),
                    purpose=purpose,
                    ttl_s=ttl_s,
                    expires_ns=_after(ttl_s),
                )
                _write(path, taken)
                return taken
        if time.monotonic() > end:
            raise LeaseError(f"{path}: {now} has held the lease for {wait_s:g} s; end that process, or wait for it")
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
        # Read without the lock, for the words only.
        by = _read(path) or "somebody"
        raise LeaseError(
            f"{path}: {by} has been in the middle of a step for {deadline_s:g} s; end that process"
        ) from error
    except OSError as error:
        if entered:
            raise
        raise _unusable(path, error) from error


def _read(path: Path) -> Held | None:
    """Return what the first line says; what a longer record left behind it means nothing."""
    try:
        return jsonl.decode(path.read_bytes().partition(b"\n")[0], Held)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    except OSError as error:
        raise _unusable(path, error) from error


def _write(path: Path, held: Held) -> None:
    """Write in place: a full disk must not keep a holder from renewing, and the lock is on this file."""
    with path.open("r+b") as file:
        file.write(msgspec.json.encode(held) + b"\n")


def _unusable(path: Path, error: OSError) -> LeaseError:
    return LeaseError(f"{path}: {error.strerror}; it must be a file that this user can read and write")

"""The writer: the process that holds the repository's lease."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

from lobsmith import clock
from lobsmith.errors import LeaseLostError, ReleaseError
from lobsmith.files import fsync_directory
from lobsmith.lease import Lease, hold_lease
from lobsmith.process import user
from lobsmith.release.context import Release
from lobsmith.release.repository import journal
from lobsmith.release.repository.crash_points import CrashPoint
from lobsmith.release.repository.journal import Entry
from lobsmith.release.repository.repository import Repository
from lobsmith.verdict import Verdict

WAIT_S = 300.0
"""Seconds to wait for another writer."""


@dataclass(frozen=True, kw_only=True)
class Writer:
    """The holder of the lease of a workspace's repository; each change is made inside the lease's fence."""

    release: Release
    lease: Lease

    @property
    def repository(self) -> Repository:
        """The repository that this writer may change."""
        return self.release.repository

    def version_status(self, model: str) -> dict[int, str]:
        """Return the status of each version of a model; see `journal.version_status`."""
        return journal.version_status(journal.read(self.release.workspace.journal), model)

    def reached(self, point: CrashPoint) -> None:
        """Report a crash point."""
        if self.release.note is not None:
            self.release.note(point.value)

    def entry(
        self,
        action: str,
        model: str,
        *,
        before: int | None,
        about: int | None,
        artifact_id: str | None = None,
        verdicts: tuple[Verdict, ...] = (),
        reason: str = "",
    ) -> Entry:
        """Return a journal entry; `before` was active, `about` is the subject of the action."""
        return Entry(
            time_ns=clock.now_ns(),
            action=action,
            model=model,
            version_from=before,
            version_to=about,
            artifact_id=artifact_id,
            actor=self.release.actor or user(),
            verdicts=verdicts,
            reason=reason,
        )

    def journal(self, entry: Entry) -> None:
        """Append an entry to the journal."""
        with self.lease.fence():
            journal.append(self.release.workspace.journal, entry)

    def quarantine(self, directory: Path, name: str) -> Path:
        """Move a folder to the quarantine; return its new path."""
        return self._move(directory, self.release.workspace.quarantine / f"{name}-{token_hex(4)}")

    def take_out(self, directory: Path, name: str) -> Path:
        """Move a folder to staging, to be deleted; return its new path."""
        return self._move(directory, self.release.workspace.staging / f"{name}-{token_hex(4)}")

    def sweep(self) -> None:
        """Delete the content of the staging folder."""
        if not self.release.workspace.staging.is_dir():
            return
        for leftover in list(self.release.workspace.staging.iterdir()):
            delete(leftover)

    def _move(self, directory: Path, place: Path) -> Path:
        place.parent.mkdir(parents=True, exist_ok=True)
        with self.lease.fence():
            directory.rename(place)
        fsync_directory(place.parent)
        fsync_directory(directory.parent)
        return place


def delete(path: Path) -> None:
    """Delete a folder or file; files that a writer without its lease still adds are left to the next writer."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def sole_writer(release: Release, purpose: str, *, seize: bool = False, wait_s: float = WAIT_S) -> Iterator[Writer]:
    """Hold the lease of the repository while the block runs.

    Args:
        release: the context.
        purpose: an infinitive: "publish lob".
        seize: take the lease from its holder, which is refused at its next change; for emergencies.
        wait_s: seconds to wait for the lease.

    Raises:
        LeaseError: the lease is held all the time, or was taken over.
        ReleaseError: an error of the operating system, which it names.
    """
    workspace, ttl_s = release.workspace, release.params.release.lease_s
    try:
        with hold_lease(workspace.lease, purpose, ttl_s=ttl_s, wait_s=wait_s, seize=seize) as lease:
            try:
                yield Writer(release=release, lease=lease)
            except LeaseLostError:
                raise
            except Exception:
                # After a lost lease files vanish: report the loss instead.
                with lease.fence():
                    raise
    except OSError as error:
        place = error.filename or workspace.root
        raise ReleaseError(f"{place}: {error.strerror}; could not {purpose}") from error

"""The one process that may change the repository and the journal now, and what it does them with."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

from lobsmith.errors import LeaseLostError, ReleaseError
from lobsmith.files import fsync_directory
from lobsmith.lease import Lease, hold_lease
from lobsmith.params import Params
from lobsmith.process import user
from lobsmith.progress import Note
from lobsmith.release.repository import journal
from lobsmith.release.repository.crash_points import Step
from lobsmith.release.repository.journal import Entry
from lobsmith.release.repository.repository import Repository
from lobsmith.release.repository.server import Server
from lobsmith.verdict import Verdict
from lobsmith.workspace import Workspace

WAIT_S = 300.0
"""Seconds to wait for another writer."""


@dataclass(frozen=True, kw_only=True)
class Writer:
    """Who holds the lease of a workspace's repository.

    Attributes:
        workspace: where the repository lies.
        lease: each change is made inside its fence.
        who: user or flow run, for the journal.
        server: the running server, None where none runs.
        note: told each step once it is done.
    """

    workspace: Workspace
    lease: Lease
    who: str
    server: Server | None = None
    note: Note | None = None

    @property
    def repository(self) -> Repository:
        """Where versions lie."""
        return Repository.of(self.workspace)

    def reached(self, step: Step) -> None:
        """Report a step."""
        if self.note is not None:
            self.note(step.value)

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
        """Return a line of the journal; `before` was active, `about` is what the action is about."""
        return Entry(
            time_ns=time.time_ns(),
            action=action,
            model=model,
            version_from=before,
            version_to=about,
            artifact_id=artifact_id,
            who=self.who,
            verdicts=verdicts,
            reason=reason,
        )

    def record(self, entry: Entry) -> None:
        """Write a line into the journal."""
        with self.lease.fence():
            journal.append(self.workspace.journal, entry)

    def set_aside(self, directory: Path, name: str) -> Path:
        """Move a folder out of the repository, for a person to look at; return where it went."""
        return self._move(directory, self.workspace.set_aside / f"{name}-{token_hex(4)}")

    def take_out(self, directory: Path, name: str) -> Path:
        """Move a folder out of the repository, to be deleted; return where it went."""
        return self._move(directory, self.workspace.staging / f"{name}-{token_hex(4)}")

    def sweep(self) -> None:
        """Delete what lies in the staging folder."""
        if not self.workspace.staging.is_dir():
            return
        for leftover in list(self.workspace.staging.iterdir()):
            delete(leftover)

    def _move(self, directory: Path, place: Path) -> Path:
        place.parent.mkdir(parents=True, exist_ok=True)
        with self.lease.fence():
            directory.rename(place)
        fsync_directory(place.parent)
        fsync_directory(directory.parent)
        return place


def delete(path: Path) -> None:
    """Delete a folder or file; what a writer who lost his lease still adds to it is left to the next one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def sole_writer(
    workspace: Workspace,
    params: Params,
    purpose: str,
    *,
    server: Server | None,
    who: str | None,
    note: Note | None = None,
    seize: bool = False,
    wait_s: float = WAIT_S,
) -> Iterator[Writer]:
    """Be the one who may change the repository.

    Args:
        workspace: where the repository lies.
        params: `release.lease_s` is used.
        purpose: what for, as an infinitive: "publish lob".
        server: the running server, None where none runs.
        who: user or flow run; the user of this process by default.
        note: told each step once it is done.
        seize: take the lease from who has it; that one is refused at his next step. For emergencies.
        wait_s: seconds to wait for who has it.

    Raises:
        LeaseError: somebody else has the lease all the time, or took it over.
        ReleaseError: for an error of the operating system, which it names.
    """
    ttl_s = params.release.lease_s
    try:
        with hold_lease(workspace.lease, purpose, ttl_s=ttl_s, wait_s=wait_s, seize=seize) as lease:
            try:
                yield Writer(workspace=workspace, lease=lease, who=who or user(), server=server, note=note)
            except LeaseLostError:
                raise
            except Exception:
                # Who lost the lease sees his files vanish, which is not what went wrong.
                with lease.fence():
                    raise
    except OSError as error:
        place = error.filename or workspace.root
        raise ReleaseError(f"{place}: {error.strerror}; could not {purpose}") from error

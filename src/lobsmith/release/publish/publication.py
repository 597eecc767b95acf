"""Publication: a version's way from a staging folder to a server.

A version is staged outside the repository, validated in a child process, moved into its model's folder by one rename,
listed in the model's policy by another, and loaded. A crash leaves the old state or the new one.

| killed after | the repository shows | the next writer                                |
|--------------|----------------------|------------------------------------------------|
| `intended`   | the old state        | journals a refusal                             |
| `staged`     | the old state        | deletes the staging folder, journals a refusal |
| `proven`     | the old state        | deletes the staging folder, journals a refusal |
| `moved`      | the old state        | quarantines the version, journals a refusal    |
| `listed`     | the new state        | journals it                                    |
| `loaded`     | the new state        | journals it                                    |
| `recorded`   | the new state        | retires what fell out of the list              |

The first version of a model is moved with its configuration as one folder: `moved` is then `listed` too.
"""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

from msgspec import structs

from lobsmith import clock
from lobsmith.errors import ContractError, LeaseError, LeaseLostError, LobsmithError, ReleaseError, ServingError
from lobsmith.files import fsync_directory, write_atomic
from lobsmith.release.context import Release
from lobsmith.release.repository import disk_reserve, journal
from lobsmith.release.repository.crash_points import CrashPoint
from lobsmith.release.repository.intent import Intent, close, declare
from lobsmith.release.repository.journal import Entry
from lobsmith.release.repository.recovery import clear_up, follow
from lobsmith.release.repository.removal import kept, retire_fallen
from lobsmith.release.repository.repository import Repository
from lobsmith.release.repository.writer import Writer, delete
from lobsmith.release.version.contract import WireContract
from lobsmith.release.version.manifest import Manifest, read_manifest, write_manifest
from lobsmith.release.version.names import is_candidate
from lobsmith.release.version.signing import Trust, signer
from lobsmith.release.version.triton_config import BACKEND, CONFIG, read_config
from lobsmith.verdict import Verdict
from lobsmith.workspace import Workspace

Validate = Callable[[Path, Trust], object]
"""Raises where a version's directory, signed by a trusted key, is invalid."""


@dataclass(frozen=True, kw_only=True)
class Publication(ABC):
    """One attempt to publish a version; a subclass defines its kind.

    Attributes:
        release: the context.
        model: the Triton model.
        contract: that the version was made for.
        validate: raises where a staged version is invalid.
        backend: Triton's, of the model.
        action, reason: for the journal.
    """

    release: Release
    model: str
    contract: WireContract
    validate: Validate
    backend: str = BACKEND
    action: str = journal.PUBLISHED
    reason: str = ""

    @abstractmethod
    def version(self, last: int | None) -> int:
        """Return the version's number; `last` is the highest that the model ever had."""

    @abstractmethod
    def check(self) -> None:
        """Refuse what cannot be published, before anything is written."""

    @abstractmethod
    def artifact_id(self) -> str | None:
        """Return the artifact's id for the journal, None where there is no such file."""

    @abstractmethod
    def verdicts(self) -> tuple[Verdict, ...]:
        """Return the verdicts of the gates."""

    @abstractmethod
    def write(self, directory: Path) -> None:
        """Write the version's files into a new folder, durably."""

    @abstractmethod
    def manifest(self, directory: Path, version: int) -> Manifest:
        """Return the manifest of the written files."""

    @abstractmethod
    def config(self, kept: list[Manifest]) -> str:
        """Return the configuration that lists these versions, the new one last."""

    def validate_staged(self, directory: Path) -> None:
        """Validate the staged version."""
        self.validate(directory, self.release.repository.trust)

    def run(self, writer: Writer) -> Manifest:
        """Publish.

        Raises:
            ReleaseError: it cannot be published, and nothing was; so for every other error.
            LeaseLostError: the lease was taken over.
        """
        clear_up(writer, self.model)
        manifest = self._publish(writer)
        # The version is published by now; the next writer tidies what fails here.
        with suppress(LobsmithError, OSError):
            follow(writer, self.model)
            retire_fallen(writer, self.model)
        with suppress(LobsmithError, OSError):
            self.publish_scores(writer)
        disk_reserve.keep(self.release.workspace)
        return manifest

    def publish_scores(self, writer: Writer) -> None:  # noqa: B027 - most publications are alone
        """Publish the version's companions, once it is in service; failures are retried later."""

    def _publish(self, writer: Writer) -> Manifest:
        workspace, repository = self.release.workspace, self.release.repository
        previous = repository.active(self.model)
        version = self.version(last_version(workspace, self.model))
        entry = writer.entry(
            self.action,
            self.model,
            before=previous,
            about=version,
            artifact_id=self.artifact_id(),
            verdicts=self.verdicts(),
            reason=self.reason,
        )
        try:
            check_model(repository, self.model, self.contract, self.backend)
            self.check()
            with writer.lease.fence():
                declare(workspace, Intent(entry=entry))
            writer.reached(CrashPoint.INTENDED)
            manifest = self._stage_and_place(writer, version, entry)
        except LeaseError:
            # The holder of the lease journals it.
            raise
        except BaseException as error:
            self._refuse(writer, entry, error)
            raise
        writer.reached(CrashPoint.JOURNALED)
        with writer.lease.fence():
            close(workspace)
        writer.reached(CrashPoint.CLOSED)
        return manifest

    def _stage_and_place(self, writer: Writer, version: int, entry: Entry) -> Manifest:
        repository = self.release.repository
        staging = self.release.workspace.staging / f"{self.model}-{version}-{token_hex(4)}"
        try:
            self._stage(staging, version)
            writer.reached(CrashPoint.STAGED)
            directory = staging / str(version)
            self.validate_staged(directory)
            manifest = read_manifest(directory, repository.trust)
            writer.reached(CrashPoint.PROVEN)
            listed = kept(repository, self.release.params, self.model, manifest)
            commit(writer, staging, manifest, self.config(listed), entry)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return manifest

    def _refuse(self, writer: Writer, entry: Entry, error: BaseException) -> None:
        reason = " ".join([str(error) or type(error).__name__, *getattr(error, "__notes__", [])])
        # The first error is the one to report.
        with suppress(ReleaseError, LeaseError, OSError):
            writer.journal(structs.replace(entry, action=journal.REFUSED, reason=reason))
            close(self.release.workspace)

    def _stage(self, staging: Path, version: int) -> None:
        """Write the version into a new staging folder: `<staging>/<version>/`."""
        directory, workspace = staging / str(version), self.release.workspace
        workspace.repository.mkdir(parents=True, exist_ok=True)
        workspace.staging.mkdir(parents=True, exist_ok=True)
        if workspace.staging.stat().st_dev != workspace.repository.stat().st_dev:
            raise ReleaseError(
                f"{workspace.staging} and {workspace.repository} lie on two filesystems, a version cannot be "
                "moved between them by one rename; put them on one"
            )
        directory.mkdir(parents=True)
        self.write(directory)
        write_manifest(directory, self.manifest(directory, version), signer(workspace))
        fsync_directory(staging)


def last_version(workspace: Workspace, model: str) -> int | None:
    """Return the highest number ever used for a model; numbers are not used again."""
    entries = journal.read(workspace.journal)
    used = [entry.version_to for entry in entries if entry.model == model and entry.version_to is not None]
    return max([*used, *Repository.of(workspace).versions(model)], default=None)


def check_model(repository: Repository, model: str, contract: WireContract, backend: str) -> None:
    """Refuse a version that does not belong under the name of an existing model.

    Raises:
        ContractError: the model has another wire contract.
        ReleaseError: the model has another backend, was not written by lobsmith, or its configuration is lost.
    """
    existing = repository.contract(model)
    if existing is None:
        # The older versions would be unlisted, and so retired.
        if repository.versions(model) and not is_candidate(model):
            raise ReleaseError(
                f"{repository.config_path(model)}: missing, though there are versions beside it; "
                "write it anew with lobsmith repository verify --repair"
            )
        return
    if existing != contract:
        have, want = structs.asdict(existing), structs.asdict(contract)
        changes = ", ".join(f"{name} {have[name]} to {want[name]}" for name in have if have[name] != want[name])
        raise ContractError(f"{model}: the wire contract changes ({changes}); choose a new model.name")
    existing_backend = read_config(repository.config_path(model)).backend
    if existing_backend != backend:
        raise ReleaseError(
            f"{model}: it is a model of the backend {existing_backend}, not of {backend}; choose a new model.name"
        )


def commit(writer: Writer, staging: Path, manifest: Manifest, config: str, entry: Entry) -> None:
    """Move a valid version from staging into the repository, list it, have it served and journal it; or undo all.

    Raises:
        ServingError: the server does not serve it. It was quarantined, and the server was asked for the old version.
        OSError: a file cannot be written. Nothing is left of the version; so for every other error.
        LeaseLostError: the lease was taken over; its holder completes or undoes the publication.
    """
    model, version = manifest.model, manifest.version
    repository, server = writer.repository, writer.release.server
    path, previous = repository.config_path(model), repository.active(model)
    home = path.parent
    before = path.read_bytes() if path.exists() else None
    alone = not home.exists()
    try:
        with writer.lease.fence():
            if alone:
                write_atomic(staging / CONFIG, config.encode())
                staging.rename(home)
                fsync_directory(home.parent)
                writer.reached(CrashPoint.MOVED)
            else:
                (staging / str(version)).rename(home / str(version))
                fsync_directory(home)
                writer.reached(CrashPoint.MOVED)
                write_atomic(path, config.encode())
            writer.reached(CrashPoint.LISTED)
        if server is not None:
            server.serve(model, version)
            writer.reached(CrashPoint.LOADED)
        writer.journal(structs.replace(entry, time_ns=clock.now_ns()))
    except LeaseLostError:
        raise
    except BaseException as error:
        unlisted = _unlist(writer, path, before, alone)
        if unlisted:
            _ask_server(writer, model, version, previous, error)
        directory = home if alone else home / str(version)
        if directory.exists() and isinstance(error, ServingError):
            writer.quarantine(directory, f"{model}-{version}")
        elif directory.exists():
            # Deleted, as the disk may be full; its source is still there.
            delete(writer.take_out(directory, f"{model}-{version}"))
        raise


def _unlist(writer: Writer, path: Path, before: bytes | None, alone: bool) -> bool:
    """Restore the configuration; return whether a server may have loaded the other one."""
    with writer.lease.fence():
        if not path.exists() or path.read_bytes() == before:
            return False
        if before is not None:
            write_atomic(path, before)
        elif not alone:
            path.unlink()
    return True


def _ask_server(writer: Writer, model: str, version: int, previous: int | None, error: BaseException) -> None:
    server = writer.release.server
    # An interrupt must not wait for a server.
    if server is None or not isinstance(error, Exception):
        return
    try:
        if previous is not None:
            server.serve(model, previous)
        server.withdraw(model, [version])
    except Exception as failure:  # noqa: BLE001 - the first error is the one to report
        target = f"{model} {previous}" if previous else f"a state without {model}"
        error.add_note(f"; the server did not go back to {target}: {failure}")

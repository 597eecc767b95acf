"""Publication: how a version gets from a staging folder to a server, whatever it is made of.

A version is put together in a staging folder outside every model's, proven there in a process of its own, moved into
the repository with one rename, listed in the model's policy with one more, and then loaded. Whoever is killed on the
way leaves the old state or the new one; the next publisher clears up after it.

| killed after | the repository shows | the next publisher                               |
|--------------|----------------------|--------------------------------------------------|
| `staged`     | the old state        | deletes the staging folder                       |
| `proven`     | the old state        | deletes the staging folder                       |
| `moved`      | the old state        | sets the unlisted version aside                  |
| `listed`     | the new state        | writes the journal line that is missing          |
| `loaded`     | the new state        | writes the journal line that is missing          |

The first version of a model is moved together with its configuration, as one folder: `moved` is then `listed` too.
"""

import getpass
import os
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

from msgspec import structs

from lobsmith.errors import ContractError, ReleaseError
from lobsmith.files import fsync_directory, write_atomic
from lobsmith.gates.verdict import Verdict
from lobsmith.params import Params
from lobsmith.progress import Note
from lobsmith.release import journal
from lobsmith.release.config import CONFIG, read_config
from lobsmith.release.contract import WireContract
from lobsmith.release.journal import Entry
from lobsmith.release.lock import publisher_lock
from lobsmith.release.manifest import Manifest, read_manifest, write_manifest
from lobsmith.release.recovery import clear_up, follow, move_aside
from lobsmith.release.repository import Repository
from lobsmith.release.signing import signer
from lobsmith.workspace import Workspace

Load = Callable[[str, int], None]
"""Makes a running server load a version of a model and returns once it answers; raises where it does not."""


@dataclass(frozen=True, kw_only=True)
class Publication(ABC):
    """One attempt to publish a version; a subclass says of what.

    Attributes:
        workspace: where the repository lies.
        params: recorded, and in part used.
        model: the Triton model.
        contract: what the version was made for.
        backend: Triton's backend of all versions of the model.
        load: makes a running server load the version, None where none runs.
        who: user or flow run, for the journal.
        note: told the name of each step once it is done.
    """

    workspace: Workspace
    params: Params
    model: str
    contract: WireContract
    backend: str
    load: Load | None = None
    who: str | None = None
    note: Note | None = None

    @abstractmethod
    def version(self, last: int | None) -> int:
        """Return the number of the version; `last` is the highest that the model ever had."""

    @abstractmethod
    def check(self) -> None:
        """Refuse what cannot be published, before anything is written."""

    @abstractmethod
    def artifact_id(self) -> str | None:
        """Return what the journal calls it, None where there is no such file."""

    @abstractmethod
    def verdicts(self) -> tuple[Verdict, ...]:
        """Return what the gates said of it."""

    @abstractmethod
    def write(self, directory: Path) -> None:
        """Write the version's files into a new folder, durably."""

    @abstractmethod
    def manifest(self, directory: Path, version: int) -> Manifest:
        """Return the manifest of the files written."""

    @abstractmethod
    def prove(self, directory: Path) -> None:
        """Prove the staged version, or raise."""

    @abstractmethod
    def config(self, kept: list[Manifest]) -> str:
        """Return the configuration that lists these versions, of which the last is the new one."""

    def run(self) -> Manifest:
        """Publish.

        Raises:
            ReleaseError: it cannot be published, and nothing was; so for every other error.
        """
        try:
            with publisher_lock(self.workspace.home):
                clear_up(self.workspace, self.model, self._who)
                return self._publish()
        except OSError as error:
            place = error.filename or self.workspace.root
            raise ReleaseError(f"{place}: {error.strerror}; {self.model} was not published") from error

    @property
    def repository(self) -> Repository:
        """Where versions lie."""
        return Repository.of(self.workspace)

    @property
    def home(self) -> Path:
        """The model's folder."""
        return self.repository.config_path(self.model).parent

    @property
    def _who(self) -> str:
        return self.who or _user()

    def _note(self, step: str) -> None:
        if self.note is not None:
            self.note(step)

    def _publish(self) -> Manifest:
        previous = self.repository.active(self.model)
        version = self.version(self._last_version())
        try:
            self._check_model()
            self.check()
            staging = self.workspace.staging / f"{self.model}-{version}-{token_hex(4)}"
            try:
                self._stage(staging, version)
                manifest = self._prove(staging, version)
                self._release(staging, manifest, previous)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
        except BaseException as error:
            reason = " ".join([str(error) or type(error).__name__, *getattr(error, "__notes__", [])])
            # What went wrong matters more than that the journal, too, cannot be written.
            with suppress(ReleaseError):
                self._record(journal.REFUSED, previous, version, reason)
            raise
        self._record(journal.PUBLISHED, previous, version)
        self._note("recorded")
        # Published it is by now, and `Repository.listed` leaves out what the plans' own policy still names too much.
        with suppress(ReleaseError, OSError):
            follow(self.workspace, self.model)
        return manifest

    def _last_version(self) -> int | None:
        """Return the highest number ever used for the model, so that none comes back for another artifact."""
        entries = journal.read(self.workspace.journal)
        used = [one.version_to for one in entries if one.model == self.model and one.version_to is not None]
        return max([*used, *self.repository.versions(self.model)], default=None)

    def _check_model(self) -> None:
        """Refuse a version that does not belong under the name of a model that exists."""
        existing = self.repository.contract(self.model)
        if existing is None:
            return
        if existing != self.contract:
            have, want = structs.asdict(existing), structs.asdict(self.contract)
            changes = ", ".join(f"{name} {have[name]} to {want[name]}" for name in have if have[name] != want[name])
            raise ContractError(f"{self.model}: the wire contract changes ({changes}); choose a new model.name")
        backend = read_config(self.repository.config_path(self.model)).backend
        if backend != self.backend:
            raise ReleaseError(
                f"{self.model}: it is a model of the backend {backend}, which one of {self.backend} cannot join; "
                "choose a new model.name"
            )

    def _stage(self, staging: Path, version: int) -> None:
        """Write the version into a new staging folder: `<staging>/<version>/`."""
        directory = staging / str(version)
        self.workspace.repository.mkdir(parents=True, exist_ok=True)
        self.workspace.staging.mkdir(parents=True, exist_ok=True)
        if self.workspace.staging.stat().st_dev != self.workspace.repository.stat().st_dev:
            raise ReleaseError(
                f"{self.workspace.staging} and {self.workspace.repository} lie on two filesystems, a version cannot be "
                "moved between them in one step; put them on one"
            )
        directory.mkdir(parents=True)
        self.write(directory)
        write_manifest(directory, self.manifest(directory, version), signer(self.workspace))
        fsync_directory(staging)
        self._note("staged")

    def _prove(self, staging: Path, version: int) -> Manifest:
        directory = staging / str(version)
        self.prove(directory)
        manifest = read_manifest(directory, self.repository.trust)
        self._note("proven")
        return manifest

    def _release(self, staging: Path, manifest: Manifest, previous: int | None) -> None:
        """Move the proven version into the repository, list it and have it loaded; undo all of that if a part fails."""
        version, config = manifest.version, self.repository.config_path(self.model)
        before = config.read_bytes() if config.exists() else None
        text = self._config_text(manifest).encode()
        try:
            if self.home.exists():
                (staging / str(version)).rename(self.home / str(version))
                fsync_directory(self.home)
                self._note("moved")
                write_atomic(config, text)
            else:
                write_atomic(staging / CONFIG, text)
                staging.rename(self.home)
                fsync_directory(self.home.parent)
                self._note("moved")
            self._note("listed")
            if self.load is not None:
                self.load(self.model, version)
                self._note("loaded")
        except BaseException as error:
            self._take_back(version, previous, before, error)
            raise

    def _config_text(self, manifest: Manifest) -> str:
        """List the new version and the newest of the listed ones that still hold. What was taken back stays out."""
        sound, _ = self.repository.sound(self.model)
        kept = [*(self.repository.verify(self.model, version) for version in sound), manifest]
        return self.config(kept[-self.params.release.keep :])

    def _take_back(self, version: int, previous: int | None, before: bytes | None, error: BaseException) -> None:
        """Restore the listing, have the server follow it, then set the version aside: unload before moving files."""
        if before is None:
            if self.home.exists():
                move_aside(self.workspace, self.home, f"{self.model}-{version}")
            return
        config = self.repository.config_path(self.model)
        if config.read_bytes() != before:
            write_atomic(config, before)
            if self.load is not None and previous is not None and isinstance(error, Exception):
                try:
                    self.load(self.model, previous)
                except Exception as second:  # noqa: BLE001 - the first error is the one to report
                    error.add_note(f"; {self.model} {previous} could not be loaded again: {second}")
        directory = self.repository.directory(self.model, version)
        if directory.exists():
            move_aside(self.workspace, directory, f"{self.model}-{version}")

    def _record(self, action: str, previous: int | None, version: int, reason: str = "") -> None:
        journal.append(
            self.workspace.journal,
            Entry(
                time_ns=time.time_ns(),
                action=action,
                model=self.model,
                version_from=previous,
                version_to=version,
                artifact_id=self.artifact_id(),
                who=self._who,
                verdicts=self.verdicts(),
                reason=reason,
            ),
        )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container may run under a number that has no name.
        return f"uid {os.getuid()}"

"""Publishing: from an exported model to a version that a server may load.

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
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex

from msgspec import structs
from safetensors.numpy import save

from lobsmith.compress import GOLDEN, MODEL
from lobsmith.compress.golden import Golden
from lobsmith.errors import ContractError, GateError, ReleaseError
from lobsmith.files import fsync_directory, sha256_file, write_atomic
from lobsmith.gates.verdict import Verdict
from lobsmith.market.instrument import Instrument
from lobsmith.params import Params, as_table
from lobsmith.progress import Note
from lobsmith.release import journal
from lobsmith.release.config import CONFIG, config_text, prime_rows_for
from lobsmith.release.contract import WireContract
from lobsmith.release.environment import environment, git_commit
from lobsmith.release.journal import Entry
from lobsmith.release.lock import publisher_lock
from lobsmith.release.manifest import Manifest, read_manifest, write_manifest
from lobsmith.release.onnx_file import check_model_file
from lobsmith.release.proof import prove
from lobsmith.release.recovery import clear_up, move_aside
from lobsmith.release.repository import Repository
from lobsmith.workspace import Workspace

Load = Callable[[str, int], None]
"""Makes a running server load a version of a model and returns once it answers; raises where it does not."""

PROOF_DEADLINE_S = 120.0
FP32 = "fp32"


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """What a retrain hands over: the exported model, what it must answer, and where it came from."""

    model_path: Path
    golden: Golden
    prime_rows: int
    instruments: tuple[Instrument, ...]
    data_fingerprint: str
    verdicts: tuple[Verdict, ...]
    metrics: dict[str, float]
    mlflow_run_id: str | None = None
    precision: str = FP32
    gpu_architecture: str | None = None


def mint_version(now_ns: int, last: int | None) -> int:
    """Return the number of a new version: the UTC time as YYYYMMDDhhmmss, and always above the last one.

    After a version of the same second, or a clock set back, it is `last + 1`. That need not be a time of day (second
    60); nothing reads it as one, Triton wants an integer and lobsmith an order.

    >>> mint_version(1_700_000_000_000_000_000, None)
    20231114221320
    >>> mint_version(1_700_000_000_000_000_000, 20231114235959)
    20231114235960
    """
    now = int(datetime.fromtimestamp(now_ns // 1_000_000_000, UTC).strftime("%Y%m%d%H%M%S"))
    return now if last is None else max(now, last + 1)


def publish(
    workspace: Workspace,
    params: Params,
    artifact: Artifact,
    *,
    model: str,
    contract: WireContract,
    load: Load | None = None,
    who: str | None = None,
    note: Note | None = None,
) -> Manifest:
    """Publish an artifact as a new, highest version of a model.

    Args:
        workspace: where the repository lies.
        params: `release.keep`, `serving.max_batch`, `serving.warmup` and `train.threads` are used, all are recorded.
        artifact: what to publish.
        model: the Triton model.
        contract: tensors and definitions that the artifact was made for.
        load: makes a running server load the version. If it raises, the listing goes back to what it was, the server is
            asked to load the version that was active before, and the new version is set aside.
        who: user or flow run, for the journal; the user of this process by default.
        note: told the name of each step once it is done: staged, proven, moved, listed, loaded, recorded.

    Returns:
        The manifest of the published version.

    Raises:
        GateError: a verdict is a refusal.
        ContractError: the model exists with another contract.
        ReleaseError: the model file or a folder is unfit, or the proof failed. Nothing was published.
    """
    publication = _Publication(workspace, params, artifact, model, contract, load, who or _user(), note or _silent)
    return publication.run()


def _silent(step: str) -> None:
    """Take no note."""
    del step


@dataclass(frozen=True)
class _Publication:
    """One attempt to publish."""

    workspace: Workspace
    params: Params
    artifact: Artifact
    model: str
    contract: WireContract
    load: Load | None
    who: str
    note: Note

    def run(self) -> Manifest:
        try:
            with publisher_lock(self.workspace.home):
                clear_up(self.workspace, self.model, self.who)
                return self._publish()
        except OSError as error:
            place = error.filename or self.workspace.root
            raise ReleaseError(f"{place}: {error.strerror}; {self.model} was not published") from error

    @property
    def repository(self) -> Repository:
        return Repository(self.workspace.repository)

    @property
    def home(self) -> Path:
        """The model's folder."""
        return self.repository.config_path(self.model).parent

    def _publish(self) -> Manifest:
        previous = self.repository.active(self.model)
        version = mint_version(time.time_ns(), self._last_version())
        try:
            self._check()
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
        self.note("recorded")
        return manifest

    def _last_version(self) -> int | None:
        """Return the highest number ever used for the model, so that none comes back for another artifact."""
        entries = journal.read(self.workspace.journal)
        used = [one.version_to for one in entries if one.model == self.model and one.version_to is not None]
        return max([*used, *self.repository.versions(self.model)], default=None)

    def _check(self) -> None:
        refusals = [str(verdict) for verdict in self.artifact.verdicts if not verdict.passed]
        if refusals:
            raise GateError(f"{self.model}: {'; '.join(refusals)}; nothing was published")
        existing = self.repository.contract(self.model)
        if existing is not None and existing != self.contract:
            have, want = structs.asdict(existing), structs.asdict(self.contract)
            changes = ", ".join(f"{name} {have[name]} to {want[name]}" for name in have if have[name] != want[name])
            raise ContractError(f"{self.model}: the wire contract changes ({changes}); choose a new model.name")
        check_model_file(self.artifact.model_path, self.contract)

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
        with self.artifact.model_path.open("rb") as source, (directory / MODEL).open("xb") as copy:
            shutil.copyfileobj(source, copy)
            copy.flush()
            os.fsync(copy.fileno())
        write_atomic(directory / GOLDEN, save(asdict(self.artifact.golden)))
        write_manifest(directory, self._manifest(directory, version))
        fsync_directory(staging)
        self.note("staged")

    def _manifest(self, directory: Path, version: int) -> Manifest:
        files = {name: sha256_file(directory / name) for name in (MODEL, GOLDEN)}
        return Manifest(
            model=self.model,
            version=version,
            artifact_id=files[MODEL],
            created_ns=time.time_ns(),
            files=files,
            contract=self.contract,
            prime_rows=self.artifact.prime_rows,
            instruments=self.artifact.instruments,
            precision=self.artifact.precision,
            gpu_architecture=self.artifact.gpu_architecture,
            git_commit=git_commit(self.workspace.root),
            data_fingerprint=self.artifact.data_fingerprint,
            params=as_table(self.params),
            mlflow_run_id=self.artifact.mlflow_run_id,
            verdicts=self.artifact.verdicts,
            metrics=self.artifact.metrics,
            environment=environment(self.params.train.threads),
        )

    def _prove(self, staging: Path, version: int) -> Manifest:
        directory = staging / str(version)
        # The copy is what gets served, so it is the copy that has to be whole.
        check_model_file(directory / MODEL, self.contract)
        prove(directory, PROOF_DEADLINE_S)
        manifest = read_manifest(directory)
        self.note("proven")
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
                self.note("moved")
                write_atomic(config, text)
            else:
                write_atomic(staging / CONFIG, text)
                staging.rename(self.home)
                fsync_directory(self.home.parent)
                self.note("moved")
            self.note("listed")
            if self.load is not None:
                self.load(self.model, version)
                self.note("loaded")
        except BaseException as error:
            self._take_back(version, previous, before, error)
            raise

    def _config_text(self, manifest: Manifest) -> str:
        """List the new version and the newest of the listed ones that still hold. What was taken back stays out."""
        sound, _ = self.repository.sound(self.model)
        kept = [*(self.repository.verify(self.model, version) for version in sound), manifest]
        kept = kept[-self.params.release.keep :]
        return config_text(
            self.model,
            self.contract,
            versions=[one.version for one in kept],
            prime_rows=prime_rows_for(one.prime_rows for one in kept),
            max_batch=self.params.serving.max_batch,
            warmup=self.params.serving.warmup,
        )

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
        model_path = self.artifact.model_path
        journal.append(
            self.workspace.journal,
            Entry(
                time_ns=time.time_ns(),
                action=action,
                model=self.model,
                version_from=previous,
                version_to=version,
                artifact_id=sha256_file(model_path) if model_path.is_file() else None,
                who=self.who,
                verdicts=self.artifact.verdicts,
                reason=reason,
            ),
        )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container may run under a number that has no name.
        return f"uid {os.getuid()}"

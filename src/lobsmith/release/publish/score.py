"""Publishing the reference score of a version: the Triton model `<model>_drift` beside the model `<model>`.

The score lies in the version's own directory, signed and proven with it. It is served under the version's own number,
so that a client knows which training window it is compared with. It belongs to production: a candidate's is not asked.

A version answers with its score or without it. So no error here reaches who publishes the version: a score that failed
is journaled as refused, `verify` reports that it is missing, and reconcile tries again after `reconcile.retry_s`.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec import structs

from lobsmith.compress import FP32, MODEL
from lobsmith.drift import SCORE
from lobsmith.errors import LeaseError, LobsmithError, ReleaseError
from lobsmith.files import copy_durably, sha256_file
from lobsmith.params import Params
from lobsmith.progress import Note
from lobsmith.release.publish.publication import Publication
from lobsmith.release.repository import journal
from lobsmith.release.repository.incidents import manifest_of
from lobsmith.release.repository.journal import Entry
from lobsmith.release.repository.recovery import DIED, resume
from lobsmith.release.repository.repository import Repository
from lobsmith.release.repository.server import Server
from lobsmith.release.repository.writer import Writer, sole_writer
from lobsmith.release.version.manifest import Manifest, check_files
from lobsmith.release.version.names import may_produce, score_model
from lobsmith.release.version.triton_config import BACKEND, score_config_text
from lobsmith.units import NS_PER_S
from lobsmith.verdict import Verdict
from lobsmith.workspace import Workspace


def unscored(repository: Repository, model: str) -> list[int]:
    """Return the listed versions of a production model that have a score which is not listed, rising.

    Raises:
        ReleaseError: a configuration is unreadable.
    """
    if not may_produce(model):
        return []
    scored = repository.listed(score_model(model))
    manifests = {version: manifest_of(repository, model, version) for version in repository.listed(model)}
    return [
        version
        for version, manifest in manifests.items()
        if manifest is not None and SCORE in manifest.files and version not in scored
    ]


def accompany(writer: Writer, params: Params, model: str, *, retry: bool) -> dict[int, str]:
    """Publish the scores that the listed versions of a production model have and `<model>_drift` lacks.

    Args:
        writer: who may.
        params: `release.keep`, `serving.max_batch`, `serving.warmup` and `reconcile.retry_s` are used.
        model: the model; there is nothing to do for any other than one of production.
        retry: try again now what was refused before.

    Returns:
        The versions that are without their score, and why.

    Raises:
        ReleaseError: a configuration or the journal is unreadable.
        LeaseError: somebody else took over.
    """
    failed = {}
    # Who died on the way has left no line yet.
    resume(writer)
    entries = journal.read(writer.workspace.journal)
    for version in unscored(writer.repository, model):
        reason = None if retry else _lately_refused(entries, score_model(model), version, params.reconcile.retry_s)
        try:
            if reason is None:
                _publication(writer, params, writer.repository.verify(model, version)).run_by(writer)
        except LeaseError:
            raise
        except (LobsmithError, OSError) as error:
            reason = " ".join(str(error).split())
        if reason is not None:
            failed[version] = reason
    return failed


def catch_up(
    workspace: Workspace,
    params: Params,
    model: str,
    *,
    server: Server | None,
    who: str | None = None,
    note: Note | None = None,
    retry: bool = False,
) -> dict[int, str]:
    """Do what `accompany` does, where there is anything to do; it takes the right to act only then.

    Returns:
        See `accompany`. Whatever else goes wrong is the reason for all of them.
    """
    missing: list[int] = []
    try:
        missing = unscored(Repository.of(workspace), model)
        if not missing:
            return {}
        purpose = f"publish {score_model(model)}"
        with sole_writer(workspace, params, purpose, server=server, who=who, note=note) as writer:
            return accompany(writer, params, model, retry=retry)
    except LobsmithError as error:
        return dict.fromkeys(missing, " ".join(str(error).split()))


def _publication(writer: Writer, params: Params, of: Manifest) -> "_ScorePublication":
    return _ScorePublication(
        workspace=writer.workspace,
        params=params,
        model=score_model(of.model),
        contract=of.contract,
        backend=BACKEND,
        of=of,
    )


@dataclass(frozen=True, kw_only=True)
class _ScorePublication(Publication):
    """An attempt to publish the score of a version."""

    of: Manifest

    def version(self, last: int | None) -> int:
        del last
        return self.of.version

    def check(self) -> None:
        if self.repository.config_path(self.model).is_file() and not self.repository.is_score(self.model):
            raise ReleaseError(f"{self.repository.config_path(self.model)}: not that of a score; move the model away")
        directory = self.repository.directory(self.model, self.of.version)
        if directory.exists():
            raise ReleaseError(f"{directory}: there is a score that is not listed; see lobsmith repository verify")

    def artifact_id(self) -> str | None:
        return self.of.files[SCORE]

    def verdicts(self) -> tuple[Verdict, ...]:
        return ()

    def write(self, directory: Path) -> None:
        copy_durably(self.repository.directory(self.of.model, self.of.version) / SCORE, directory / MODEL)

    def manifest(self, directory: Path, version: int) -> Manifest:
        files = {MODEL: sha256_file(directory / MODEL)}
        return structs.replace(
            self.of,
            model=self.model,
            version=version,
            artifact_id=files[MODEL],
            created_ns=time.time_ns(),
            files=files,
            precision=FP32,
            gpu_architecture=None,
            verdicts=(),
            metrics={},
        )

    def prove(self, directory: Path) -> None:
        # These bits were proven with the version.
        if check_files(directory, self.repository.trust).artifact_id != self.of.files[SCORE]:
            raise ReleaseError(f"{directory / MODEL}: not the {SCORE} of {self.of.model} {self.of.version}; try again")

    def config(self, kept: list[Manifest]) -> str:
        return score_config_text(
            self.model,
            self.contract,
            versions=[one.version for one in kept],
            max_batch=self.params.serving.max_batch,
            warmup=self.params.serving.warmup,
        )


def _lately_refused(entries: Sequence[Entry], model: str, version: int, retry_s: float) -> str | None:
    """Return why a score was refused within the last `retry_s`; one whose publisher died may be tried at once."""
    since_ns = time.time_ns() - int(retry_s * NS_PER_S)
    about = [one for one in entries if (one.model, one.version_to) == (model, version) and one.time_ns > since_ns]
    if not about or about[-1].action != journal.REFUSED or about[-1].reason.startswith(DIED):
        return None
    return about[-1].reason

"""Publishing the drift score of a production version: the Triton model `<model>_drift` beside the model `<model>`.

The score is a file of the version, signed and validated with it, and has its number. No error here fails the version's
publication: a failed score is journaled as refused, `verify` reports it, and reconcile tries again after
`reconcile.retry_s`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec import structs

from lobsmith import clock
from lobsmith.compress import FP32, MODEL
from lobsmith.drift import SCORE
from lobsmith.errors import LeaseError, LobsmithError, ReleaseError
from lobsmith.files import copy_durably, sha256_file
from lobsmith.release.context import Release
from lobsmith.release.publish.publication import Publication, Validate
from lobsmith.release.repository import journal
from lobsmith.release.repository.incidents import manifest_of
from lobsmith.release.repository.journal import Entry
from lobsmith.release.repository.recovery import CRASHED, resume
from lobsmith.release.repository.repository import Repository
from lobsmith.release.repository.writer import Writer, sole_writer
from lobsmith.release.version.manifest import Manifest, check_files, read_manifest
from lobsmith.release.version.names import may_produce, score_model
from lobsmith.release.version.triton_config import score_config_text
from lobsmith.units import NS_PER_S
from lobsmith.verdict import Verdict


def unscored(repository: Repository, model: str) -> list[int]:
    """Return the listed versions of a production model whose score is not listed, rising.

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


def publish_scores(writer: Writer, model: str, *, retry: bool) -> dict[int, str]:
    """Publish the scores of listed versions of a production model that `<model>_drift` lacks.

    With `retry`, also those refused lately.

    Returns:
        The versions still without a score, and why.

    Raises:
        ReleaseError: a configuration or the journal is unreadable.
        LeaseError: the lease was taken over.
    """
    failed, release = {}, writer.release
    # A writer that crashed mid-publication has not journaled it yet.
    resume(writer)
    entries, retry_s = journal.read(release.workspace.journal), release.params.reconcile.retry_s
    for version in unscored(writer.repository, model):
        reason = None if retry else _lately_refused(entries, score_model(model), version, retry_s)
        try:
            if reason is None:
                source = release.repository.verify(model, version)
                publication = _ScorePublication(
                    release=release, model=score_model(model), contract=source.contract, source=source
                )
                publication.run(writer)
        except LeaseError:
            raise
        except (LobsmithError, OSError) as error:
            reason = " ".join(str(error).split())
        if reason is not None:
            failed[version] = reason
    return failed


def catch_up(release: Release, model: str, *, retry: bool = False) -> dict[int, str]:
    """Call `publish_scores` if a score is missing; only then take the lease. Any other error is the reason for all."""
    missing: list[int] = []
    try:
        missing = unscored(release.repository, model)
        if not missing:
            return {}
        with sole_writer(release, f"publish {score_model(model)}") as writer:
            return publish_scores(writer, model, retry=retry)
    except LobsmithError as error:
        return dict.fromkeys(missing, " ".join(str(error).split()))


@dataclass(frozen=True, kw_only=True)
class _ScorePublication(Publication):
    """An attempt to publish the score of a version."""

    source: Manifest
    validate: Validate = check_files

    def version(self, last: int | None) -> int:
        del last
        return self.source.version

    def check(self) -> None:
        repository = self.release.repository
        if repository.config_path(self.model).is_file() and not repository.is_score(self.model):
            raise ReleaseError(f"{repository.config_path(self.model)}: not that of a score; move the model away")
        directory = repository.directory(self.model, self.source.version)
        if directory.exists():
            raise ReleaseError(f"{directory}: there is a score that is not listed; see lobsmith repository verify")

    def artifact_id(self) -> str | None:
        return self.source.files[SCORE]

    def verdicts(self) -> tuple[Verdict, ...]:
        return ()

    def write(self, directory: Path) -> None:
        version = self.release.repository.directory(self.source.model, self.source.version)
        copy_durably(version / SCORE, directory / MODEL)

    def manifest(self, directory: Path, version: int) -> Manifest:
        files = {MODEL: sha256_file(directory / MODEL)}
        return structs.replace(
            self.source,
            model=self.model,
            version=version,
            artifact_id=files[MODEL],
            created_ns=clock.now_ns(),
            files=files,
            precision=FP32,
            gpu_architecture=None,
            verdicts=(),
            metrics={},
        )

    def validate_staged(self, directory: Path) -> None:
        super().validate_staged(directory)
        # These bits were validated with the version.
        if read_manifest(directory).artifact_id != self.source.files[SCORE]:
            raise ReleaseError(
                f"{directory / MODEL}: not the {SCORE} of {self.source.model} {self.source.version}; try again"
            )

    def config(self, kept: list[Manifest]) -> str:
        serving = self.release.params.serving
        return score_config_text(
            self.model,
            self.contract,
            versions=[manifest.version for manifest in kept],
            max_batch=serving.max_batch,
            warmup=serving.warmup,
        )


def _lately_refused(entries: Sequence[Entry], model: str, version: int, retry_s: float) -> str | None:
    """Return why a score was refused within the last `retry_s`; None if its writer crashed."""
    since_ns = clock.now_ns() - int(retry_s * NS_PER_S)
    lately = [
        entry for entry in entries if (entry.model, entry.version_to) == (model, version) and entry.time_ns > since_ns
    ]
    if not lately or lately[-1].action != journal.REFUSED or lately[-1].reason.startswith(CRASHED):
        return None
    return lately[-1].reason

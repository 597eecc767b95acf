"""Promotion: a valid version, published again under the production name and the next number.

Files are copied from a candidate, an older version, or a signed copy elsewhere; the manifest is written anew. Crash
points: those of any publication.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from msgspec import Struct, structs

from lobsmith import clock
from lobsmith.compress import MODEL
from lobsmith.errors import LobsmithError, ReleaseError
from lobsmith.files import copy_durably, sha256_file
from lobsmith.release.checks.model_file import check_model_file
from lobsmith.release.context import Release
from lobsmith.release.publish.onnx import OnnxPublication, check_verdicts, mint_version, validate_in_child
from lobsmith.release.publish.publication import Validate, check_model, last_version
from lobsmith.release.repository import journal
from lobsmith.release.repository.removal import fallen, kept
from lobsmith.release.repository.writer import sole_writer
from lobsmith.release.version.manifest import Manifest, Origin, check_files
from lobsmith.release.version.names import candidate_model, may_produce
from lobsmith.release.version.signing import Trust
from lobsmith.release.version.triton_config import BACKEND
from lobsmith.verdict import Verdict


class PromotionPlan(Struct, frozen=True, kw_only=True):
    """The effect of a promotion: none if there are `refusals`.

    `fallback` is the later rollback target; `retired` are the versions that would be deleted.
    """

    model: str
    version: int
    artifact_id: str | None
    source: str
    promoted_from: Origin | None
    active: int | None
    listed: tuple[int, ...]
    fallback: int | None
    retired: tuple[int, ...]
    refusals: tuple[str, ...]


def promote(
    release: Release,
    source: Path,
    *,
    model: str,
    reason: str = "",
    verdicts: tuple[Verdict, ...] = (),
    confirm: Callable[[], None] | None = None,
    validate: Validate = validate_in_child,
) -> Manifest:
    """Publish a version's artifact as the new, highest version of a production model.

    Args:
        release: the context.
        source: a version's directory: the candidate deployment's, the model's, or a signed copy anywhere.
        model: the production model.
        reason: for the journal.
        verdicts: of live traffic, added to those of the source.
        confirm: called under the lease, before anything is written; raises where the promotion is no longer wanted.
        validate: raises where a staged version is invalid.

    Raises:
        GateError: a verdict is a refusal. Nothing was published; so for every other error.
        ContractError: the model exists with another contract.
        ReleaseError: the source is corrupt or of plans, or the name is not one of production.
        ServingError: the server does not serve it.
    """
    original = _source(model, source, release.repository.trust)
    promotion = _Promotion(
        release=release,
        model=model,
        contract=original.contract,
        validate=validate,
        action=journal.PROMOTED,
        reason=reason,
        source=source,
        original=original,
        added=verdicts,
        confirm=confirm,
    )
    with sole_writer(release, f"publish {model}") as writer:
        return promotion.run(writer)


def deploy_candidate(
    release: Release, source: Path, *, model: str, reason: str = "", validate: Validate = validate_in_child
) -> Manifest:
    """Publish a version's artifact as the candidate deployment of a production model, replacing the one there.

    Arguments and errors are those of `promote`.
    """
    original, deployment = _source(model, source, release.repository.trust), candidate_model(model)
    publication = _Promotion(
        release=release,
        model=deployment,
        contract=original.contract,
        validate=validate,
        reason=reason,
        source=source,
        original=original,
    )
    with sole_writer(release, f"publish {deployment}") as writer:
        return publication.run(writer)


def promotion_plan(release: Release, source: Path, *, model: str, verdicts: tuple[Verdict, ...] = ()) -> PromotionPlan:
    """Return what `promote` would do; nothing is changed.

    Raises:
        ReleaseError: the repository or the journal is unreadable.
    """
    repository = release.repository
    number = mint_version(clock.now_ns(), last_version(release.workspace, model))
    refusals: list[str] = []
    manifest: Manifest | None = None
    try:
        manifest = _source(model, source, repository.trust)
        check_model(repository, model, manifest.contract, BACKEND)
        check_verdicts(model, (*manifest.verdicts, *verdicts))
    except LobsmithError as error:
        refusals.append(str(error))
    listed = repository.listed(model)
    after, retired, fallback = listed, [], repository.fallback(model)
    if manifest is not None and not refusals:
        new = structs.replace(manifest, version=number)
        after = [remaining.version for remaining in kept(repository, release.params, model, new)]
        retired = fallen(repository.versions(model), after)
        # The new version is the last; the others are valid.
        below = (repository.verify(model, version) for version in reversed(after[:-1]))
        fallback = next((older.version for older in below if older.shares_a_market_with(new)), None)
    return PromotionPlan(
        model=model,
        version=number,
        artifact_id=None if manifest is None else manifest.artifact_id,
        source=str(source),
        promoted_from=None if manifest is None else Origin(model=manifest.model, version=manifest.version),
        active=max(listed, default=None),
        listed=tuple(after),
        fallback=fallback,
        retired=tuple(retired),
        refusals=tuple(refusals),
    )


@dataclass(frozen=True, kw_only=True)
class _Promotion(OnnxPublication):
    """An attempt to promote a version."""

    source: Path
    original: Manifest
    added: tuple[Verdict, ...] = ()
    confirm: Callable[[], None] | None = None

    def check(self) -> None:
        if self.confirm is not None:
            self.confirm()
        check_verdicts(self.model, self.verdicts())
        # Retention may have changed it since it was read.
        if _valid_version(self.source, self.release.repository.trust) != self.original:
            raise ReleaseError(f"{self.source}: changed during the promotion; start again")

    def artifact_id(self) -> str | None:
        return self.original.artifact_id

    def verdicts(self) -> tuple[Verdict, ...]:
        newer = {verdict.gate for verdict in self.added}
        return *(verdict for verdict in self.original.verdicts if verdict.gate not in newer), *self.added

    def write(self, directory: Path) -> None:
        for name in self.original.files:
            copy_durably(self.source / name, directory / name)

    def manifest(self, directory: Path, version: int) -> Manifest:
        changed = [name for name, want in self.original.files.items() if sha256_file(directory / name) != want]
        if changed:
            raise ReleaseError(f"{self.source / changed[0]}: changed while it was copied; start again")
        return structs.replace(
            self.original,
            model=self.model,
            version=version,
            created_ns=clock.now_ns(),
            verdicts=self.verdicts(),
            promoted_from=Origin(model=self.original.model, version=self.original.version),
        )


def _source(model: str, source: Path, trust: Trust) -> Manifest:
    """Return the manifest of a version that may be promoted to a model.

    Raises:
        ReleaseError: it may not.
    """
    if not may_produce(model):
        raise ReleaseError(
            f"{model}: a name that ends so belongs to candidates, plans or scores; name the production model"
        )
    return _valid_version(source, trust)


def _valid_version(source: Path, trust: Trust) -> Manifest:
    manifest = check_files(source, trust)
    if manifest.engine is not None:
        raise ReleaseError(f"{source}: TensorRT plans; promote the ONNX version, plans follow it")
    check_model_file(source / MODEL, manifest.contract)
    return manifest

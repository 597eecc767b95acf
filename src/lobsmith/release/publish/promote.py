"""Promotion: a proven version, published again under the production name and the next number.

The bits are those of the source, which may be a candidate, an older version of the model itself, or a copy from
elsewhere that a trusted key has signed; only the manifest is written and signed anew. Steps and crash points are those
of any publication.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from msgspec import Struct, structs

from lobsmith.compress import MODEL
from lobsmith.errors import LobsmithError, ReleaseError
from lobsmith.files import copy_durably, sha256_file
from lobsmith.params import Params
from lobsmith.progress import Note
from lobsmith.release.checks.model_file import check_model_file
from lobsmith.release.publish.onnx import OnnxPublication, check_verdicts, mint_version, validate_in_child
from lobsmith.release.publish.publication import check_model, last_version
from lobsmith.release.repository import journal
from lobsmith.release.repository.removal import fallen, kept
from lobsmith.release.repository.repository import Repository
from lobsmith.release.repository.server import Server
from lobsmith.release.version.manifest import Manifest, Origin, check_files
from lobsmith.release.version.names import candidate_model, may_produce
from lobsmith.release.version.signing import Trust
from lobsmith.release.version.triton_config import BACKEND
from lobsmith.verdict import Verdict
from lobsmith.workspace import Workspace


class PromotionPlan(Struct, frozen=True, kw_only=True):
    """What a promotion would do: nothing if there is a reason in `refusals`.

    `fallback` is the version that a rollback would go back to; `retired` are the versions that would be deleted.
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
    workspace: Workspace,
    params: Params,
    source: Path,
    *,
    model: str,
    server: Server | None,
    who: str | None = None,
    reason: str = "",
    verdicts: tuple[Verdict, ...] = (),
    confirm: Callable[[], None] | None = None,
    note: Note | None = None,
    validate: Callable[[Path, Trust], object] = validate_in_child,
) -> Manifest:
    """Publish a version's artifact as the new, highest version of a production model.

    Args:
        workspace: where the repository lies.
        params: `release.keep`, `release.lease_s`, `serving.max_batch` and `serving.warmup` are used.
        source: a version's directory: of the candidate slot, of the model itself, or a signed copy anywhere.
        model: the production model.
        server: the running server, None where none runs.
        who: user or flow run, for the journal; the user of this process by default.
        reason: for the journal.
        verdicts: what live traffic said of it, added to those of the source.
        confirm: called once nobody else can change the repository; raises where it is wanted no longer.
        note: told the name of each step once it is done.
        validate: raises where the staged version that it is given is not what it claims.

    Returns:
        The manifest of the published version.

    Raises:
        GateError: a verdict is a refusal.
        ContractError: the model exists with another contract.
        ReleaseError: the source is not sound, is of plans, or the name is not one of production. Nothing was published.
        ServingError: the server does not serve it. Nothing was published.
    """
    promotion = _publication_of(workspace, params, source, model, server=server, who=who, reason=reason, note=note)
    return replace(promotion, action=journal.PROMOTED, added=verdicts, confirm=confirm, validate=validate).run()


def nominate(
    workspace: Workspace,
    params: Params,
    source: Path,
    *,
    model: str,
    server: Server | None,
    who: str | None = None,
    reason: str = "",
    note: Note | None = None,
    validate: Callable[[Path, Trust], object] = validate_in_child,
) -> Manifest:
    """Publish a version's artifact in the slot of a production model's candidates, in place of what is there.

    Arguments and errors are those of `promote`.
    """
    nomination = _publication_of(workspace, params, source, model, server=server, who=who, reason=reason, note=note)
    return replace(nomination, model=candidate_model(model), validate=validate).run()


def _publication_of(
    workspace: Workspace,
    params: Params,
    source: Path,
    model: str,
    *,
    server: Server | None,
    who: str | None,
    reason: str,
    note: Note | None,
) -> "_Promotion":
    """Return the publication of a source's artifact under a production model's name."""
    manifest = _source(model, source, Trust.of(workspace))
    return _Promotion(
        workspace=workspace,
        params=params,
        model=model,
        contract=manifest.contract,
        backend=BACKEND,
        server=server,
        who=who,
        note=note,
        reason=reason,
        source=source,
        original=manifest,
        added=(),
    )


def promotion_plan(
    workspace: Workspace, params: Params, source: Path, *, model: str, verdicts: tuple[Verdict, ...] = ()
) -> PromotionPlan:
    """Return what `promote` would do, doing nothing.

    Raises:
        ReleaseError: the repository or the journal is unreadable.
    """
    repository = Repository.of(workspace)
    number = mint_version(time.time_ns(), last_version(workspace, model))
    refusals: list[str] = []
    manifest: Manifest | None = None
    try:
        manifest = _source(model, source, repository.trust)
        check_model(repository, model, manifest.contract, BACKEND)
        check_verdicts(model, (*manifest.verdicts, *verdicts))
    except LobsmithError as error:
        refusals.append(str(error))
    listed = repository.listed(model)
    after, retired = listed, []
    if manifest is not None and not refusals:
        after = [one.version for one in kept(repository, params, model, structs.replace(manifest, version=number))]
        retired = fallen(repository.versions(model), after)
    sound = [version for version in after if version == number or repository.fault(model, version) is None]
    return PromotionPlan(
        model=model,
        version=number,
        artifact_id=None if manifest is None else manifest.artifact_id,
        source=str(source),
        promoted_from=None if manifest is None else Origin(model=manifest.model, version=manifest.version),
        active=max(listed, default=None),
        listed=tuple(after),
        fallback=sound[-2] if len(sound) > 1 else None,
        retired=tuple(retired),
        refusals=tuple(refusals),
    )


@dataclass(frozen=True, kw_only=True)
class _Promotion(OnnxPublication):
    """An attempt to promote a version."""

    source: Path
    original: Manifest
    added: tuple[Verdict, ...]
    confirm: Callable[[], None] | None = None

    def check(self) -> None:
        if self.confirm is not None:
            self.confirm()
        check_verdicts(self.model, self.verdicts())
        # Retention may have been at work since it was read.
        if _sound(self.source, self.repository.trust) != self.original:
            raise ReleaseError(f"{self.source}: changed while it was to be promoted; start again")

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
            created_ns=time.time_ns(),
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
    return _sound(source, trust)


def _sound(source: Path, trust: Trust) -> Manifest:
    manifest = check_files(source, trust)
    if manifest.engine is not None:
        raise ReleaseError(f"{source}: TensorRT plans; promote the ONNX version, plans follow it")
    check_model_file(source / MODEL, manifest.contract)
    return manifest

"""Verification: files, signatures, policies, companions, journal and server are checked against each other.

Read-only, without a lease. `lobsmith.release.audit.repair` repairs findings that are `safe`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum

from msgspec import Struct, field

from lobsmith import clock
from lobsmith.drift import SCORE
from lobsmith.errors import ReleaseError
from lobsmith.lease import lease_holder
from lobsmith.release.audit.rebuild import rebuildable
from lobsmith.release.publish.score import unscored
from lobsmith.release.repository import journal
from lobsmith.release.repository.intent import pending
from lobsmith.release.repository.journal import Entry
from lobsmith.release.repository.removal import fallen
from lobsmith.release.repository.repository import Repository
from lobsmith.release.version.names import followed_model
from lobsmith.release.version.triton_config import CONFIG, listed_versions, read_config
from lobsmith.workspace import Workspace


class IntegrityKind(StrEnum):
    """Kinds of findings."""

    CORRUPT = "unsound"
    """A version is not as it was published, or does not fit its model."""
    POLICY = "policy"
    """A configuration is unreadable or inconsistent."""
    FOREIGN = "foreign"
    """A file or folder that lobsmith did not write."""
    LEFTOVER = "leftover"
    """Left behind by a crashed writer."""
    UNLISTED = "unlisted"
    """A valid version is unlisted, though newer ones have not pushed it out."""
    COMPANION = "companion"
    """Plans or a drift score that do not fit their model, or a score that is missing."""
    JOURNAL = "journal"
    """Journal and disk differ."""
    SERVED = "served"
    """Server and listing differ."""


class IntegrityFinding(Struct, frozen=True, kw_only=True):
    """Something that is wrong.

    `place` is a path, `remedy` the action of `repair`, or of a person where it is not `safe`.
    """

    kind: IntegrityKind
    place: str
    message: str = field(name="words")
    safe: bool
    remedy: str
    model: str | None = None
    version: int | None = None


_TRANSIENT = frozenset(
    {
        IntegrityKind.LEFTOVER,
        IntegrityKind.UNLISTED,
        IntegrityKind.COMPANION,
        IntegrityKind.JOURNAL,
        IntegrityKind.SERVED,
    }
)
"""Kinds that appear while a writer changes the repository, and are gone after it."""


def verify(workspace: Workspace, served: Mapping[str, Sequence[int]] | None = None) -> list[IntegrityFinding]:
    """Return everything that is wrong with a workspace's repository.

    Transient findings are left out while a writer holds the lease. `served` has for each model the versions that the
    running server has READY; None where none runs.
    """
    holder = lease_holder(workspace.lease)
    findings = inspect(workspace, served)
    if holder is not None or lease_holder(workspace.lease) is not None:
        return [finding for finding in findings if finding.kind not in _TRANSIENT]
    return findings


def inspect(workspace: Workspace, served: Mapping[str, Sequence[int]] | None = None) -> list[IntegrityFinding]:
    """Return everything that is wrong now, transient findings included; see `verify`."""
    repository = Repository.of(workspace)
    findings: list[IntegrityFinding] = []
    try:
        entries = journal.read(workspace.journal)
    except ReleaseError as error:
        entries = []
        findings.append(_unsafe(IntegrityKind.JOURNAL, workspace.journal, str(error), "restore it from a backup"))
        readable = False
    else:
        readable = True
    findings += _leftovers(workspace)
    findings += _foreign(repository, entries)
    for model in repository.models():
        if followed_model(model) in {finding.model for finding in findings if finding.kind is IntegrityKind.POLICY}:
            # A companion's listing depends on its model's, which is unknown.
            continue
        try:
            _check_config(repository, model)
        except ReleaseError as error:
            findings.append(_policy(repository, model, str(error), entries))
            continue
        findings += _versions(repository, model)
        if readable:
            findings += _on_disk(repository, model, entries)
            findings += _journaled(workspace, repository, model, entries)
        if served is not None:
            findings += _served(repository, model, served.get(model, ()))
    if readable:
        for model in sorted({entry.model for entry in entries} - {journal.EVERYTHING, *repository.models()}):
            findings += _journaled(workspace, repository, model, entries)
    for model in sorted(set(served or ()) - set(repository.models())):
        if served is not None and served[model]:
            message = f"the server answers with {', '.join(map(str, served[model]))} of a model that is not here"
            findings.append(_safe(IntegrityKind.SERVED, repository.root, message, "have the server unload it", model))
    return findings


def unservable_reason(repository: Repository, model: str, version: int) -> str | None:
    """Return why a version cannot be served under its model, None where it can."""
    try:
        manifest = repository.verify(model, version)
        if manifest.contract != repository.contract(model):
            return f"{repository.directory(model, version)}: made for another wire contract than that of {model}"
        if repository.is_companion(model):
            network = repository.verify(followed_model(model), version)
            expected = network.artifact_id if manifest.engine is not None else network.files.get(SCORE)
            if expected != manifest.artifact_id:
                return f"{repository.directory(model, version)}: does not belong to {network.model} {version}"
    except ReleaseError as error:
        return str(error)
    return None


def _check_config(repository: Repository, model: str) -> None:
    path = repository.config_path(model)
    config = read_config(path)
    if config.name != model:
        raise ReleaseError(f"{path}: is the configuration of {config.name or 'no model'}")
    if not listed_versions(config):
        raise ReleaseError(f"{path}: its policy names no version")
    for version in listed_versions(config):
        repository.directory(model, version)
    repository.contract(model)


def _policy(repository: Repository, model: str, message: str, entries: list[Entry]) -> IntegrityFinding:
    path = repository.config_path(model)
    if rebuildable(repository, model, entries):
        return _safe(IntegrityKind.POLICY, path, message, "write it anew from the manifests", model)
    return _unsafe(
        IntegrityKind.POLICY,
        path,
        message,
        "restore the file, or move the folder away if it is another program's",
        model,
    )


def _leftovers(workspace: Workspace) -> Iterator[IntegrityFinding]:
    try:
        intent = pending(workspace)
    except ReleaseError as error:
        yield _unsafe(IntegrityKind.LEFTOVER, workspace.intent, str(error), "delete the file")
    else:
        if intent is not None:
            entry = intent.entry
            message = f"{entry.actor}: crashed while {entry.model} {entry.version_to} was to be {entry.action}"
            yield _safe(IntegrityKind.LEFTOVER, workspace.intent, message, "complete or undo it", entry.model)
    if workspace.staging.is_dir():
        for leftover in sorted(workspace.staging.iterdir()):
            yield _safe(IntegrityKind.LEFTOVER, leftover, "left by a writer that crashed", "delete it")


def _foreign(repository: Repository, entries: list[Entry]) -> Iterator[IntegrityFinding]:
    models = set(repository.models())
    if not repository.root.is_dir():
        return
    for entry in sorted(repository.root.iterdir()):
        if not entry.is_dir() or entry.name in models:
            continue
        if repository.is_name(entry.name) and rebuildable(repository, entry.name, entries):
            yield _policy(repository, entry.name, f"{CONFIG} is missing", entries)
        else:
            yield _safe(
                IntegrityKind.FOREIGN, entry, "not a model; Triton takes every folder here for one", "quarantine it"
            )
    for model in sorted(models):
        home = repository.config_path(model).parent
        versions = {str(version) for version in repository.versions(model)}
        for entry in sorted(home.iterdir()):
            if entry.name == CONFIG or entry.name in versions:
                continue
            if entry.name.startswith(f".{CONFIG}."):
                yield _safe(IntegrityKind.LEFTOVER, entry, "a configuration half written", "delete it", model)
            else:
                yield _safe(
                    IntegrityKind.FOREIGN, entry, "neither a version nor a configuration", "quarantine it", model
                )


def _versions(repository: Repository, model: str) -> Iterator[IntegrityFinding]:
    named = listed_versions(read_config(repository.config_path(model)))
    listed = repository.listed(model)
    companion = repository.is_companion(model)
    if companion and (stray := sorted(set(named) - set(listed))):
        message = f"lists {', '.join(map(str, stray))}, which {followed_model(model)} does not"
        yield _safe(IntegrityKind.COMPANION, repository.config_path(model), message, "unlist them", model)
    errors = {
        version: unservable_reason(repository, model, version) for version in {*listed, *repository.versions(model)}
    }
    left = [version for version in listed if errors[version] is None]
    for version, error in sorted(errors.items()):
        if error is None:
            continue
        place = repository.directory(model, version)
        if version in listed and not left and not companion:
            remedy = "publish a good version, or restore this one from a backup: no other is left"
            yield _unsafe(IntegrityKind.CORRUPT, place, error, remedy, model, version)
        else:
            remedy = "unlist and quarantine it" if version in listed else "quarantine it"
            yield _safe(IntegrityKind.CORRUPT, place, error, remedy, model, version)
    # An unreadable configuration of scores is a finding of its own.
    with suppress(ReleaseError):
        for version in unscored(repository, model):
            if errors[version] is None:
                place = repository.directory(model, version) / SCORE
                yield _safe(IntegrityKind.COMPANION, place, "its score is not served", "publish it", model, version)


def _on_disk(repository: Repository, model: str, entries: list[Entry]) -> Iterator[IntegrityFinding]:
    """Yield what the journal lacks of versions on disk."""
    version_status, listed = journal.version_status(entries, model), repository.listed(model)
    on_disk = repository.versions(model)
    old = fallen(on_disk, listed)
    for version in on_disk:
        place, status = repository.directory(model, version), version_status.get(version)
        if version in listed:
            if status not in journal.ACTIVATING:
                message = f"listed, but the journal {f'calls it {status}' if status else 'does not know it'}"
                yield _safe(IntegrityKind.JOURNAL, place, message, "write the line that is missing", model, version)
        elif status not in journal.ACTIVATING:
            message = f"not listed, and the journal {f'calls it {status}' if status else 'does not know it'}"
            remedy = "delete it" if status in journal.LEAVING else "quarantine it"
            yield _safe(IntegrityKind.LEFTOVER, place, message, remedy, model, version)
        elif repository.integrity_error(model, version) is None:
            if version in old:
                yield _safe(IntegrityKind.LEFTOVER, place, "newer versions replaced it", "retire it", model, version)
            else:
                message = "published, but unlisted without a line in the journal"
                yield _safe(IntegrityKind.UNLISTED, place, message, "quarantine it", model, version)


def _journaled(
    workspace: Workspace, repository: Repository, model: str, entries: list[Entry]
) -> Iterator[IntegrityFinding]:
    """Yield what the disk lacks of versions in the journal."""
    try:
        on_disk, listed = repository.versions(model), repository.listed(model)
    except ReleaseError:
        return
    for version, status in sorted(journal.version_status(entries, model).items()):
        if status in journal.ACTIVATING and version not in (*on_disk, *listed):
            message = f"{model} {version} was {status} and is gone, without a journal line"
            yield _safe(
                IntegrityKind.JOURNAL, workspace.journal, message, "write the line that is missing", model, version
            )
    state = journal.state_at(entries, model, clock.now_ns())
    by_journal = None if state is None else state.version_to
    active = max(listed, default=None)
    last = None if active is None else journal.version_status(entries, model).get(active)
    if active in on_disk and active != by_journal and last in journal.ACTIVATING:
        message = f"{model}: {by_journal or 'nothing'} is active by the journal, {active} by the policy"
        yield _safe(IntegrityKind.JOURNAL, workspace.journal, message, "write the line that is missing", model)


def _served(repository: Repository, model: str, served: Sequence[int]) -> Iterator[IntegrityFinding]:
    path, listed = repository.config_path(model), repository.listed(model)
    if extra := sorted(set(served) - set(listed)):
        message = f"the server answers with {', '.join(map(str, extra))}, which is not listed"
        yield _safe(IntegrityKind.SERVED, path, message, "have the server follow the list", model)
    if repository.is_plans(model):
        # Not every machine can run all plans.
        return
    missing = [
        version for version in listed if version not in served and repository.integrity_error(model, version) is None
    ]
    if missing:
        message = f"the server does not answer with {', '.join(map(str, missing))}, which is listed"
        yield _safe(IntegrityKind.SERVED, path, message, "have the server follow the list", model)


def _safe(
    kind: IntegrityKind, place: object, message: str, remedy: str, model: str | None = None, version: int | None = None
) -> IntegrityFinding:
    return IntegrityFinding(
        kind=kind, place=str(place), message=message, safe=True, remedy=remedy, model=model, version=version
    )


def _unsafe(
    kind: IntegrityKind, place: object, message: str, remedy: str, model: str | None = None, version: int | None = None
) -> IntegrityFinding:
    return IntegrityFinding(
        kind=kind, place=str(place), message=message, safe=False, remedy=remedy, model=model, version=version
    )

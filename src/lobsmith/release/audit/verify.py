"""Verification: files, signatures, policies, companions, journal and server are checked against each other.

Nothing is changed and no right to act is needed. What may be mended without a decision of a person is marked so, and
`lobsmith.release.audit.repair` mends it.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum

from msgspec import Struct

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
    """What can be wrong."""

    UNSOUND = "unsound"
    """A version is not what it was when it was published, or not what its model is bound to."""
    POLICY = "policy"
    """A configuration cannot be gone by."""
    FOREIGN = "foreign"
    """Something that lobsmith did not put there."""
    LEFTOVER = "leftover"
    """What a crashed writer left behind."""
    UNLISTED = "unlisted"
    """A good version that is not served, and that no newer ones have pushed out."""
    COMPANION = "companion"
    """Plans or a reference score that do not go with their model, or a score that is missing beside it."""
    JOURNAL = "journal"
    """The journal says something else than the disk."""
    SERVED = "served"
    """The server serves something else than what is listed."""


class IntegrityFinding(Struct, frozen=True, kw_only=True):
    """One thing that is wrong.

    `place` is a path, `remedy` what `repair` does about it, or what a person has to do where it is not `safe`.
    """

    kind: IntegrityKind
    place: str
    words: str
    safe: bool
    remedy: str
    model: str | None = None
    version: int | None = None


_PASSING = frozenset(
    {
        IntegrityKind.LEFTOVER,
        IntegrityKind.UNLISTED,
        IntegrityKind.COMPANION,
        IntegrityKind.JOURNAL,
        IntegrityKind.SERVED,
    }
)
"""What is seen while somebody changes the repository, and gone when he is done."""


def verify(workspace: Workspace, served: Mapping[str, Sequence[int]] | None = None) -> list[IntegrityFinding]:
    """Return everything that is wrong with a workspace's repository; empty where nothing is.

    While a writer is at work, what may be a step on his way is left out.

    Args:
        workspace: where the repository lies.
        served: for each model the versions that the running server has READY; None where none runs.
    """
    before = lease_holder(workspace.lease)
    findings = inspect(workspace, served)
    if before is not None or lease_holder(workspace.lease) is not None:
        return [finding for finding in findings if finding.kind not in _PASSING]
    return findings


def inspect(workspace: Workspace, served: Mapping[str, Sequence[int]] | None = None) -> list[IntegrityFinding]:
    """Return everything that is wrong as it is now, a writer at work or not; see `verify`."""
    repository = Repository.of(workspace)
    findings: list[IntegrityFinding] = []
    try:
        entries = journal.read(workspace.journal)
    except ReleaseError as error:
        entries = []
        findings.append(_unsafe(IntegrityKind.JOURNAL, workspace.journal, str(error), "restore it from a backup"))
        known = False
    else:
        known = True
    findings += _leftovers(workspace)
    findings += _foreign(repository, entries)
    for model in repository.models():
        if followed_model(model) in {one.model for one in findings if one.kind is IntegrityKind.POLICY}:
            # What it lists depends on what its model lists, and that is not known.
            continue
        try:
            _check_config(repository, model)
        except ReleaseError as error:
            findings.append(_policy(repository, model, str(error), entries))
            continue
        findings += _versions(repository, model)
        if known:
            findings += _on_disk(repository, model, entries)
            findings += _journaled(workspace, repository, model, entries)
        if served is not None:
            findings += _served(repository, model, served.get(model, ()))
    if known:
        for model in sorted({entry.model for entry in entries} - {journal.EVERYTHING, *repository.models()}):
            findings += _journaled(workspace, repository, model, entries)
    for model in sorted(set(served or ()) - set(repository.models())):
        if served is not None and served[model]:
            words = f"the server answers with {', '.join(map(str, served[model]))} of a model that is not here"
            findings.append(_safe(IntegrityKind.SERVED, repository.root, words, "have the server let go of it", model))
    return findings


def unservable_reason(repository: Repository, model: str, version: int) -> str | None:
    """Return why a version cannot be served under its model, None where it can."""
    try:
        manifest = repository.verify(model, version)
        if manifest.contract != repository.contract(model):
            return f"{repository.directory(model, version)}: made for another wire contract than that of {model}"
        if repository.is_companion(model):
            network = repository.verify(followed_model(model), version)
            of = network.artifact_id if manifest.engine is not None else network.files.get(SCORE)
            if of != manifest.artifact_id:
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


def _policy(repository: Repository, model: str, words: str, entries: list[Entry]) -> IntegrityFinding:
    path = repository.config_path(model)
    if rebuildable(repository, model, entries):
        return _safe(IntegrityKind.POLICY, path, words, "write it anew from the manifests", model)
    return _unsafe(
        IntegrityKind.POLICY, path, words, "restore the file, or move the folder away if it is somebody else's", model
    )


def _leftovers(workspace: Workspace) -> Iterator[IntegrityFinding]:
    try:
        intent = pending(workspace)
    except ReleaseError as error:
        yield _unsafe(IntegrityKind.LEFTOVER, workspace.intent, str(error), "delete the file")
    else:
        if intent is not None:
            entry = intent.entry
            words = f"{entry.who} died while {entry.model} {entry.version_to} was to be {entry.action}"
            yield _safe(IntegrityKind.LEFTOVER, workspace.intent, words, "end or undo it", entry.model)
    if workspace.staging.is_dir():
        for leftover in sorted(workspace.staging.iterdir()):
            yield _safe(IntegrityKind.LEFTOVER, leftover, "left by a writer that died", "delete it")


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
                IntegrityKind.FOREIGN, entry, "not a model; Triton takes every folder here for one", "set it aside"
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
                    IntegrityKind.FOREIGN, entry, "neither a version nor a configuration", "set it aside", model
                )


def _versions(repository: Repository, model: str) -> Iterator[IntegrityFinding]:
    """What the versions on disk and those listed are."""
    named = listed_versions(read_config(repository.config_path(model)))
    listed = repository.listed(model)
    companion = repository.is_companion(model)
    if companion and (stray := sorted(set(named) - set(listed))):
        words = f"lists {', '.join(map(str, stray))}, which {followed_model(model)} does not"
        yield _safe(IntegrityKind.COMPANION, repository.config_path(model), words, "take them off the list", model)
    faults = {
        version: unservable_reason(repository, model, version) for version in {*listed, *repository.versions(model)}
    }
    left = [version for version in listed if faults[version] is None]
    for version, fault in sorted(faults.items()):
        if fault is None:
            continue
        place = repository.directory(model, version)
        if version in listed and not left and not companion:
            words = "publish a good version, or restore this one from a backup: no other is left"
            yield _unsafe(IntegrityKind.UNSOUND, place, fault, words, model, version)
        else:
            remedy = "take it off the list and set it aside" if version in listed else "set it aside"
            yield _safe(IntegrityKind.UNSOUND, place, fault, remedy, model, version)
    # A configuration of scores that cannot be read is a finding of its own.
    with suppress(ReleaseError):
        for version in unscored(repository, model):
            if faults[version] is None:
                place = repository.directory(model, version) / SCORE
                yield _safe(IntegrityKind.COMPANION, place, "its score is not served", "publish it", model, version)


def _on_disk(repository: Repository, model: str, entries: list[Entry]) -> Iterator[IntegrityFinding]:
    """What the journal says of versions that lie there."""
    version_status, listed = journal.version_status(entries, model), repository.listed(model)
    on_disk = repository.versions(model)
    old = fallen(on_disk, listed)
    for version in on_disk:
        place, fate = repository.directory(model, version), version_status.get(version)
        if version in listed:
            if fate not in journal.ACTIVATING:
                words = f"listed, but the journal {f'calls it {fate}' if fate else 'does not know it'}"
                yield _safe(IntegrityKind.JOURNAL, place, words, "write the line that is missing", model, version)
        elif fate not in journal.ACTIVATING:
            words = f"not listed, and the journal {f'calls it {fate}' if fate else 'does not know it'}"
            remedy = "delete it" if fate in journal.LEAVING else "set it aside"
            yield _safe(IntegrityKind.LEFTOVER, place, words, remedy, model, version)
        elif repository.integrity_error(model, version) is None:
            if version in old:
                yield _safe(IntegrityKind.LEFTOVER, place, "newer versions took its place", "retire it", model, version)
            else:
                words = "published, but taken off the list without a line in the journal"
                yield _safe(IntegrityKind.UNLISTED, place, words, "set it aside", model, version)


def _journaled(
    workspace: Workspace, repository: Repository, model: str, entries: list[Entry]
) -> Iterator[IntegrityFinding]:
    """What the disk says of versions that the journal knows."""
    try:
        on_disk, listed = repository.versions(model), repository.listed(model)
    except ReleaseError:
        return
    for version, fate in sorted(journal.version_status(entries, model).items()):
        if fate in journal.ACTIVATING and version not in (*on_disk, *listed):
            words = f"{model} {version} was {fate} and is gone, without a line that says so"
            yield _safe(
                IntegrityKind.JOURNAL, workspace.journal, words, "write the line that is missing", model, version
            )
    state = journal.state_at(entries, model, clock.now_ns())
    by_journal = None if state is None else state.version_to
    active = max(listed, default=None)
    last = None if active is None else journal.version_status(entries, model).get(active)
    if active in on_disk and active != by_journal and last in journal.ACTIVATING:
        words = f"{model}: {by_journal or 'nothing'} is active by the journal, {active} by the policy"
        yield _safe(IntegrityKind.JOURNAL, workspace.journal, words, "write the line that is missing", model)


def _served(repository: Repository, model: str, served: Sequence[int]) -> Iterator[IntegrityFinding]:
    path, listed = repository.config_path(model), repository.listed(model)
    if extra := sorted(set(served) - set(listed)):
        words = f"the server answers with {', '.join(map(str, extra))}, which is not listed"
        yield _safe(IntegrityKind.SERVED, path, words, "have the server follow the list", model)
    if repository.is_plans(model):
        # Which plans a machine can run is its own affair.
        return
    missing = [
        version for version in listed if version not in served and repository.integrity_error(model, version) is None
    ]
    if missing:
        words = f"the server does not answer with {', '.join(map(str, missing))}, which is listed"
        yield _safe(IntegrityKind.SERVED, path, words, "have the server follow the list", model)


def _safe(
    kind: IntegrityKind, place: object, words: str, remedy: str, model: str | None = None, version: int | None = None
) -> IntegrityFinding:
    return IntegrityFinding(
        kind=kind, place=str(place), words=words, safe=True, remedy=remedy, model=model, version=version
    )


def _unsafe(
    kind: IntegrityKind, place: object, words: str, remedy: str, model: str | None = None, version: int | None = None
) -> IntegrityFinding:
    return IntegrityFinding(
        kind=kind, place=str(place), words=words, safe=False, remedy=remedy, model=model, version=version
    )

"""From an intent to its end: rollbacks and removals, by who began them or by who found them begun."""

from msgspec import structs

from lobsmith.errors import ServingError
from lobsmith.release import journal
from lobsmith.release.intent import Intent
from lobsmith.release.removal import retire, set_aside, withdraw
from lobsmith.release.steps import Step
from lobsmith.release.writer import Writer


def go_back(writer: Writer, intent: Intent) -> None:
    """Do a rollback: list, serve, journal, then have the bad versions unloaded and set aside.

    Each part is left out where it was done already, and all of them where the old version is gone or listed no longer.
    An older version that is listed and gone leaves the list too: it must not stand in the way.

    Raises:
        ServingError: the server does not serve the old version, though the policy says so, or does not let go of the
            bad ones. The journal has the rollback then too; the bad versions are set aside by the next writer.
    """
    entry, repository = intent.entry, writer.repository
    model, target = entry.model, entry.version_to
    listed = repository.listed(model)
    good = [version for version in listed if version in repository.versions(model)]
    if target is None or target not in good:
        return
    stay = [version for version in good if version <= target]
    if stay != listed:
        with writer.lease.fence():
            repository.list_versions(model, stay)
    writer.reached(Step.LISTED)
    failure = _serve(writer, model, target)
    writer.reached(Step.LOADED)
    if journal.fates(journal.read(writer.workspace.journal), model).get(entry.version_from or 0) != journal.ROLLED_BACK:
        note = f"; the server does not serve it yet: {failure}" if failure else ""
        writer.record(structs.replace(entry, reason=entry.reason + note))
    writer.reached(Step.RECORDED)
    if failure is not None:
        raise failure
    bad = [version for version in intent.leaving if version in repository.versions(model)]
    withdraw(writer, model, bad)
    set_aside(writer, model, bad)


def leave(writer: Writer, intent: Intent) -> None:
    """Do a removal of all that a slot holds: unload, journal, delete.

    Raises:
        ServingError: the server does not let go of it.
    """
    entry = intent.entry
    leaving = [version for version in intent.leaving if version in writer.repository.versions(entry.model)]
    withdraw(writer, entry.model, leaving)
    retire(writer, entry.model, leaving, action=entry.action, reason=entry.reason, verdicts=entry.verdicts)


def _serve(writer: Writer, model: str, version: int) -> ServingError | None:
    if writer.server is None:
        return None
    try:
        writer.server.serve(model, version)
    except ServingError as error:
        return error
    return None

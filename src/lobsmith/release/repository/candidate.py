"""Emptying the slot of candidates.

| killed after | the repository shows  | the next writer   |
|--------------|-----------------------|-------------------|
| `intended`   | the candidate         | empties the slot  |
| `withdrawn`  | the candidate         | empties the slot  |
| `dismissed`  | the candidate         | empties the slot  |
| `taken out`  | nothing               | deletes it        |
| `deleted`    | nothing               | has nothing to do |
"""

from lobsmith.params import Params
from lobsmith.progress import Note
from lobsmith.release.repository import journal
from lobsmith.release.repository.crash_points import Step
from lobsmith.release.repository.incidents import manifest_of
from lobsmith.release.repository.intent import Intent, close, declare
from lobsmith.release.repository.recovery import clear_up, leave
from lobsmith.release.repository.server import Server
from lobsmith.release.repository.writer import sole_writer
from lobsmith.release.version.names import candidate_model
from lobsmith.verdict import Verdict
from lobsmith.workspace import Workspace


def retire_candidate(
    workspace: Workspace,
    params: Params,
    model: str,
    *,
    server: Server | None,
    who: str | None = None,
    reason: str = "",
    verdicts: tuple[Verdict, ...] = (),
    note: Note | None = None,
) -> int | None:
    """Empty the slot in which candidates of a model are judged.

    Args:
        workspace: where the repository lies.
        params: `release.lease_s` is used.
        model: the production model, or the slot itself.
        server: the running server, None where none runs.
        who: user or flow run, for the journal; the user of this process by default.
        reason: for the journal.
        verdicts: for the journal; if one of them is a refusal the candidate counts as rejected.
        note: told the name of each step once it is done.

    Returns:
        The version that was in the slot, None where it was empty.

    Raises:
        ServingError: the server does not let go of it; the next writer tries again.
        LeaseError: somebody else has the right to act all the time, or took it over.
        ReleaseError: the repository or the journal is unreadable.
    """
    slot = candidate_model(model.removesuffix(candidate_model("")))
    with sole_writer(workspace, params, f"empty {slot}", server=server, who=who, note=note) as writer:
        clear_up(writer, slot)
        versions = writer.repository.versions(slot)
        if not versions:
            return None
        newest = versions[-1]
        manifest = manifest_of(writer.repository, slot, newest)
        refused = any(not verdict.passed for verdict in verdicts)
        entry = writer.entry(
            journal.REJECTED if refused else journal.RETIRED,
            slot,
            before=writer.repository.active(slot),
            about=newest,
            artifact_id=None if manifest is None else manifest.artifact_id,
            verdicts=verdicts,
            reason=reason,
        )
        intent = Intent(entry=entry, leaving=tuple(versions))
        with writer.lease.fence():
            declare(workspace, intent)
        writer.reached(Step.INTENDED)
        leave(writer, intent)
        with writer.lease.fence():
            close(workspace)
        writer.reached(Step.CLOSED)
        return newest

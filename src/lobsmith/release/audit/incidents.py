"""What a server cannot go by although no version is at fault, in the journal: foreign folders, unreadable policies."""

import time

from lobsmith.process import user
from lobsmith.release.audit.verify import Kind, inspect
from lobsmith.release.repository import journal
from lobsmith.release.repository.journal import Entry
from lobsmith.workspace import Workspace


def record_misplaced(workspace: Workspace, *, who: str | None = None) -> list[str]:
    """Journal each thing once; needs no right to act, because nothing else is changed.

    Args:
        workspace: where the repository lies.
        who: who found it; the user of this process by default.

    Returns:
        What was not journaled yet, in words.

    Raises:
        ReleaseError: the journal is unreadable, or the line cannot be written.
    """
    entries = journal.read(workspace.journal)
    new = []
    for finding in inspect(workspace):
        model, words = finding.model or journal.EVERYTHING, f"{finding.place}: {finding.words}"
        if finding.kind not in (Kind.FOREIGN, Kind.POLICY) or journal.knows_fault(entries, model, None, words):
            continue
        new.append(words)
        journal.append(
            workspace.journal,
            Entry(
                time_ns=time.time_ns(),
                action=journal.FAULTY,
                model=model,
                version_from=None,
                version_to=None,
                artifact_id=None,
                who=who or user(),
                reason=words,
            ),
        )
    return new

"""Incidents that no version is at fault for, in the journal: foreign folders and unreadable policies."""

from lobsmith.release.audit.verify import IntegrityKind, inspect
from lobsmith.release.repository import journal
from lobsmith.release.repository.incidents import Incident, journal_once
from lobsmith.workspace import Workspace


def journal_misplaced(workspace: Workspace, *, who: str | None = None) -> list[str]:
    """Journal what a server cannot go by, each thing once; see `journal_once`.

    Returns:
        What was not journaled yet, in words.
    """
    found = [
        Incident(finding.model or journal.EVERYTHING, None, f"{finding.place}: {finding.words}")
        for finding in inspect(workspace)
        if finding.kind in (IntegrityKind.FOREIGN, IntegrityKind.POLICY)
    ]
    return [fault.reason for fault in journal_once(workspace, found, who=who)]

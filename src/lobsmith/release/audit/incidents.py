"""Incidents without a corrupt version, in the journal: foreign folders and unreadable policies."""

from lobsmith.release.audit.verify import IntegrityKind, inspect
from lobsmith.release.repository import journal
from lobsmith.release.repository.incidents import Incident, journal_once
from lobsmith.workspace import Workspace


def journal_foreign(workspace: Workspace, *, actor: str | None = None) -> list[str]:
    """Journal foreign folders and unreadable policies, each once; see `journal_once`.

    Returns:
        The reasons that were not in the journal.
    """
    incidents = [
        Incident(finding.model or journal.EVERYTHING, None, f"{finding.place}: {finding.message}")
        for finding in inspect(workspace)
        if finding.kind in (IntegrityKind.FOREIGN, IntegrityKind.POLICY)
    ]
    return [incident.reason for incident in journal_once(workspace, incidents, actor=actor)]

"""Undeploying a candidate.

| killed after | the repository shows  | the next writer   |
|--------------|-----------------------|-------------------|
| `intended`   | the candidate         | undeploys it      |
| `withdrawn`  | the candidate         | undeploys it      |
| `dismissed`  | the candidate         | undeploys it      |
| `taken out`  | nothing               | deletes it        |
| `deleted`    | nothing               | has nothing to do |
"""

from lobsmith.release.context import Release
from lobsmith.release.repository import journal
from lobsmith.release.repository.crash_points import CrashPoint
from lobsmith.release.repository.incidents import manifest_of
from lobsmith.release.repository.intent import Intent, close, declare
from lobsmith.release.repository.recovery import apply_removal, clear_up
from lobsmith.release.repository.writer import sole_writer
from lobsmith.release.version.names import candidate_model
from lobsmith.verdict import Verdict


def undeploy_candidate(
    release: Release, model: str, *, reason: str = "", verdicts: tuple[Verdict, ...] = ()
) -> int | None:
    """Remove all versions of a model's candidate deployment.

    Args:
        release: the context.
        model: the production model, or its candidate deployment.
        reason, verdicts: for the journal, as rejected if a verdict is a refusal, else as retired.

    Returns:
        The newest deployed version, None where none was.

    Raises:
        ServingError: the server does not unload it; the next writer tries again.
        LeaseError: the lease is held all the time, or was taken over.
        ReleaseError: repository or journal is unreadable.
    """
    deployment = candidate_model(model.removesuffix(candidate_model("")))
    with sole_writer(release, f"undeploy {deployment}") as writer:
        clear_up(writer, deployment)
        versions = writer.repository.versions(deployment)
        if not versions:
            return None
        newest = versions[-1]
        manifest = manifest_of(writer.repository, deployment, newest)
        refused = any(not verdict.passed for verdict in verdicts)
        entry = writer.entry(
            journal.REJECTED if refused else journal.RETIRED,
            deployment,
            before=writer.repository.active(deployment),
            about=newest,
            artifact_id=None if manifest is None else manifest.artifact_id,
            verdicts=verdicts,
            reason=reason,
        )
        intent = Intent(entry=entry, leaving=tuple(versions))
        with writer.lease.fence():
            declare(release.workspace, intent)
        writer.reached(CrashPoint.INTENDED)
        apply_removal(writer, intent)
        with writer.lease.fence():
            close(release.workspace)
        writer.reached(CrashPoint.CLOSED)
        return newest

"""How versions leave the repository: unlisted, unloaded, journaled, moved out, deleted, in this order.

| killed after | the repository shows            | the next writer            |
|--------------|---------------------------------|----------------------------|
| `withdrawn`  | an unlisted version             | begins anew                |
| `dismissed`  | an unlisted version, journaled  | takes it out               |
| `taken out`  | nothing of it                   | deletes it                 |

The last version of a model takes the model's folder along.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from lobsmith.errors import ReleaseError
from lobsmith.gates.verdict import Verdict
from lobsmith.release import journal
from lobsmith.release.config import companions
from lobsmith.release.faults import manifest_of
from lobsmith.release.steps import Step
from lobsmith.release.writer import Writer, delete


def withdraw(writer: Writer, model: str, versions: Sequence[int]) -> None:
    """Have the server let go of versions that are to leave, and of what goes with them.

    Raises:
        ServingError: it does not; nothing of them may be moved.
    """
    if writer.server is not None:
        for name, leaving in _with_companions(writer, model, versions):
            writer.server.withdraw(name, leaving)
    writer.reached(Step.WITHDRAWN)


def retire(
    writer: Writer,
    model: str,
    versions: Sequence[int],
    *,
    reason: str,
    action: str = journal.RETIRED,
    verdicts: tuple[Verdict, ...] = (),
) -> None:
    """Delete versions that the server has let go of, and what goes with them. What is unsound by now is set aside.

    Args:
        writer: who may.
        model: the model.
        versions: listed no longer, or all that the model has.
        reason: for the journal.
        action: what the journal calls it.
        verdicts: for the journal.
    """
    repository = writer.repository
    active = repository.active(model)
    for name, leaving in _with_companions(writer, model, versions):
        fates = journal.fates(journal.read(writer.workspace.journal), name)
        for version in leaving:
            try:
                manifest = repository.verify(name, version)
            except ReleaseError as error:
                set_aside(writer, name, [version], reason=str(error))
                continue
            if fates.get(version) not in journal.LEAVING:
                writer.record(
                    writer.entry(
                        action,
                        name,
                        before=active,
                        about=version,
                        artifact_id=manifest.artifact_id,
                        verdicts=verdicts,
                        reason=reason,
                    )
                )
            writer.reached(Step.DISMISSED)
            expel(writer, name, version)


def expel(writer: Writer, model: str, version: int) -> None:
    """Delete a version whose end is journaled."""
    place = writer.take_out(_folder(writer, model, version), f"{model}-{version}")
    writer.reached(Step.TAKEN_OUT)
    delete(place)
    writer.reached(Step.DELETED)


def set_aside(writer: Writer, model: str, versions: Sequence[int], *, reason: str | None = None) -> None:
    """Move versions that the server has let go of, and what goes with them, where a person may look at them.

    Args:
        writer: who may.
        model: the model.
        versions: listed no longer, or all that the model has.
        reason: for the journal; None where it has their end already.
    """
    active = writer.repository.active(model)
    for name, leaving in _with_companions(writer, model, versions):
        words = reason if name == model else reason or f"went with that of {model}"
        fates = journal.fates(journal.read(writer.workspace.journal), name)
        for version in leaving:
            if words is not None and fates.get(version) not in journal.LEAVING:
                manifest = manifest_of(writer.repository, name, version)
                artifact_id = None if manifest is None else manifest.artifact_id
                writer.record(
                    writer.entry(
                        journal.SET_ASIDE, name, before=active, about=version, artifact_id=artifact_id, reason=words
                    )
                )
            writer.set_aside(_folder(writer, name, version), f"{name}-{version}")
            writer.reached(Step.TAKEN_OUT)


def _with_companions(writer: Writer, model: str, versions: Sequence[int]) -> Iterator[tuple[str, list[int]]]:
    """Yield what goes with versions, where there is any, then the versions."""
    for companion in companions(model):
        if leaving := sorted(set(versions) & set(_companions_of(writer, companion))):
            yield companion, leaving
    yield model, sorted(versions)


def _companions_of(writer: Writer, companion: str) -> list[int]:
    repository = writer.repository
    try:
        return repository.versions(companion) if repository.is_companion(companion) else []
    except ReleaseError:
        # A companion that cannot be read must not hinder the model.
        return []


def _folder(writer: Writer, model: str, version: int) -> Path:
    """Return the folder that leaves: the version's, or the model's where it is the last."""
    repository = writer.repository
    if repository.versions(model) == [version]:
        return repository.config_path(model).parent
    return repository.directory(model, version)

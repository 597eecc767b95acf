"""Rebuild: a lost or unreadable model configuration is written anew from the manifests of the model's versions."""

from collections.abc import Sequence

from lobsmith.errors import ReleaseError
from lobsmith.files import write_atomic
from lobsmith.release.repository import journal
from lobsmith.release.repository.journal import Entry
from lobsmith.release.repository.repository import Repository
from lobsmith.release.repository.writer import Writer
from lobsmith.release.version.manifest import Manifest
from lobsmith.release.version.names import followed_model, score_model
from lobsmith.release.version.triton_config import config_text, prime_rows_for, score_config_text


def rebuildable(repository: Repository, model: str, entries: Sequence[Entry]) -> list[Manifest]:
    """Return what a new configuration would list, rising; nothing where the model is none of ours.

    These are the sound ONNX versions that are in service by the journal and keep the newest one's contract. Plans are
    built again instead.
    """
    status_of = journal.version_status(entries, model)
    known = [version for version in repository.versions(model) if status_of.get(version) in journal.ACTIVATING]
    sound = [
        repository.verify(model, version) for version in known if repository.integrity_error(model, version) is None
    ]
    return [one for one in sound if one.engine is None and one.contract == sound[-1].contract]


def rebuild(writer: Writer, model: str) -> None:
    """Write a model's configuration anew.

    Raises:
        ReleaseError: no version of the model is sound and in service.
    """
    manifests = rebuildable(writer.repository, model, journal.read(writer.release.workspace.journal))
    if not manifests:
        raise ReleaseError(f"{model}: no version is left of which a configuration could be written")
    contract, versions = manifests[-1].contract, [one.version for one in manifests]
    serving = writer.release.params.serving
    if model == score_model(followed_model(model)):
        text = score_config_text(model, contract, versions=versions, max_batch=serving.max_batch, warmup=serving.warmup)
    else:
        text = config_text(
            model,
            contract,
            versions=versions,
            prime_rows=prime_rows_for(one.prime_rows for one in manifests),
            max_batch=serving.max_batch,
            warmup=serving.warmup,
            instruments=manifests[-1].instruments,
        )
    with writer.lease.fence():
        write_atomic(writer.repository.config_path(model), text.encode())

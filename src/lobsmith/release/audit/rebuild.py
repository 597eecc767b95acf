"""Rebuild a model's lost or unreadable configuration from the manifests of its versions."""

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
    """Return the manifests that a new configuration would list, rising; none where the model is not lobsmith's.

    These are the valid ONNX versions, active by the journal, that have the newest one's contract. Plans are built again
    instead.
    """
    status_of = journal.version_status(entries, model)
    known = [version for version in repository.versions(model) if status_of.get(version) in journal.ACTIVATING]
    valid = [
        repository.verify(model, version) for version in known if repository.integrity_error(model, version) is None
    ]
    return [manifest for manifest in valid if manifest.engine is None and manifest.contract == valid[-1].contract]


def rebuild(writer: Writer, model: str) -> None:
    """Write a model's configuration anew.

    Raises:
        ReleaseError: no version of the model is valid and in service.
    """
    manifests = rebuildable(writer.repository, model, journal.read(writer.release.workspace.journal))
    if not manifests:
        raise ReleaseError(f"{model}: no version is left of which a configuration could be written")
    contract, versions = manifests[-1].contract, [manifest.version for manifest in manifests]
    serving = writer.release.params.serving
    if model == score_model(followed_model(model)):
        text = score_config_text(model, contract, versions=versions, max_batch=serving.max_batch, warmup=serving.warmup)
    else:
        text = config_text(
            model,
            contract,
            versions=versions,
            prime_rows=prime_rows_for(manifest.prime_rows for manifest in manifests),
            max_batch=serving.max_batch,
            warmup=serving.warmup,
            instruments=manifests[-1].instruments,
        )
    with writer.lease.fence():
        write_atomic(writer.repository.config_path(model), text.encode())

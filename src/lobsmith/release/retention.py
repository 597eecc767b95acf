"""Which versions stay listed, and what becomes of those that fall out."""

from collections.abc import Sequence

from lobsmith.params import Params
from lobsmith.release import journal
from lobsmith.release.config import is_candidate
from lobsmith.release.manifest import Manifest
from lobsmith.release.removal import retire, set_aside, withdraw
from lobsmith.release.repository import Repository
from lobsmith.release.writer import Writer


def kept(repository: Repository, params: Params, model: str, new: Manifest) -> list[Manifest]:
    """Return the versions that are listed once a new one is: the newest `release.keep` of those that hold, rising.

    What is not sound does not count and is listed no longer. A slot of candidates has the new one only.
    """
    if is_candidate(model):
        return [new]
    sound, _ = repository.sound(model)
    # The active one and its fallback stay, whatever a caller may have made of the parameters.
    keep = max(2, params.release.keep)
    manifests = [*(repository.verify(model, version) for version in sound), new]
    # A companion of an older version may come after that of a newer one.
    return sorted(manifests, key=lambda one: one.version)[-keep:]


def fallen(on_disk: Sequence[int], listed: Sequence[int]) -> list[int]:
    """Return the versions that newer ones have pushed out of a listing.

    One that is unlisted among listed ones was taken off by a person: that is not for retention to delete.

    >>> fallen([1, 2, 3, 4, 5], [3, 5])
    [1, 2]
    """
    return [version for version in on_disk if listed and version < min(listed)]


def retire_fallen(writer: Writer, model: str) -> list[int]:
    """Delete what newer versions have pushed out of the listing, set aside what is not sound; return these versions.

    Raises:
        ServingError: the server does not let go of them; they stay until the next publication.
    """
    repository = writer.repository
    listed, on_disk = repository.listed(model), repository.versions(model)
    fates = journal.fates(journal.read(writer.workspace.journal), model)
    known = [version for version in on_disk if version not in listed and fates.get(version) in journal.ACTIVATING]
    old = fallen(known, listed)
    faults = {version: repository.fault(model, version) for version in known if version not in old}
    unsound = {version: fault for version, fault in faults.items() if fault is not None}
    if leaving := sorted({*old, *unsound}):
        withdraw(writer, model, leaving)
        retire(writer, model, old, reason=f"newer good versions took its place, up to {max(listed)}")
        for version, fault in unsound.items():
            set_aside(writer, model, [version], reason=fault)
    return leaving

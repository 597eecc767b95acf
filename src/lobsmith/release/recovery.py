"""What a publisher that died left behind, and what becomes of it; all of it is done under the publishers' lock."""

import shutil
import time
from pathlib import Path
from secrets import token_hex

from lobsmith.errors import ReleaseError
from lobsmith.files import fsync_directory
from lobsmith.release import journal
from lobsmith.release.config import CONFIG, plans_model
from lobsmith.release.journal import Entry
from lobsmith.release.manifest import Manifest, read_manifest
from lobsmith.release.repository import Repository
from lobsmith.workspace import Workspace


def clear_up(workspace: Workspace, model: str, who: str) -> None:
    """Bring a model's folder, the staging folder and the journal to a state that a live publisher could have left.

    Staging folders and half-written configurations are deleted. A version that the policy does not list and the journal
    does not call published was moved but never listed: it is set aside. One that is listed and not published by the
    journal is published, and gets its line. (Plans that were refused may come again under their number.)

    Raises:
        ReleaseError: the model's configuration or the journal is unreadable.
        OSError: a folder cannot be changed.
    """
    if workspace.staging.is_dir():
        for leftover in workspace.staging.iterdir():
            shutil.rmtree(leftover)
    repository = Repository.of(workspace)
    home = repository.config_path(model).parent
    if not home.is_dir():
        return
    for leftover in home.glob(f".{CONFIG}.*"):
        leftover.unlink()
    known = {
        entry.version_to
        for entry in journal.read(workspace.journal)
        if entry.model == model and entry.action == journal.PUBLISHED
    }
    listed = repository.listed(model)
    for version in repository.versions(model):
        if version in known:
            continue
        directory = repository.directory(model, version)
        manifest = _manifest(directory)
        if version not in listed:
            move_aside(workspace, directory, f"{model}-{version}")
        elif manifest is None:
            continue
        journal.append(
            workspace.journal,
            Entry(
                time_ns=time.time_ns() if manifest is None else manifest.created_ns,
                action=journal.PUBLISHED if version in listed else journal.REFUSED,
                model=model,
                version_from=max((one for one in listed if one < version), default=None),
                version_to=version,
                artifact_id=None if manifest is None else manifest.artifact_id,
                who=who,
                verdicts=() if manifest is None else manifest.verdicts,
                reason="its publisher died after listing it" if version in listed else "its publisher died, set aside",
            ),
        )


def follow(workspace: Workspace, model: str) -> None:
    """Have the listing of a model's plans follow the model's own; plans without a version left are set aside.

    Raises:
        ReleaseError: a configuration is unreadable.
        OSError: a folder cannot be changed.
    """
    repository = Repository.of(workspace)
    if not repository.follow(model):
        plans = plans_model(model)
        move_aside(workspace, repository.config_path(plans).parent, plans)


def move_aside(workspace: Workspace, directory: Path, name: str) -> Path:
    """Move a folder out of the repository, for a person to look at; return where it went."""
    place = workspace.home / "set_aside" / f"{name}-{token_hex(4)}"
    place.parent.mkdir(parents=True, exist_ok=True)
    directory.rename(place)
    fsync_directory(place.parent)
    fsync_directory(directory.parent)
    return place


def _manifest(directory: Path) -> Manifest | None:
    try:
        return read_manifest(directory)
    except ReleaseError:
        return None

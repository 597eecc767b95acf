"""The part of a publication that servers can see: moved, listed and served, or all of that taken back."""

import time
from pathlib import Path

from msgspec import structs

from lobsmith.errors import LeaseLostError, ServingError
from lobsmith.files import fsync_directory, write_atomic
from lobsmith.release.config import CONFIG
from lobsmith.release.journal import Entry
from lobsmith.release.manifest import Manifest
from lobsmith.release.steps import Step
from lobsmith.release.writer import Writer, delete


def place(writer: Writer, staging: Path, manifest: Manifest, config: str, entry: Entry) -> None:
    """Move a proven version into the repository, list it, have it served and journal it; undo all if a part fails.

    Args:
        writer: who may.
        staging: holds the version's folder.
        manifest: of the version.
        config: the configuration that lists it.
        entry: of the journal.

    Raises:
        ServingError: the server does not serve it. It is set aside, and the server was asked for the old version.
        OSError: a file cannot be written. Nothing is left of the version; so for every other error.
        LeaseLostError: somebody else took over, who decides what becomes of it.
    """
    model, version = manifest.model, manifest.version
    repository = writer.repository
    path, previous = repository.config_path(model), repository.active(model)
    home = path.parent
    before = path.read_bytes() if path.exists() else None
    alone = not home.exists()
    try:
        with writer.lease.fence():
            if alone:
                write_atomic(staging / CONFIG, config.encode())
                staging.rename(home)
                fsync_directory(home.parent)
                writer.reached(Step.MOVED)
            else:
                (staging / str(version)).rename(home / str(version))
                fsync_directory(home)
                writer.reached(Step.MOVED)
                write_atomic(path, config.encode())
            writer.reached(Step.LISTED)
        if writer.server is not None:
            writer.server.serve(model, version)
            writer.reached(Step.LOADED)
        writer.record(structs.replace(entry, time_ns=time.time_ns()))
    except LeaseLostError:
        raise
    except BaseException as error:
        unlisted = _unlist(writer, path, before, alone)
        if unlisted:
            _ask_server(writer, model, version, previous, error)
        directory = home if alone else home / str(version)
        if directory.exists() and isinstance(error, ServingError):
            writer.set_aside(directory, f"{model}-{version}")
        elif directory.exists():
            # Kept, it would take up room on a disk that may be full; who published it has it still.
            delete(writer.take_out(directory, f"{model}-{version}"))
        raise


def _unlist(writer: Writer, path: Path, before: bytes | None, alone: bool) -> bool:
    """Restore the configuration; return whether a server may have seen the other one."""
    with writer.lease.fence():
        if not path.exists() or path.read_bytes() == before:
            return False
        if before is not None:
            write_atomic(path, before)
        elif not alone:
            path.unlink()
    return True


def _ask_server(writer: Writer, model: str, version: int, previous: int | None, error: BaseException) -> None:
    """Have the server go back to the old version, and let go of the new one."""
    # Who interrupts the program does not want to wait for a server.
    if writer.server is None or not isinstance(error, Exception):
        return
    try:
        if previous is not None:
            writer.server.serve(model, previous)
        writer.server.withdraw(model, [version])
    except Exception as second:  # noqa: BLE001 - the first error is the one to report
        whereto = f"{model} {previous}" if previous else f"a state without {model}"
        error.add_note(f"; the server did not go back to {whereto}: {second}")

"""The Triton model repository on disk: models, versions, listing, integrity."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from lobsmith.errors import LobsmithError, ReleaseError, VersionGoneError
from lobsmith.files import write_atomic
from lobsmith.release.version.contract import WireContract
from lobsmith.release.version.manifest import Manifest, check_files, read_manifest
from lobsmith.release.version.names import companions, followed_model
from lobsmith.release.version.signing import Trust
from lobsmith.release.version.triton_config import (
    CONFIG,
    configured_contract,
    is_plans,
    is_score,
    listed_versions,
    listing,
    read_config,
)
from lobsmith.workspace import Workspace

# Names of params.yaml, of candidates and companions: no dots or slashes, so that a path stays in the repository.
_MODEL_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}(_candidate)?(_trt|_drift)?", re.ASCII)
# Triton reads `01` as 1; int64 has nineteen digits.
_VERSION_NAME = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Repository:
    """A folder of models, `<model>/config.pbtxt` and `<model>/<version>/`.

    Listed versions are in the model's version policy; the active version is the highest of them. Versions of the
    companions, plans (`<model>_trt`) and drift score (`<model>_drift`), are listed only where the model's are.

    Raises:
        ReleaseError: methods that read a configuration or a manifest, where it is unreadable.
    """

    root: Path
    trust: Trust

    @classmethod
    def of(cls, workspace: Workspace) -> "Repository":
        """Return a workspace's repository, with its trusted keys."""
        return cls(workspace.repository, Trust.of(workspace))

    @staticmethod
    def is_name(name: str) -> bool:
        """Return whether a model, a candidate deployment or a companion may have this name."""
        return bool(_MODEL_NAME.fullmatch(name))

    def models(self) -> list[str]:
        """Return the models by name: valid names of folders with a `config.pbtxt`."""
        if not self.root.is_dir():
            return []
        return sorted(
            entry.name
            for entry in self.root.iterdir()
            if _MODEL_NAME.fullmatch(entry.name) and (entry / CONFIG).is_file()
        )

    def versions(self, model: str) -> list[int]:
        """Return the versions on disk, rising: folders with a canonical number for a name."""
        directory = self._model(model)
        if not directory.is_dir():
            return []
        return sorted(
            int(entry.name)
            for entry in directory.iterdir()
            if _VERSION_NAME.fullmatch(entry.name) and entry.is_dir() and not entry.is_symlink()
        )

    def listed(self, model: str) -> list[int]:
        """Return the listed versions, rising; none where there is no such model."""
        path = self.config_path(model)
        if not path.is_file():
            return []
        config = read_config(path)
        versions = listed_versions(config)
        if not (is_plans(model, config) or is_score(model, config)):
            return versions
        served = set(self.listed(followed_model(model)))
        return [version for version in versions if version in served]

    def is_plans(self, model: str) -> bool:
        """Return whether a model consists of TensorRT plans."""
        path = self.config_path(model)
        return path.is_file() and is_plans(model, read_config(path))

    def is_score(self, model: str) -> bool:
        """Return whether a model is the drift score of another model."""
        path = self.config_path(model)
        return path.is_file() and is_score(model, read_config(path))

    def is_companion(self, model: str) -> bool:
        """Return whether a model is the plans or the drift score of another model."""
        return self.is_plans(model) or self.is_score(model)

    def active(self, model: str) -> int | None:
        """Return the highest listed version."""
        return max(self.listed(model), default=None)

    @contextmanager
    def reading(self, model: str, version: int) -> Iterator[None]:
        """Read a version's files while other processes may remove them.

        Raises:
            VersionGoneError: the block failed and the version, rolled back or retired, is listed no longer.
        """
        try:
            yield
        except (LobsmithError, OSError) as error:
            if version in self.listed(model):
                raise
            gone = f"{model} {version} was rolled back or retired while it was read; the next run reads what serves now"
            raise VersionGoneError(gone) from error

    def with_active(self, model: str, read: Callable[[Manifest | None], _T]) -> _T:
        """Return `read` of the active version's manifest, of None where none serves.

        If the version is removed meanwhile, the next active one is read.
        """
        while True:
            version = self.active(model)
            if version is None:
                return read(None)
            with suppress(VersionGoneError), self.reading(model, version):
                return read(read_manifest(self.directory(model, version), self.trust))

    def fallback(self, model: str, instrument: str | None = None) -> int | None:
        """Return the rollback target: the highest valid version below the active one that was trained on `instrument`.

        That is `venue:symbol`, or None for any of the active version's.
        """
        listed = self.listed(model)
        for version in reversed(listed[:-1]):
            other = self.of_other_market(model, version, listed[-1], instrument)
            if other is None and self.integrity_error(model, version) is None:
                return version
        return None

    def of_other_market(self, model: str, version: int, active: int, instrument: str | None = None) -> str | None:
        """Return why a version was not trained on `instrument`, or on any of the `active` version's; None where it was.

        None also where a manifest is unreadable.
        """
        try:
            older, newer = (read_manifest(self.directory(model, number)) for number in (version, active))
        except ReleaseError:
            return None
        if older.was_trained_on(instrument) if instrument is not None else older.shares_a_market_with(newer):
            return None
        wanted = instrument or ", ".join(map(str, newer.instruments))
        return f"it was trained on {', '.join(map(str, older.instruments))}, not {wanted}"

    def directory(self, model: str, version: int) -> Path:
        """Return the folder of a version, which need not exist.

        Raises:
            ReleaseError: not a name or number that a model or version may have.
        """
        if not _VERSION_NAME.fullmatch(str(version)):
            raise ReleaseError(f"{model}: {version} is not a version; versions are whole numbers from 1")
        return self._model(model) / str(version)

    def config_path(self, model: str) -> Path:
        """Return the path of a model's configuration, which need not exist."""
        return self._model(model) / CONFIG

    def config_text(self, model: str) -> str:
        """Return a model's configuration.

        Raises:
            ReleaseError: there is no such model.
        """
        path = self.config_path(model)
        try:
            return path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ReleaseError(f"{path}: not readable: {error}; is {model} a published model?") from error

    def contract(self, model: str) -> WireContract | None:
        """Return the wire contract of a model, None where there is no such model."""
        path = self.config_path(model)
        return configured_contract(path) if path.is_file() else None

    def verify(self, model: str, version: int) -> Manifest:
        """Check that a version is as it was published, and return its manifest.

        Raises:
            ReleaseError: a file is missing, changed or extra (the message names it), or the folder is a link or another
                version's.
        """
        directory = self.directory(model, version)
        # A link can be pointed elsewhere after the check.
        if directory.is_symlink():
            raise ReleaseError(f"{directory}: a link, not a folder; publish the version again")
        manifest = check_files(directory, self.trust)
        if (manifest.model, manifest.version) != (model, version):
            raise ReleaseError(f"{directory}: holds {manifest.model} {manifest.version}; publish the version again")
        return manifest

    def integrity_error(self, model: str, version: int) -> str | None:
        """Return why a version is not as it was published, None where it is."""
        try:
            self.verify(model, version)
        except ReleaseError as error:
            return str(error)
        return None

    def valid(self, model: str) -> tuple[list[int], dict[int, str]]:
        """Return the listed versions that are valid, rising, and the integrity errors of the others."""
        errors = {version: self.integrity_error(model, version) for version in self.listed(model)}
        valid = [version for version, error in errors.items() if error is None]
        return valid, {version: error for version, error in errors.items() if error is not None}

    def list_versions(self, model: str, versions: list[int]) -> None:
        """Rewrite the version policies of a model and its companions; the caller notifies the server.

        Raises:
            ReleaseError: there is no such model, no version is given, or one is not on disk.
        """
        path = self.config_path(model)
        absent = sorted(set(versions) - set(self.versions(model)))
        if absent:
            raise ReleaseError(f"{self.directory(model, absent[0])}: no such version; it cannot be listed")
        if not versions:
            raise ReleaseError(f"{path}: the policy must name a version; a model without one cannot be served")
        write_atomic(path, listing(read_config(path), versions).encode())
        for companion in companions(model):
            # `listed` leaves out what a companion's own policy still names.
            with suppress(ReleaseError):
                self.follow(companion)

    def follow(self, companion: str) -> bool:
        """Unlist a companion's versions that its model does not list.

        Return False, with the policy unchanged, where none is left.
        """
        if not self.is_companion(companion):
            return True
        path, left = self.config_path(companion), self.listed(companion)
        config = read_config(path)
        if left and left != listed_versions(config):
            write_atomic(path, listing(config, left).encode())
        return bool(left)

    def _model(self, model: str) -> Path:
        if not _MODEL_NAME.fullmatch(model):
            raise ReleaseError(f"{model!r} is not a model name; use letters, digits and underscores, a letter first")
        return self.root / model

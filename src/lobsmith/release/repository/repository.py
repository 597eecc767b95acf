"""The Triton model repository as it lies on disk: models, versions, what is listed and what still holds."""

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

# The names that params.yaml accepts for a model, and those of their candidates and companions: no dots or slashes, so
# that a name cannot leave the repository.
_MODEL_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}(_candidate)?(_trt|_drift)?", re.ASCII)
# Triton reads `01` as version 1 too, and int64 has nineteen digits.
_VERSION_NAME = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Repository:
    """A folder of models, `<model>/config.pbtxt` and `<model>/<version>/`.

    A version is listed when the model's version policy names it; the active version is the highest listed one. The
    companions of a model, plans (`<model>_trt`) and reference score (`<model>_drift`), are listed only where the model
    lists the version too: what is taken back there is gone here.
    """

    root: Path
    trust: Trust

    @classmethod
    def of(cls, workspace: Workspace) -> "Repository":
        """Return a workspace's repository, trusting the keys that the workspace trusts."""
        return cls(workspace.repository, Trust.of(workspace))

    @staticmethod
    def is_name(name: str) -> bool:
        """Say whether a model, its slot of candidates or a companion may have this name."""
        return bool(_MODEL_NAME.fullmatch(name))

    def models(self) -> list[str]:
        """Return the models, by name: folders with a `config.pbtxt` under a name that a model may have."""
        if not self.root.is_dir():
            return []
        return sorted(
            entry.name
            for entry in self.root.iterdir()
            if _MODEL_NAME.fullmatch(entry.name) and (entry / CONFIG).is_file()
        )

    def versions(self, model: str) -> list[int]:
        """Return the versions on disk, rising. What is not a folder with a canonical number for its name is none."""
        directory = self._model(model)
        if not directory.is_dir():
            return []
        return sorted(
            int(entry.name)
            for entry in directory.iterdir()
            if _VERSION_NAME.fullmatch(entry.name) and entry.is_dir() and not entry.is_symlink()
        )

    def listed(self, model: str) -> list[int]:
        """Return the listed versions, rising; none where there is no such model.

        Raises:
            ReleaseError: the configuration is unreadable.
        """
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
        """Say whether a model is made of TensorRT plans.

        Raises:
            ReleaseError: the configuration is unreadable.
        """
        path = self.config_path(model)
        return path.is_file() and is_plans(model, read_config(path))

    def is_score(self, model: str) -> bool:
        """Say whether a model is the reference score of another one.

        Raises:
            ReleaseError: the configuration is unreadable.
        """
        path = self.config_path(model)
        return path.is_file() and is_score(model, read_config(path))

    def is_companion(self, model: str) -> bool:
        """Say whether a model goes with another one: its plans or its reference score.

        Raises:
            ReleaseError: the configuration is unreadable.
        """
        return self.is_plans(model) or self.is_score(model)

    def active(self, model: str) -> int | None:
        """Return the highest listed version.

        Raises:
            ReleaseError: the configuration is unreadable.
        """
        return max(self.listed(model), default=None)

    @contextmanager
    def reading(self, model: str, version: int) -> Iterator[None]:
        """Read a version's files while other processes may take it out of the repository.

        Raises:
            VersionGoneError: the block failed and the version is listed no longer: it was rolled back or retired.
        """
        try:
            yield
        except (LobsmithError, OSError) as error:
            if version in self.listed(model):
                raise
            gone = f"{model} {version} was rolled back or retired while it was read; the next run reads what serves now"
            raise VersionGoneError(gone) from error

    def with_active(self, model: str, read: Callable[[Manifest | None], _T]) -> _T:
        """Return what `read` makes of the active version, None where none serves.

        Where that version is gone before `read` is done, it reads the one that is active by then.

        Raises:
            ReleaseError: the configuration or the manifest is unreadable.
        """
        while True:
            version = self.active(model)
            if version is None:
                return read(None)
            with suppress(VersionGoneError), self.reading(model, version):
                return read(read_manifest(self.directory(model, version), self.trust))

    def fallback(self, model: str, instrument: str | None = None) -> int | None:
        """Return the version to go back to: the highest below the active one that is listed, sound and of its market.

        Args:
            model: the model.
            instrument: that it must have learnt, `venue:symbol`; None takes one that the active version has learnt too.

        Raises:
            ReleaseError: the configuration is unreadable.
        """
        listed = self.listed(model)
        for version in reversed(listed[:-1]):
            other = self.of_other_market(model, version, listed[-1], instrument)
            if other is None and self.fault(model, version) is None:
                return version
        return None

    def of_other_market(self, model: str, version: int, active: int, instrument: str | None = None) -> str | None:
        """Say that a version has not learnt an instrument, or none that the active one has; None where it has.

        A version whose manifest cannot be read is taken to have.
        """
        try:
            mine, its = (read_manifest(self.directory(model, one)) for one in (version, active))
        except ReleaseError:
            return None
        if mine.has_learnt(instrument) if instrument is not None else mine.shares_a_market_with(its):
            return None
        wanted = instrument or ", ".join(map(str, its.instruments))
        return f"it has learnt {', '.join(map(str, mine.instruments))}, not {wanted}"

    def directory(self, model: str, version: int) -> Path:
        """Return the folder of a version, which need not exist.

        Raises:
            ReleaseError: the name or the number is not one that a model or a version may have.
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
        """Return the contract that a model is bound to, or None where there is no such model.

        Raises:
            ReleaseError: the configuration is unreadable, or not one that lobsmith wrote.
        """
        path = self.config_path(model)
        return configured_contract(path) if path.is_file() else None

    def verify(self, model: str, version: int) -> Manifest:
        """Check that a version is what it was when it was published.

        Returns:
            Its manifest.

        Raises:
            ReleaseError: a file is missing, changed or extra (the message names it), or is a link or another's folder.
        """
        directory = self.directory(model, version)
        # A link can be pointed elsewhere after the check.
        if directory.is_symlink():
            raise ReleaseError(f"{directory}: a link, not a folder; publish the version again")
        manifest = check_files(directory, self.trust)
        if (manifest.model, manifest.version) != (model, version):
            raise ReleaseError(f"{directory}: holds {manifest.model} {manifest.version}; publish the version again")
        return manifest

    def fault(self, model: str, version: int) -> str | None:
        """Return why a version is not what it was when it was published, None where it is."""
        try:
            self.verify(model, version)
        except ReleaseError as error:
            return str(error)
        return None

    def sound(self, model: str) -> tuple[list[int], dict[int, str]]:
        """Divide the listed versions.

        Returns:
            Those that hold, rising, and for each of the others the reason why it does not.

        Raises:
            ReleaseError: the configuration is unreadable.
        """
        faults = {version: self.fault(model, version) for version in self.listed(model)}
        sound = [version for version, fault in faults.items() if fault is None]
        return sound, {version: fault for version, fault in faults.items() if fault is not None}

    def list_versions(self, model: str, versions: list[int]) -> None:
        """Rewrite the policy so that it names these versions and nothing else changes. A server has to be told.

        The policies of the model's companions follow, as long as a version is left in them.

        Raises:
            ReleaseError: there is no such model, no version is given, or one of them is not on disk.
        """
        path = self.config_path(model)
        absent = sorted(set(versions) - set(self.versions(model)))
        if absent:
            raise ReleaseError(f"{self.directory(model, absent[0])}: no such version; it cannot be listed")
        if not versions:
            raise ReleaseError(f"{path}: the policy must name a version; a model without one cannot be served")
        write_atomic(path, listing(read_config(path), versions).encode())
        for companion in companions(model):
            # Rolled back it is; `listed` leaves out what a companion's own policy still names too much.
            with suppress(ReleaseError):
                self.follow(companion)

    def follow(self, companion: str) -> bool:
        """Take from the policy of a companion what its model does not list.

        Returns:
            Whether the companion, if there is one, still has a version; where none is left the policy stays as it was.

        Raises:
            ReleaseError: a configuration is unreadable.
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

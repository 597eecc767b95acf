"""A server that only logs its calls; the real one is in tests/integration."""

from collections.abc import Callable, Sequence

from lobsmith.release.repository.repository import Repository
from lobsmith.workspace import Workspace


class StandIn:
    """Serves what the repository lists, as long as `refuse` raises nothing for it."""

    def __init__(self, workspace: Workspace, refuse: Callable[[str, int], None] = lambda model, version: None) -> None:
        self._repository = Repository.of(workspace)
        self._refuse = refuse
        self.calls: list[tuple[str, int]] = []
        self.loaded: dict[str, list[int]] = {}

    def serve(self, model: str, version: int) -> None:
        self.calls.append((model, version))
        self._refuse(model, version)
        self.loaded[model] = self._repository.listed(model)
        assert version in self.loaded[model]

    def withdraw(self, model: str, versions: Sequence[int]) -> None:
        # Files of a version that is loaded must not be moved.
        assert all(self._repository.directory(model, version).is_dir() for version in versions)
        left = [version for version in self.loaded.get(model, []) if version not in versions]
        self.loaded[model] = left

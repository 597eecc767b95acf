"""The context of operations on a repository: workspace, parameters, server."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from lobsmith.params import Params
from lobsmith.progress import Note
from lobsmith.release.repository.repository import Repository
from lobsmith.workspace import Workspace


class Server(Protocol):
    """A model server of the repository; see `lobsmith.serving.running_server`."""

    def serve(self, model: str, version: int) -> None:
        """Load what the repository lists for a model; return once `version` answers. Unlisted versions may go on for a
        moment.

        Raises:
            ServingError: `version` does not answer within the server's deadline, or no server runs.
        """

    def withdraw(self, model: str, versions: Sequence[int]) -> None:
        """Return once these unlisted versions are unloaded; if the model's last version is among them, the whole model
        is.

        Raises:
            ServingError: they are still loaded after the server's deadline.
        """


@dataclass(frozen=True)
class Release:
    """The context of an operation.

    Attributes:
        workspace: of the repository.
        params: all of `params.yaml`, as in manifests.
        server: the running server, if any.
        actor: user or flow run for the journal; by default this process's user.
        note: called with each crash point reached.
    """

    workspace: Workspace
    params: Params
    server: Server | None = None
    actor: str | None = None
    note: Note | None = None

    @property
    def repository(self) -> Repository:
        """The workspace's repository, with its trusted keys."""
        return Repository.of(self.workspace)

"""The context of every operation on a workspace's model repository: where, by which parameters, with which server."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from lobsmith.params import Params
from lobsmith.progress import Note
from lobsmith.release.repository.repository import Repository
from lobsmith.workspace import Workspace


class Server(Protocol):
    """A model server of the repository; `lobsmith.serving.running` has the real one."""

    def serve(self, model: str, version: int) -> None:
        """Serve what the repository lists for a model now; return once `version` answers.

        Versions that are no longer listed may go on answering for a moment: see `withdraw`.

        Raises:
            ServingError: `version` does not answer within the server's own deadline, or no server runs any more.
        """

    def withdraw(self, model: str, versions: Sequence[int]) -> None:
        """Return once none of these versions, which are listed no longer, is loaded or being unloaded.

        A model that the repository no longer has, or whose last version is among them, is unloaded as a whole.

        Raises:
            ServingError: they are still loaded after the server's own deadline.
        """


@dataclass(frozen=True)
class Release:
    """The context of an operation.

    Attributes:
        workspace: where the repository, its journal and its leases lie.
        params: all of `params.yaml`; `release` and `serving` are used throughout, `reconcile` where MLflow's aliases
            are followed. A new version's manifest records the whole.
        server: the running server, None where none runs.
        who: user or flow run, for the journal; the user of this process by default.
        note: called with the name of each step once it is done; see `lobsmith.release.repository.crash_points`.
    """

    workspace: Workspace
    params: Params
    server: Server | None = None
    who: str | None = None
    note: Note | None = None

    @property
    def repository(self) -> Repository:
        """The models and versions of the workspace, trusting the keys that it trusts."""
        return Repository.of(self.workspace)

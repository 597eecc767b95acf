"""What publishing needs of a running model server; `lobsmith.serving` has the real one."""

from collections.abc import Sequence
from typing import Protocol


class Server(Protocol):
    """A server that serves the repository."""

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

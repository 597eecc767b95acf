"""A project's files as shipped, and the check that a folder is a project."""

from importlib.resources import files
from pathlib import Path

from lobsmith.errors import ProjectError
from lobsmith.workspace import Workspace

SHIPPED = Path(str(files("lobsmith.project") / "files"))
"""Files of a new project; in the repository, most are links to its own."""


def require_project(workspace: Workspace) -> None:
    """Check that a folder is a project: it has parameters, or at least state.

    Raises:
        ProjectError: it is none.
    """
    if not workspace.params.exists() and not workspace.home.is_dir():
        root = workspace.root
        why = "no params.yaml in it" if root.is_dir() else "no such folder"
        raise ProjectError(f"{root} is no project, {why}: `lobsmith init {root}` makes it one, --root names another")


def params_file(workspace: Workspace) -> Path:
    """Return the parameters of a project, outside of one those shipped."""
    return workspace.params if workspace.params.exists() else SHIPPED / workspace.params.name

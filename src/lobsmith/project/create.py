"""Creates a project: parameters, deployments and stages as shipped, a README, and what Git and DVC leave out."""

from pathlib import Path

from lobsmith.errors import ProjectError
from lobsmith.project.project import SHIPPED

_OWN = ("params.yaml", "prefect.yaml", "dvc.yaml")
"""Where one of them is present, nothing is written."""
_PLACES = {
    "params.yaml": "params.yaml",
    "prefect.yaml": "prefect.yaml",
    "dvc.yaml": "dvc.yaml",
    "README.md": "README.md",
    "dvc.config": ".dvc/config",
    "dvc.gitignore": ".dvc/.gitignore",
    ".dvcignore": ".dvcignore",
}
"""Place in the project by name in the package."""
_WITHOUT_GIT = "    no_scm = true\n"
"""The end of DVC's configuration."""


def create_project(folder: Path) -> list[str]:
    """Make a folder a project; it may be there, with other files, which stay.

    Args:
        folder: of the project.

    Returns:
        The written files, relative to the folder.

    Raises:
        ProjectError: the folder has files of a project, or cannot be written.
    """
    present = [name for name in _OWN if (folder / name).exists()]
    if present:
        raise ProjectError(
            f"{folder} has {', '.join(present)} already; nothing was written: choose another folder, or move them"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [*(place for name, place in _PLACES.items() if _copy(name, folder / place)), *_ignore(folder)]
    except OSError as error:
        raise ProjectError(f"{folder}: cannot be made a project: {error.strerror}: choose another folder") from error


def _copy(name: str, target: Path) -> bool:
    if target.exists():
        return False
    content = (SHIPPED / name).read_text()
    if name == "dvc.config" and not _in_git(target):
        content += _WITHOUT_GIT
    target.parent.mkdir(exist_ok=True)
    target.write_text(content)
    return True


def _ignore(folder: Path) -> list[str]:
    """Add what Git ignores to .gitignore; return it if it has changed."""
    path = folder / ".gitignore"
    before = path.read_text().splitlines() if path.exists() else []
    missing = [line for line in (SHIPPED / "gitignore").read_text().splitlines() if line not in before]
    if not missing:
        return []
    path.write_text("\n".join([*before, *missing, ""]))
    return [path.name]


def _in_git(path: Path) -> bool:
    return any((parent / ".git").exists() for parent in path.resolve().parents)

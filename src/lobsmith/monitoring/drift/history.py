"""What every look for drift found: a line each in the model's history, beside the folders of their reports.

.lobsmith/drift/reports/<model>/looks.jsonl      a line a look, the oldest first
.lobsmith/drift/reports/<model>/<UTC time>/      its page, the same as JSON, and Evidently's report
"""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from msgspec import UNSET, Struct, UnsetType

from lobsmith import jsonl
from lobsmith.drift.verdict import DriftCheck, Finding, Kind
from lobsmith.errors import DataError
from lobsmith.files import exclusive_lock
from lobsmith.params import DriftReportParams
from lobsmith.units import NS_PER_MS, NS_PER_S
from lobsmith.workspace import Workspace

PAGE = "drift.html"
CONTENT = "drift.json"
EVIDENTLY_PAGE = "evidently.html"
EVIDENTLY_JSON = "evidently.json"

_INDEX = "looks.jsonl"
_LOCK_DEADLINE_S = 10.0


class Found(Struct, frozen=True, kw_only=True):
    """What a look found of one kind of drift; as in `DriftVerdict`.

    `value` is what later looks are compared with: of answers the statistic beside those before. `beside_training` is
    what they are compared with as long as looks are few; unset where the version was published without.
    """

    kind: Kind
    finding: Finding
    value: float | None = None
    p_value: float | None = None
    level: float = 0.0
    recent_from_ns: int | None = None
    recent_until_ns: int | None = None
    beside_training: float | UnsetType = UNSET


class PastCheck(Struct, frozen=True, kw_only=True):
    """A look in the history.

    Attributes:
        looked_ns: when, UTC.
        version: that was active.
        instrument: `venue:symbol`.
        folder: where its reports lie or lay, beside the history.
        found: of each kind.
        evidently_failed: why there is no report of Evidently; None where there is one.
    """

    looked_ns: int
    version: int
    instrument: str
    folder: str
    found: tuple[Found, ...]
    evidently_failed: str | None = None

    def of(self, kind: Kind) -> Found | None:
        """Return what was found of a kind, None where it was not looked for."""
        return next((one for one in self.found if one.kind is kind), None)


def as_line(check: DriftCheck, folder: str, evidently_failed: str | None) -> PastCheck:
    """Return a look as the history keeps it."""
    found = tuple(
        Found(
            kind=one.kind,
            finding=one.finding,
            value=one.value if one.beside_training is UNSET else _set(one.beside_before),
            p_value=one.p_value,
            level=one.level,
            recent_from_ns=one.recent_from_ns,
            recent_until_ns=one.recent_until_ns,
            beside_training=one.beside_training,
        )
        for one in check.verdicts
    )
    return PastCheck(
        looked_ns=check.looked_ns,
        version=check.version,
        instrument=check.instrument,
        folder=folder,
        found=found,
        evidently_failed=evidently_failed,
    )


def _set(value: float | UnsetType) -> float | None:
    return None if value is UNSET else value


def reports(workspace: Workspace, model: str) -> Path:
    """Return where a model's history and the folders of its reports lie."""
    return workspace.drift / "reports" / model


def new_folder(workspace: Workspace, check: DriftCheck) -> Path:
    """Make the folder for the reports of a look, named after its time.

    Raises:
        DataError: it cannot be made.
    """
    time = datetime.fromtimestamp(check.looked_ns // NS_PER_S, UTC)
    stamp = f"{time:%Y%m%dT%H%M%S}.{check.looked_ns // NS_PER_MS % 1000:03d}Z"
    root = reports(workspace, check.model)
    try:
        root.mkdir(parents=True, exist_ok=True)
        for name in (stamp, *(f"{stamp}-{turn}" for turn in range(2, 100))):
            with suppress(FileExistsError):
                (root / name).mkdir()
                return root / name
    except OSError as error:
        raise DataError(f"{root}: {error.strerror}; the look for drift has no report") from error
    raise DataError(f"{root / stamp}: a hundred looks of one moment; look less often")


def add(workspace: Workspace, model: str, line: PastCheck, params: DriftReportParams) -> None:
    """Add a look to the history, and forget the oldest lines and reports.

    Raises:
        DataError: the history cannot be written.
    """
    root = reports(workspace, model)
    path = root / _INDEX
    try:
        with exclusive_lock(root / "looks.lock", _LOCK_DEADLINE_S):
            jsonl.append(path, line)
            kept = read(workspace, model)
            # Rewritten only now and then: a whole history a look would wear the disk for nothing.
            if len(kept) > params.keep_looks * 1.1 + 1:
                jsonl.rewrite(path, kept[-params.keep_looks :])
            _forget(root, params)
    except TimeoutError as error:
        raise DataError(f"{path}: locked for {_LOCK_DEADLINE_S:g} s; end the process that holds it") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; the look for drift is not in the history") from error


def read(workspace: Workspace, model: str) -> list[PastCheck]:
    """Return the history, the oldest look first; a line that a crash cut short is left out.

    Raises:
        DataError: it cannot be read.
    """
    path = reports(workspace, model) / _INDEX
    try:
        return sorted(jsonl.read(path, PastCheck), key=lambda one: one.looked_ns)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; the history of looks for drift cannot be read") from error


def newest(lines: Sequence[PastCheck], at_ns: int | None = None) -> PastCheck | None:
    """Return the newest look of a history, or the newest at a time; None where there is none."""
    return next((one for one in reversed(lines) if at_ns is None or one.looked_ns <= at_ns), None)


def _forget(root: Path, params: DriftReportParams) -> None:
    # Names are times. A folder that a crash left without its line goes with its age, like any other.
    folders = sorted((one for one in root.iterdir() if one.is_dir()), reverse=True)
    for folder in folders[params.keep_pages :]:
        shutil.rmtree(folder, ignore_errors=True)
    for folder in folders[params.keep_evidently : params.keep_pages]:
        for name in (EVIDENTLY_PAGE, EVIDENTLY_JSON):
            (folder / name).unlink(missing_ok=True)

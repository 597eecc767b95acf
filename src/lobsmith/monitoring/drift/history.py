"""History of drift checks, beside the folders of their reports.

.lobsmith/drift/reports/<model>/looks.jsonl      a line for each check, the oldest first
.lobsmith/drift/reports/<model>/<UTC time>/      its page, the same as JSON, and Evidently's report
"""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from msgspec import UNSET, Struct, UnsetType, field

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


class PastVerdict(Struct, frozen=True, kw_only=True):
    """Result of a past check for one kind of drift; as in `DriftVerdict`.

    Later checks are compared with `value` (of answers the statistic beside earlier answers), or with `beside_training`
    while checks are few; that is unset where the version was published without a null distribution.
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
    """A check in the history.

    Attributes:
        looked_ns: UTC.
        version: active then.
        instrument: `venue:symbol`.
        folder: of its reports, beside the history; it may have been deleted.
        evidently_failed: why there is no report of Evidently, else None.
    """

    looked_ns: int
    version: int
    instrument: str
    folder: str
    verdicts: tuple[PastVerdict, ...] = field(name="found")
    evidently_failed: str | None = None

    def of(self, kind: Kind) -> PastVerdict | None:
        """Return the result for a kind, None where it was not checked."""
        return next((verdict for verdict in self.verdicts if verdict.kind is kind), None)


def as_line(check: DriftCheck, folder: str, evidently_failed: str | None) -> PastCheck:
    """Return a check as the history's line."""
    verdicts = tuple(
        PastVerdict(
            kind=verdict.kind,
            finding=verdict.finding,
            value=verdict.value if verdict.beside_training is UNSET else _set(verdict.beside_before),
            p_value=verdict.p_value,
            level=verdict.level,
            recent_from_ns=verdict.recent_from_ns,
            recent_until_ns=verdict.recent_until_ns,
            beside_training=verdict.beside_training,
        )
        for verdict in check.verdicts
    )
    return PastCheck(
        looked_ns=check.looked_ns,
        version=check.version,
        instrument=check.instrument,
        folder=folder,
        verdicts=verdicts,
        evidently_failed=evidently_failed,
    )


def _set(value: float | UnsetType) -> float | None:
    return None if value is UNSET else value


def reports(workspace: Workspace, model: str) -> Path:
    """Return the folder of a model's history and reports."""
    return workspace.drift / "reports" / model


def new_folder(workspace: Workspace, check: DriftCheck) -> Path:
    """Create the folder for a check's reports, named after its time.

    Raises:
        DataError: it cannot be created.
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
        raise DataError(f"{root}: {error.strerror}; the drift check has no report") from error
    raise DataError(f"{root / stamp}: a hundred checks at one time; check less often")


def add(workspace: Workspace, model: str, line: PastCheck, params: DriftReportParams) -> None:
    """Add a check to the history, and delete the oldest lines and reports.

    Raises:
        DataError: the history cannot be written.
    """
    root = reports(workspace, model)
    path = root / _INDEX
    try:
        with exclusive_lock(root / "looks.lock", _LOCK_DEADLINE_S):
            jsonl.append(path, line)
            kept = read(workspace, model)
            # Rewritten only now and then, to spare the disk.
            if len(kept) > params.keep_looks * 1.1 + 1:
                jsonl.rewrite(path, kept[-params.keep_looks :])
            _forget(root, params)
    except TimeoutError as error:
        raise DataError(f"{path}: locked for {_LOCK_DEADLINE_S:g} s; end the process that holds it") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; the drift check is not in the history") from error


def read(workspace: Workspace, model: str) -> list[PastCheck]:
    """Return the history, the oldest check first, without torn lines.

    Raises:
        DataError: it cannot be read.
    """
    path = reports(workspace, model) / _INDEX
    try:
        return sorted(jsonl.read(path, PastCheck), key=lambda line: line.looked_ns)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; the history of drift checks cannot be read") from error


def newest(lines: Sequence[PastCheck], at_ns: int | None = None) -> PastCheck | None:
    """Return the newest check of a history, or the newest at a time; None where there is none."""
    return next((line for line in reversed(lines) if at_ns is None or line.looked_ns <= at_ns), None)


def _forget(root: Path, params: DriftReportParams) -> None:
    # Names are times; a folder without line (crash) is deleted by its age alike.
    folders = sorted((folder for folder in root.iterdir() if folder.is_dir()), reverse=True)
    for folder in folders[params.keep_pages :]:
        shutil.rmtree(folder, ignore_errors=True)
    for folder in folders[params.keep_evidently : params.keep_pages]:
        for name in (EVIDENTLY_PAGE, EVIDENTLY_JSON):
            (folder / name).unlink(missing_ok=True)

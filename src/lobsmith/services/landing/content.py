"""Content of the landing page, also `/status.json`: a part that cannot be read holds its error instead."""

from enum import StrEnum

from msgspec import Struct


class Tone(StrEnum):
    """How a fact is meant: all well, missing or unknown, wrong."""

    GOOD = "good"
    MISSING = "missing"
    WRONG = "wrong"


class Trouble(Struct, frozen=True):
    """Why a part cannot be shown, in one line."""

    error: str
    tone: Tone = Tone.WRONG


class ModeLine(Struct, frozen=True, kw_only=True):
    """The mode of a model; `detail` where it is stale or held by hand."""

    mode: str
    since_ns: int
    reason: str
    checked_ns: int | None
    detail: str
    tone: Tone


class VersionLine(Struct, frozen=True, kw_only=True):
    """A listed version; `role` is what it is for."""

    version: int
    role: str
    created_ns: int | None
    ready: bool | None


class Serving(Struct, frozen=True, kw_only=True):
    """The active version of a production model.

    Attributes:
        version: None where no version is listed.
        since_ns: start of its service, UTC.
        ready: whether Triton answers with it; None where Triton cannot be asked.
        why_unready: one line; without a version, why it cannot be read.
        fallback: version that a rollback would return to.
        candidate: version beside it, under shadow evaluation.
        instruments: `venue:symbol` that it was trained on.
        state: clients and their rows.
        mode: None before the first drift check.
        versions: the listed ones, the newest first.
    """

    model: str
    version: int | None = None
    since_ns: int | None = None
    ready: bool | None = None
    why_unready: str = ""
    fallback: int | None = None
    candidate: int | None = None
    instruments: tuple[str, ...] = ()
    state: str = ""
    state_tone: Tone = Tone.MISSING
    mode: ModeLine | None = None
    versions: tuple[VersionLine, ...] = ()


class AlertLine(Struct, frozen=True, kw_only=True):
    """A firing alert."""

    since_ns: int
    name: str
    about: str
    message: str
    tone: Tone


class HorizonLine(Struct, frozen=True, kw_only=True):
    """Accuracy and log-loss (nats) at one horizon; of the fallback None where it was not asked about these rows."""

    horizon_ms: int
    rows: int
    accuracy: float | None
    log_loss: float | None
    fallback_accuracy: float | None
    fallback_log_loss: float | None
    base_log_loss: float | None


class AccuracyLine(Struct, frozen=True, kw_only=True):
    """The newest rows of one instrument, of live sessions or of `source`."""

    model: str
    version: int
    fallback: int | None
    instrument: str
    source: str
    rows: int
    answered: int
    until_ns: int
    horizons: tuple[HorizonLine, ...]


class HistoryLine(Struct, frozen=True, kw_only=True):
    """A journaled change of a model's versions."""

    time_ns: int
    action: str
    model: str
    version: int | None
    version_from: int | None
    actor: str
    reason: str
    tone: Tone | None = None


class ReportLine(Struct, frozen=True, kw_only=True):
    """The newest report of a kind, written at `time_ns` of the machine; without one `summary` says what writes it."""

    kind: str
    summary: str
    tone: Tone | None
    path: str | None = None
    time_ns: int | None = None


class RunLine(Struct, frozen=True, kw_only=True):
    """The next run of a deployment; times in UTC of the machine."""

    deployment: str
    due_ns: int | None
    last: str | None


class ServiceLine(Struct, frozen=True, kw_only=True):
    """A service of `lobsmith up` with a page of its own."""

    name: str
    address: str | None
    state: str
    tone: Tone


class Snapshot(Struct, frozen=True, kw_only=True):
    """The page at one time.

    Attributes:
        now_ns: workspace's time, UTC; that of all times but those of `reports` and `next_runs`.
        machine_ns: machine's time, UTC.
        headline: the answer in one sentence.
    """

    now_ns: int
    machine_ns: int
    headline: str
    tone: Tone
    serving: tuple[Serving, ...] | Trouble
    alerts: tuple[AlertLine, ...] | Trouble
    accuracy: tuple[AccuracyLine, ...] | Trouble
    history: tuple[HistoryLine, ...] | Trouble
    reports: tuple[ReportLine, ...] | Trouble
    next_runs: tuple[RunLine, ...] | Trouble
    services: tuple[ServiceLine, ...] | Trouble

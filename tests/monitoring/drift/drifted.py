"""A drift check with findings of every kind, and rows and answers for it."""

import msgspec
import numpy as np

from lobsmith.drift.reference import RawRows
from lobsmith.drift.verdict import DriftCheck, DriftVerdict, FeatureShift, Finding, Kind
from lobsmith.features.definitions import COUNT, NAMES
from lobsmith.monitoring.drift import history
from lobsmith.monitoring.drift.content import Content, Evidently, Happening, PageChange
from lobsmith.monitoring.drift.evidently import Side, project_of
from lobsmith.monitoring.drift.page import drift_since
from lobsmith.monitoring.drift.report import losses_over_time
from lobsmith.monitoring.mode.machine import Mode, ModeChange
from lobsmith.online.answers import Answers
from lobsmith.params import Params
from lobsmith.workspace import Workspace

S = 1_000_000_000
NOW_NS = 1_772_374_980 * S
"""2026-03-01 14:23 UTC."""
MODEL, VERSION, INSTRUMENT = "lob", 20260301093000, "binance-spot:BTCUSDT"
HORIZONS = (50, 1000)
SHIFTED = {"spread": 2.0, "event_rate": -1.5, "bid_size_1": 1.0}
"""Features that have moved, in deviations."""


def rows(count: int, end_ns: int, *, shift: dict[str, float] | None = None, seed: int = 0) -> RawRows:
    """Slow and fast noise, with an event each 500 ms."""
    generator = np.random.default_rng(seed)
    noise = generator.normal(size=(count, COUNT))
    raw = (noise + 0.3 * np.cumsum(noise, axis=0) / np.sqrt(np.arange(1, count + 1))[:, np.newaxis]).astype(np.float32)
    for name, by in (shift or {}).items():
        raw[:, NAMES.index(name)] += by
    time_ns = end_ns - np.arange(count, dtype=np.int64)[::-1] * (S // 2)
    return RawRows(time_ns, np.zeros(count, np.int64), raw)


def answers(count: int, end_ns: int, *, up: float = 1.0, unknown: int = 5, seed: int = 0) -> Answers:
    """Calibrated probabilities, tilted to up, and what came true; the newest outcomes are unknown yet."""
    generator = np.random.default_rng(seed)
    p = generator.dirichlet([1.0, 2.0, up], (count, len(HORIZONS))).astype(np.float32)
    labels = (generator.random((count, len(HORIZONS), 1)) > np.cumsum(p, axis=-1)).sum(axis=-1).clip(0, 2)
    labels[count - unknown :] = -1
    return Answers(
        model=MODEL,
        version=VERSION,
        time_ns=end_ns - np.arange(count, dtype=np.int64)[::-1] * (S // 2),
        segment=np.zeros(count, np.int64),
        labels=labels.astype(np.int8),
        probabilities=p,
        latency_ns=np.full(count, 800_000, np.int64),
        reasons={},
        horizons_ms=HORIZONS,
    )


def sides(count: int = 1000, recent: int = 400) -> tuple[Side, Side]:
    reference_end = NOW_NS - 5 * 3600 * S
    return (
        Side(rows(count, reference_end), answers(count, reference_end, seed=1)),
        Side(rows(recent, NOW_NS, shift=SHIFTED, seed=2), answers(recent, NOW_NS, up=1.6, seed=3)),
    )


def moved(name: str, by: float, importance: float | None, *, seed: int = 0) -> FeatureShift:
    """How a feature of deviation 1 has moved, binned at deciles."""
    generator = np.random.default_rng(seed)
    then, now = generator.normal(size=5000), generator.normal(by, 1.2, 600)
    edges = np.quantile(then, np.linspace(0, 1, 11))
    reference, recent = (
        np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0] / len(values) for values in (then, now)
    )
    psi = float(((recent - reference) * np.log((recent + 1e-4) / (reference + 1e-4))).sum())
    return FeatureShift(
        name=name,
        importance=importance,
        psi=psi,
        wasserstein=abs(by),
        edges=tuple(edges.tolist()),
        reference=tuple(reference.tolist()),
        recent=tuple(recent.tolist()),
    )


def covariate(finding: Finding = Finding.DRIFT, value: float = 0.87, p_value: float | None = 0.024) -> DriftVerdict:
    null = np.random.default_rng(4).beta(60, 50, 40)
    return DriftVerdict(
        kind=Kind.COVARIATE,
        finding=finding,
        reason="no past pair of 40 was told apart as well" if finding is Finding.DRIFT else "as the past",
        value=value,
        p_value=p_value,
        level=0.05,
        past=40,
        null=tuple(null.tolist()),
        reference_from_ns=NOW_NS - 6 * 3600 * S,
        reference_until_ns=NOW_NS - 5 * 3600 * S,
        recent_from_ns=NOW_NS - 300 * S,
        recent_until_ns=NOW_NS,
        reference_rows=7200,
        recent_rows=600,
        moved=(
            moved("spread", 2.0, 0.12, seed=1),
            moved("event_rate", -1.5, 0.07, seed=2),
            moved("bid_size_1", 1.0, 0.02, seed=3),
            moved("ask_slope", 0.2, 0.0, seed=5),
        ),
    )


def prediction() -> DriftVerdict:
    return DriftVerdict(
        kind=Kind.PREDICTION,
        finding=Finding.INSUFFICIENT,
        reason="11 past pairs, 40 are needed",
        value=0.08,
        past=11,
        null=tuple(np.random.default_rng(6).gamma(2, 0.02, 11).tolist()),
        recent_from_ns=NOW_NS - 300 * S,
        recent_until_ns=NOW_NS,
        recent_rows=600,
        moved=(moved("probability of up at 50 ms", 0.4, None, seed=7),),
    )


def concept() -> DriftVerdict:
    return DriftVerdict(
        kind=Kind.CONCEPT,
        finding=Finding.MISSING,
        reason="3 outcomes are known, 200 are needed",
        recent_rows=3,
    )


def check(*verdicts: DriftVerdict, looked_ns: int = NOW_NS) -> DriftCheck:
    return DriftCheck(
        model=MODEL,
        version=VERSION,
        instrument=INSTRUMENT,
        looked_ns=looked_ns,
        verdicts=verdicts or (covariate(), prediction(), concept()),
        seconds=7.3,
    )


def earlier_checks(count: int, drifted: int) -> list[DriftCheck]:
    """Checks each five minutes before `NOW_NS`, the last ones with drift."""
    generator = np.random.default_rng(8)
    checks = []
    for back in range(count, 0, -1):
        p_value = round(float(generator.uniform(0.06, 1.0)), 3)
        of_rows = (
            covariate(value=float(generator.uniform(0.8, 0.9)))
            if back <= drifted
            else covariate(Finding.NO_DRIFT, float(generator.uniform(0.5, 0.63)), p_value)
        )
        checks.append(check(of_rows, prediction(), concept(), looked_ns=NOW_NS - back * 300 * S))
    return checks


CHANGES = (
    ModeChange(
        time_ns=NOW_NS - 12 * 300 * S,
        model=MODEL,
        version=VERSION,
        mode_from=Mode.NORMAL,
        mode_to=Mode.CONSERVATIVE,
        reason="covariate drift in one check",
        actor="monitor flow",
    ),
)
HAPPENINGS = (
    Happening(time_ns=NOW_NS - 12 * 300 * S + S, what="retrain", about="asked for, ahead of its schedule"),
    Happening(time_ns=NOW_NS - 600 * S, what="alert firing: drift", about="3 outcomes are known, 200 are needed"),
)


def content(drift_check: DriftCheck | None = None, count: int = 60, **changed) -> Content:
    """Content of the page of a check after others, the last dozen with drift."""
    drift_check = drift_check or check()
    earlier = tuple(history.as_line(before, str(before.looked_ns), None) for before in earlier_checks(count, 12))
    page_content = Content(
        check=drift_check,
        since_ns=drift_since(drift_check, earlier),
        earlier=earlier,
        changes=tuple(PageChange.of(change) for change in CHANGES),
        happenings=HAPPENINGS,
        losses=losses_over_time([answers(30_000, NOW_NS, seed=1), answers(30_000, NOW_NS, up=2.0, seed=2)]),
        evidently=Evidently(
            page="evidently.html", failure=None, failures=0, checks=count + 1, project=project_of(MODEL), report=None
        ),
    )
    return msgspec.structs.replace(page_content, **changed)


def keep(workspace: Workspace, params: Params, page_content: Content) -> history.PastCheck:
    """Add a check to the history as a monitor run does, without plots."""
    folder = history.new_folder(workspace, page_content.check)
    (folder / history.PAGE).write_text("a page")
    (folder / history.CONTENT).write_bytes(msgspec.json.encode(page_content))
    line = history.as_line(page_content.check, folder.name, page_content.evidently.failure)
    history.add(workspace, page_content.check.model, line, params.drift_report)
    return line

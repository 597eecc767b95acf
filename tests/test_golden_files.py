"""Files on disk: what the first release wrote is still written byte for byte, and still read.

`tests/golden/` was written by that release, with the functions here.
"""

import gzip
import itertools
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from lobsmith import lease
from lobsmith.drift.null_distribution import DriftedWindow, MeasuredPair, PastStore
from lobsmith.drift.verdict import DriftCheck, DriftVerdict, Finding, Kind
from lobsmith.features.definitions import COUNT
from lobsmith.market.instrument import Instrument
from lobsmith.monitoring import alerts
from lobsmith.monitoring.drift import history
from lobsmith.monitoring.drift.content import Content, Evidently, Happening, PageChange
from lobsmith.monitoring.log.raw_rows import raw_rows
from lobsmith.monitoring.log.reader import PredictionLog, answers
from lobsmith.monitoring.log.writer import LogWriter, Role, Source
from lobsmith.monitoring.mode import store
from lobsmith.monitoring.mode.hit_rates import HitRates
from lobsmith.monitoring.mode.machine import Mode, ModeChange
from lobsmith.params import load_params
from lobsmith.process import Process
from lobsmith.release.repository import intent, journal
from lobsmith.release.version.contract import WireContract
from lobsmith.release.version.manifest import Environment, Manifest, Origin, read_manifest, write_manifest
from lobsmith.release.version.signing import signer
from lobsmith.verdict import Verdict
from lobsmith.workspace import Workspace

GOLDEN = Path(__file__).parent / "golden"
PARAMS = load_params(Path(__file__).parents[1] / "params.yaml", {"modes.drift_looks": 1, "modes.paused_looks": 1})
TIME_NS = 1_772_374_980_000_000_000
PASSED = Verdict(gate="parity", passed=True, value=1e-7, threshold=1e-5, evidence={"rows": 200, "worst": "p_up"})
REFUSED = Verdict(gate="skill", passed=False, value=None, threshold=1.0)
ACTIONS = (
    journal.PUBLISHED,
    journal.PROMOTED,
    journal.REFUSED,
    journal.ROLLED_BACK,
    journal.RETIRED,
    journal.REJECTED,
    journal.QUARANTINED,
    journal.INTEGRITY_ERROR,
    journal.REPAIRED,
    journal.ROLLBACK_ACKNOWLEDGED,
)


def entry(number: int, action: str = journal.PUBLISHED, **changed: object) -> journal.Entry:
    fields = {
        "time_ns": TIME_NS + number,
        "action": action,
        "model": "lob",
        "version_from": number or None,
        "version_to": number + 1,
        "artifact_id": "a1" * 32,
        "actor": "retrain flow",
        "verdicts": (PASSED, REFUSED)[: number % 3],
        "reason": 'two\nlines, "quotes", Größe ≤ 5 €' if number % 2 else "",
    }
    return journal.Entry(**fields | changed)


def cut(path: Path, lost: int) -> None:
    """Leave the file as a writer that was killed in the middle of its last line does."""
    content = path.read_bytes()
    path.write_bytes(content[:-lost])


def write_journal(path: Path) -> None:
    """A line of each action; then torn lines, cut after a byte, in the middle, and before the line feed."""
    for number, action in enumerate(ACTIONS):
        journal.append(path, entry(number, action))
    journal.append(
        path, entry(20, journal.INTEGRITY_ERROR, model=journal.EVERYTHING, version_to=None, artifact_id=None)
    )
    last = 0
    for number, kept in enumerate((1, 100, -1), 30):
        start = path.stat().st_size
        journal.append(path, entry(number))
        whole = path.stat().st_size - start
        cut(path, whole - kept if kept > 0 else -kept)
        last = number
        journal.append(path, entry(number + 10))
    journal.append(path, entry(last + 20))
    journal.append(path, entry(last + 21))
    cut(path, 40)


JOURNALED = [
    *(entry(number, action) for number, action in enumerate(ACTIONS)),
    entry(20, journal.INTEGRITY_ERROR, model=journal.EVERYTHING, version_to=None, artifact_id=None),
    *(entry(number) for number in (40, 41, 32, 42, 52)),
]


def write_mode_journal(path: Path) -> None:
    for number, change in enumerate(CHANGES[:2]):
        journal.append(path, change)
        if number:
            cut(path, 60)
    journal.append(path, CHANGES[2])


CHANGES = [
    ModeChange(
        time_ns=TIME_NS + number,
        model="lob",
        version=20260301093000,
        mode_from=before,
        mode_to=after,
        reason="rows: drift; “spread”",
        findings={Kind.COVARIATE: Finding.DRIFT, Kind.CONCEPT: Finding.INSUFFICIENT},
        actor="monitor flow",
        held=number == 2,
    )
    for number, (before, after) in enumerate(itertools.pairwise([None, *Mode]))
]


def drift_verdict(kind: Kind, finding: Finding) -> DriftVerdict:
    return DriftVerdict(
        kind=kind,
        finding=finding,
        reason=f"why {finding}",
        value=0.87,
        p_value=0.0125 if finding is Finding.DRIFT else None,
        level=0.05,
        past=3,
        null=(0.5, 0.55, 0.6),
        recent_from_ns=TIME_NS - 1000,
        recent_until_ns=TIME_NS,
        reference_rows=7200,
        recent_rows=600,
    )


def drift_check(number: int) -> DriftCheck:
    finding = (Finding.NO_DRIFT, Finding.DRIFT, Finding.DRIFT)[number]
    return DriftCheck(
        model="lob",
        version=20260301093000,
        instrument="binance-spot:BTCUSDT",
        looked_ns=TIME_NS + number * 300_000_000_000,
        verdicts=(drift_verdict(Kind.COVARIATE, finding), drift_verdict(Kind.CONCEPT, Finding.MISSING)),
        seconds=7.25,
    )


LINES = [
    history.as_line(drift_check(number), f"folder-{number}", "too slow" if number else None) for number in range(3)
]


def write_drift_checks(path: Path) -> None:
    workspace = Workspace(path.parent)
    history.reports(workspace, "lob").mkdir(parents=True)
    index = history.reports(workspace, "lob") / "looks.jsonl"
    for number, line in enumerate(LINES):
        history.add(workspace, "lob", line, PARAMS.drift_report)
        if number == 1:
            index.write_bytes(index.read_bytes() + b'{"looked_ns": 17')
    path.write_bytes(index.read_bytes())


CONTENT = Content(
    check=drift_check(2),
    since_ns=drift_check(1).looked_ns,
    earlier=tuple(LINES[:2]),
    changes=(
        PageChange(time_ns=TIME_NS, before=None, after="normal", reason="the first look"),
        PageChange(time_ns=TIME_NS + 1, before="normal", after="conservative", reason="rows: drift; “spread”"),
    ),
    happenings=(Happening(time_ns=TIME_NS, what="retrain", about="asked for"),),
    losses=(),
    evidently=Evidently(page=None, failure="too slow", failures=2, checks=3, project="a project", report=None),
)


def write_content(path: Path) -> None:
    path.write_bytes(msgspec.json.encode(CONTENT))


def write_alerts(path: Path, patch: pytest.MonkeyPatch) -> None:
    workspace = Workspace(path.parent)
    clock = itertools.count(TIME_NS)
    with patch.context() as patched:
        patched.setattr("lobsmith.monitoring.alerts.clock.now_ns", lambda: next(clock))
        alerts.fire(workspace, alerts.DRIFT, "lob", "version 1 is “conservative”")
        workspace.alerts.write_bytes(workspace.alerts.read_bytes() + b'{"time_ns":')
        alerts.fire(workspace, alerts.NO_ROWS, "lob", "no rows")
        alerts.resolve(workspace, alerts.DRIFT, "lob")
    path.write_bytes(workspace.alerts.read_bytes())


PAIRS = [
    MeasuredPair(key="00ff", gap=2, from_ns=TIME_NS + 5, auc=0.53125, distances=(0.25, 1.5)),
    DriftedWindow(from_ns=TIME_NS, until_ns=TIME_NS + 9),
]


def write_past(path: Path) -> None:
    PastStore(path).add(PAIRS)


def write_mode(path: Path) -> None:
    """The mode after a check without drift and two with it, and after an operator's decision."""
    workspace = Workspace(path.parent)
    rates = HitRates(
        version=20260301093000, horizons_ms=(100, 1000), edges=(0.5, 1.0), counts=((7,), (9,)), wins=((5,), (6,))
    )
    for number in range(3):
        store.apply(workspace, PARAMS, drift_check(number), rates, "monitor flow", now_ns=drift_check(number).looked_ns)
    path.write_bytes(store.state_path(workspace, "lob").read_bytes())


MANIFEST = Manifest(
    model="lob",
    version=20260301093000,
    artifact_id="b2" * 32,
    created_ns=TIME_NS,
    files={"model.onnx": "b2" * 32, "golden.npz": "c3" * 32},
    contract=WireContract(feature_count=43, state_size=512, horizons_ms=(100, 1000), definitions_sha256="d4" * 32),
    prime_rows=1000,
    instruments=(Instrument(venue="binance", symbol="BTCUSDT", tick_size=0.01, lot_size=0.00001),),
    precision="fp32",
    gpu_architecture=None,
    git_commit="e5" * 20,
    data_fingerprint="f6" * 32,
    params={"train": {"seed": 7, "epochs": 2}},
    mlflow_run_id="run",
    verdicts=(PASSED, REFUSED),
    metrics={"log_loss": 1.0625},
    environment=Environment(python="3.11.9", packages={"torch": "2.6.0"}, threads=2, instruction_set="avx2"),
    run="20260301T093000",
    promoted_from=Origin(model="lob_candidate", version=20260301090000),
)


def write_the_manifest(path: Path) -> None:
    workspace = Workspace(path.parent)
    write_manifest(path.parent, MANIFEST, signer(workspace))


HELD = lease.Held(
    token=TIME_NS,
    holder=Process(user="lob", pid=4711, started_ticks=123456789, host="desk", space="0f-boot pid:[4026531836]"),
    purpose="publish lob",
    ttl_s=30.0,
    expires_ns=TIME_NS + 30_000_000_000,
)


def write_intent(path: Path) -> None:
    workspace = Workspace(path.parent)
    intent.declare(workspace, intent.Intent(entry=entry(3, journal.PROMOTED), leaving=(1, 2)))
    workspace.intent.rename(path)


def write_lease(path: Path) -> None:
    path.touch()
    lease._write(path, HELD)


WRITTEN: dict[str, Callable[[Path], None]] = {
    "journal.jsonl": write_journal,
    "mode_journal.jsonl": write_mode_journal,
    "mode.json": write_mode,
    "looks.jsonl": write_drift_checks,
    "drift.json": write_content,
    "past.jsonl": write_past,
    "manifest.json": write_the_manifest,
    "intent.json": write_intent,
    "publish.lease": write_lease,
}


RAW = np.arange(4 * COUNT, dtype=np.float32).reshape(4, COUNT)


def write_log(path: Path) -> None:
    with LogWriter(path, (50, 1000), PARAMS.prediction_log) as log:
        log.begin("one", Source.LIVE, "binance:BTCUSDT", TIME_NS)
        row = np.arange(4)
        columns = {"row": row, "time_ns": TIME_NS + row, "asked_ns": TIME_NS + row + 9, "segment": 0}
        for role, p in ((Role.PRIMARY, 0.25), (Role.FALLBACK, 0.5)):
            log.add_predictions(
                "one",
                "lob",
                7 if role is Role.PRIMARY else 6,
                role,
                **columns,
                mid=1000 + row,
                latency_ns=20_000,
                rows=1,
                probabilities=np.full((4, 2, 3), p, np.float32),
                reasons=[None, None, "deadline", None],
            )
        log.add_outcomes("one", row[:3], np.array([[0, 2], [1, -1], [2, 1]], np.int8), TIME_NS + 99)
        log.add_raw("one", **columns, raw=RAW)
        log.add_probe("one", TIME_NS, ("lob", 7), 100, ("lob", 6), 200)
        log.add_drops("one", TIME_NS, "ring", 5)
        log.flush()


@pytest.mark.parametrize("name", WRITTEN)
def test_the_same_bytes_are_written(tmp_path: Path, name: str) -> None:
    WRITTEN[name](tmp_path / name)
    assert (tmp_path / name).read_bytes() == (GOLDEN / name).read_bytes()


def test_alerts_are_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_alerts(tmp_path / "alerts.jsonl", monkeypatch)
    assert (tmp_path / "alerts.jsonl").read_bytes() == (GOLDEN / "alerts.jsonl").read_bytes()


def laid(workspace_file: Path, name: str) -> None:
    workspace_file.parent.mkdir(parents=True, exist_ok=True)
    workspace_file.write_bytes((GOLDEN / name).read_bytes())


def test_journals_are_read(tmp_path: Path) -> None:
    assert journal.read(GOLDEN / "journal.jsonl") == JOURNALED
    assert (GOLDEN / "journal.jsonl").read_bytes().count(b" <torn>\n") == 2
    workspace = Workspace(tmp_path)
    laid(workspace.modes / "journal.jsonl", "mode_journal.jsonl")
    assert store.changes(workspace, "lob") == [CHANGES[0], CHANGES[2]]


def test_the_record_of_a_mode_is_read(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    laid(store.state_path(workspace, "lob"), "mode.json")
    record = store.read_mode(workspace, "lob")
    assert (record.mode, record.version, record.looked_ns) == (
        Mode.CONSERVATIVE,
        20260301093000,
        drift_check(2).looked_ns,
    )
    assert record.findings == {Kind.COVARIATE: Finding.DRIFT, Kind.CONCEPT: Finding.MISSING}
    assert (record.win_rates.horizons_ms, record.win_rates.wins) == ((100, 1000), ((5,), (6,)))


def test_lines_are_read(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    laid(history.reports(workspace, "lob") / "looks.jsonl", "looks.jsonl")
    assert history.read(workspace, "lob") == LINES
    laid(workspace.alerts, "alerts.jsonl")
    assert [(alert.name, alert.state) for alert in alerts.read(workspace)] == [
        (alerts.DRIFT, "firing"),
        (alerts.NO_ROWS, "firing"),
        (alerts.DRIFT, "resolved"),
    ]
    assert [alert.name for alert in alerts.firing(workspace)] == [alerts.NO_ROWS]
    store = PastStore(GOLDEN / "past.jsonl")
    assert store.measured("00ff", 2) == {TIME_NS + 5: PAIRS[0]}
    assert store.drifted(TIME_NS + 8, TIME_NS + 9)


def test_records_are_read(tmp_path: Path) -> None:
    assert read_manifest(GOLDEN) == MANIFEST
    workspace = Workspace(tmp_path)
    laid(workspace.intent, "intent.json")
    assert intent.pending(workspace) == intent.Intent(entry=entry(3, journal.PROMOTED), leaving=(1, 2))
    assert msgspec.json.decode((GOLDEN / "drift.json").read_bytes(), type=Content) == CONTENT
    assert lease._read(GOLDEN / "publish.lease") == HELD


def test_a_prediction_log_is_read_and_continued(tmp_path: Path) -> None:
    path = tmp_path / "lob.db"
    path.write_bytes(gzip.decompress((GOLDEN / "predictions.db.gz").read_bytes()))
    with LogWriter(path, (50, 1000), PARAMS.prediction_log) as log:
        log.begin("two", Source.REPLAY, "binance:BTCUSDT", TIME_NS + 1)
        log.flush()
    with PredictionLog(path) as log:
        sessions = [(session["session"], session["source"]) for session in log.sessions()]
        assert sessions == [("two", "replay"), ("one", "live")]
        assert [(stream.model, stream.version, stream.role) for stream in log.streams()] == [
            ("lob", 6, Role.FALLBACK),
            ("lob", 7, Role.PRIMARY),
        ]
        assert log.drops() == {"ring": 5}
        first = answers(log, "lob", 7)
        rows = raw_rows(log, ["one"], every_ms=1)
    assert first.labels.tolist() == [[0, 2], [1, -1], [2, 1], [-1, -1]]
    assert (first.probabilities == 0.25).all()
    assert first.reasons == {"deadline": 1}
    assert rows.raw.tolist() == RAW[:1].tolist()

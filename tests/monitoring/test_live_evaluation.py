"""What of a prediction log is evaluated: which sessions, which rows of them, for which version."""

import shutil

import numpy as np
import pytest

from lobsmith.errors import GateError, PredictionLogError
from lobsmith.monitoring.live_evaluation import evaluate_active, evaluate_candidate
from lobsmith.monitoring.log.reader import PredictionLog, answers, compared
from lobsmith.monitoring.log.writer import LogWriter, Role, Source, log_path
from lobsmith.online.ab_test import arm
from lobsmith.online.evidence import KEEP, REJECT, ROLL_BACK
from lobsmith.params import Params, load_params
from lobsmith.workspace import Workspace
from tests.small import params_file

S = 1_000_000_000
START_NS = 1_772_000_000 * S
FALLBACK, ACTIVE, CANDIDATE = ("lob", 1), ("lob", 2), ("lob_candidate", 7)
ROWS, STEP_NS = 6000, S // 10


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    shutil.copy(params_file(), tmp_path / "params.yaml")
    return Workspace(tmp_path)


def params(workspace: Workspace, **changes) -> Params:
    short = {"labels.horizons_ms": [1000], "train.horizon_weights": [1], "shadow.probes": 0, "paired.measure_s": 60}
    return load_params(workspace.params, short | {name.replace("__", "."): value for name, value in changes.items()})


def put(log: LogWriter, session: str, version, role, time_ns, chosen, *, seed=0, silent=0.0, latency_ns=1000) -> None:
    """Answers to chosen rows of a session; `silent` is the share of rows without one."""
    row = np.flatnonzero(chosen)
    generator = np.random.default_rng(seed)
    p = generator.dirichlet([8, 8, 8], len(row)).astype(np.float32)[:, np.newaxis]
    quiet = generator.random(len(row)) < silent
    p[quiet] = np.nan
    log.add_predictions(
        session,
        *version,
        role,
        row=row,
        time_ns=time_ns[row],
        asked_ns=START_NS + row * STEP_NS,
        segment=0,
        mid=1000,
        latency_ns=latency_ns,
        rows=1,
        probabilities=p,
        reasons=["deadline" if silent_row else None for silent_row in quiet],
    )


def session(log: LogWriter, name: str, time_ns) -> None:
    log.begin(name, Source.LIVE, "simulator:SIM", START_NS)
    labels = np.random.default_rng(9).integers(0, 3, (len(time_ns), 1)).astype(np.int8)
    log.add_outcomes(name, np.arange(len(time_ns)), labels, START_NS)


TIMES = START_NS + np.arange(ROWS) * STEP_NS
EVERY = np.ones(ROWS, bool)


def candidate_verdict(workspace: Workspace, settings: Params):
    evaluation = evaluate_candidate(workspace, settings, "lob", active=2, candidate=7, since_ns=0)
    assert evaluation is not None
    return evaluation.verdict


def monitored(workspace: Workspace, settings: Params, fallback: int | None = 1):
    evaluation = evaluate_active(
        workspace, settings, "lob", active=2, fallback=lambda _: fallback, since_ns=START_NS, now_ns=START_NS + 900 * S
    )
    assert evaluation is not None
    return evaluation.verdict


def test_a_split_candidate_that_often_fails_is_rejected_though_production_helped_out(workspace: Workspace) -> None:
    settings = params(workspace, shadow__share=0.5, shadow__arm_s=10)
    drawn = np.array([arm("simulator:SIM", int(t), block_s=10, share=0.5, salt="") for t in TIMES])
    failed = drawn & (np.arange(ROWS) % 10 == 5)
    with LogWriter.of(workspace, "lob", settings) as log:
        session(log, "split", TIMES)
        put(log, "split", ACTIVE, Role.PRIMARY, TIMES, ~drawn | failed)
        put(log, "split", CANDIDATE, Role.PRIMARY, TIMES, drawn & ~failed)
        # Another client splits nothing: whatever was drawn, production answers it.
        session(log, "plain", TIMES)
        put(log, "plain", ACTIVE, Role.PRIMARY, TIMES, EVERY)
    verdict = candidate_verdict(workspace, settings)
    assert (verdict.gate, verdict.decision, verdict.rows) == ("split test", REJECT, ROWS)
    assert verdict.unanswered_second == pytest.approx(failed.sum() / drawn.sum(), abs=0.01)
    with pytest.raises(GateError, match=r"shadow\.arm_s"):
        candidate_verdict(workspace, params(workspace, shadow__share=0.5, shadow__arm_s=30))


def test_the_same_traffic_through_two_clients_counts_once(workspace: Workspace) -> None:
    settings = params(workspace)
    with LogWriter.of(workspace, "lob", settings) as log:
        for name, shift in (("a", 0), ("b", 60 * S)):
            session(log, name, TIMES + shift)
            put(log, name, ACTIVE, Role.PRIMARY, TIMES + shift, EVERY)
            put(log, name, CANDIDATE, Role.CANDIDATE, TIMES + shift, EVERY, seed=1)
    assert candidate_verdict(workspace, settings).rows == ROWS + 600
    with PredictionLog.of(workspace, "lob") as log:
        assert len(compared(log, ACTIVE, CANDIDATE).first.time_ns) == 2 * ROWS


def test_a_clock_that_is_set_back_ends_a_segment_and_hides_no_row(workspace: Workspace) -> None:
    settings = params(workspace)
    time_ns = TIMES - np.where(np.arange(ROWS) >= ROWS // 2, 200 * S, 0)
    with LogWriter.of(workspace, "lob", settings) as log:
        session(log, "a", time_ns)
        for seed, version in enumerate((FALLBACK, ACTIVE)):
            put(log, "a", version, Role.PRIMARY, time_ns, EVERY, seed=seed)
        put(log, "a", CANDIDATE, Role.CANDIDATE, time_ns, EVERY, seed=3)
    with PredictionLog.of(workspace, "lob") as log:
        assert len(np.unique(answers(log, *ACTIVE).segment)) == 2
    assert candidate_verdict(workspace, settings).rows == ROWS
    assert monitored(workspace, settings).rows == ROWS


def test_limits_are_for_what_the_version_did_as_the_active_one(workspace: Workspace) -> None:
    settings = params(workspace)
    earlier = np.arange(ROWS) < ROWS - 550
    with LogWriter.of(workspace, "lob", settings) as log:
        session(log, "a", TIMES)
        # The fallback until a moment ago: it was asked in chunks, and no client waited for its answers.
        put(log, "a", ACTIVE, Role.FALLBACK, TIMES, earlier, latency_ns=S)
        put(log, "a", ACTIVE, Role.PRIMARY, TIMES, ~earlier, seed=1)
    assert monitored(workspace, settings, fallback=None).decision == KEEP


def test_a_fallback_that_lags_does_not_hide_a_silent_version(workspace: Workspace) -> None:
    settings = params(workspace)
    mirrored = np.arange(ROWS) % 20 == 0
    with LogWriter.of(workspace, "lob", settings) as log:
        session(log, "a", TIMES)
        put(log, "a", ACTIVE, Role.PRIMARY, TIMES, EVERY, silent=0.3)
        put(log, "a", FALLBACK, Role.FALLBACK, TIMES, mirrored, seed=1)
    verdict = monitored(workspace, settings)
    assert (verdict.decision, "unanswered" in verdict.reason) == (ROLL_BACK, True)


def test_a_version_is_judged_on_instruments_that_it_and_its_fallback_were_trained_on(workspace: Workspace) -> None:
    settings = params(workspace)
    with LogWriter.of(workspace, "lob", settings) as log:
        session(log, "a", TIMES)
        put(log, "a", ACTIVE, Role.PRIMARY, TIMES, EVERY, silent=0.3)
        put(log, "a", FALLBACK, Role.FALLBACK, TIMES, EVERY, seed=1, silent=0.3)

    def judged(fallbacks, trained_on):
        return evaluate_active(
            workspace,
            settings,
            "lob",
            active=2,
            fallback=fallbacks.get,
            since_ns=START_NS,
            now_ns=START_NS + 900 * S,
            was_trained_on=trained_on.__contains__,
        )

    assert judged({"simulator:SIM": 1}, ["simulator:OTHER"]) is None
    beside, alone = (judged(version, ["simulator:SIM"]) for version in ({"simulator:SIM": 1}, {"simulator:OTHER": 1}))
    # The fallback, which leaves as many rows unanswered, excuses it; one of another market does not.
    assert (beside.verdict.decision, beside.fallback) == (KEEP, 1)
    assert (alone.verdict.decision, alone.fallback) == (ROLL_BACK, None)


@pytest.mark.parametrize("name", ["../lob", "lob/x", "lob_candidate", "lob_trt", ""])
def test_a_log_has_the_name_of_a_production_model(workspace: Workspace, name: str) -> None:
    with pytest.raises(PredictionLogError, match="production model"):
        log_path(workspace, name)

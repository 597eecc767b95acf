from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lobsmith.errors import GateError
from lobsmith.online.answers import Compared
from lobsmith.online.blocks import BlockRule
from lobsmith.online.evidence import PROMOTE, REJECT, WATCH, LiveVerdict
from lobsmith.online.shadow import evaluate_shadow
from lobsmith.verdict import Verdict
from tests.online.live_traffic import PROBES, S, answers, compared, params, silent, times, two, until

P = params()


def verdict_of(pair: Compared, p=P, **options) -> LiveVerdict:
    return evaluate_shadow(pair, p.shadow, p.paired, **options)


def test_a_better_candidate_is_promoted_and_a_worse_one_rejected() -> None:
    better, worse = verdict_of(two(2400, 0.02)), verdict_of(two(2400, -0.02))
    assert better.decision == PROMOTE
    assert better.difference == pytest.approx(-0.02, abs=0.005)
    assert better.low < better.difference < better.high < 0
    assert worse.decision == REJECT
    assert "worse" in worse.reason
    assert worse.low > 0


def test_nothing_is_decided_by_losses_before_the_minimum() -> None:
    pair = two(2400, 0.3)
    decided = [verdict_of(until(pair, rows)).decision for rows in range(0, len(pair.first.time_ns), 500)]
    first = decided.index(PROMOTE)
    assert set(decided[:first]) == {WATCH}
    early = verdict_of(until(pair, (first - 1) * 500))
    assert early.e_better > early.threshold
    assert early.blocks < P.shadow.minimum_blocks or early.blocks * early.block_s < P.shadow.minimum_s


def test_equal_versions_are_watched_and_rejected_at_the_maximum() -> None:
    pair = two(7300, 0.0, rate=2.0)
    assert verdict_of(until(pair, 10_000)).decision == WATCH
    last = verdict_of(pair)
    assert last.decision == REJECT
    assert "no better" in last.reason


def test_the_same_artifact_again_is_no_better() -> None:
    time_ns = times(7300, 2.0)
    same = answers(time_ns, 0.5)
    last = verdict_of(compared(same, same))
    assert (last.decision, last.e_better, last.difference) == (REJECT, 1.0, None)


def test_a_few_terrible_blocks_forbid_a_promotion() -> None:
    time_ns = times(2400)
    blunders = (time_ns - time_ns[0]) // (30 * S) % 15 == 7
    usual = 0.45 + 0.01 * np.sin(np.arange(len(time_ns)))
    pair = compared(answers(time_ns, usual), answers(time_ns, np.where(blunders, 5.0, 0.2)))
    verdict = verdict_of(pair, rule=BlockRule(30.0, 1.0, np.random.default_rng(0).normal(size=10)))
    assert verdict.e_better > verdict.threshold
    assert verdict.mean_difference > 0
    assert verdict.decision == WATCH


@pytest.mark.parametrize("quantile", [50, 99])
def test_a_slow_candidate_is_rejected_at_once_whatever_its_loss(quantile: int) -> None:
    slow = np.where(np.arange(len(PROBES)) % 100 < 100 - quantile + 5, 3 * PROBES, PROBES)
    verdict = verdict_of(until(replace(two(2400, 0.3), second_probe_ns=slow), 3000))
    assert verdict.decision == REJECT
    assert f"p{quantile}" in verdict.reason


def test_latencies_that_stray_are_not_slow() -> None:
    generator = np.random.default_rng(0)
    wild = [(50_000 * generator.pareto(1.5, 1000) + 50_000).astype(np.int64) for _ in range(2)]
    assert verdict_of(replace(two(2400, 0.05), first_probe_ns=wild[0], second_probe_ns=wild[1])).decision == PROMOTE


def test_without_probes_nothing_is_promoted() -> None:
    pair = replace(two(2400, 0.05), second_probe_ns=PROBES[:10])
    assert verdict_of(pair).decision == WATCH
    assert verdict_of(pair, params(shadow__probes=0)).decision == PROMOTE
    assert verdict_of(pair, params(shadow__maximum_s=2000)).decision == REJECT


def test_a_candidate_that_does_not_answer_is_rejected_at_once() -> None:
    pair = until(two(2400, 0.05), 1500)
    verdict = verdict_of(replace(pair, second=silent(pair.second, slice(0, 1500, 20))))
    assert verdict.decision == REJECT
    assert verdict.unanswered_second == pytest.approx(0.05)
    assert verdict.unanswered_reasons == {"deadline": 75}


def test_rows_that_production_did_not_answer_either_are_not_held_against_it() -> None:
    pair, rows = two(2400, 0.05), slice(0, None, 5)
    assert (
        verdict_of(replace(pair, first=silent(pair.first, rows), second=silent(pair.second, rows))).decision == PROMOTE
    )


def test_without_answers_the_candidate_is_only_watched_then_rejected() -> None:
    pair = two(7300, 0.1, rate=1.0)
    for odd in (
        replace(pair, first=silent(pair.first), second=silent(pair.second)),
        replace(pair, first=replace(pair.first, labels=np.full_like(pair.first.labels, -1))),
    ):
        verdict = verdict_of(odd)
        assert (verdict.decision, verdict.blocks, verdict.compared) == (REJECT, 0, 0)
        assert verdict_of(until(odd, 900)).decision == WATCH


def test_one_version_with_the_same_answer_at_every_row() -> None:
    pair = two(2400, 0.0)
    p = np.full_like(pair.second.probabilities, 1 / 3)
    verdict = verdict_of(replace(pair, second=replace(pair.second, probabilities=p)))
    assert verdict.decision == REJECT
    assert "worse" in verdict.reason


@given(st.integers(0, 40))
@settings(deadline=None, max_examples=15)
def test_hardly_any_rows(rows: int) -> None:
    assert verdict_of(until(two(100, 0.1), rows)).decision == WATCH


def test_a_measured_rule_saves_the_first_stretch() -> None:
    pair = two(1500, 0.05)
    fresh = verdict_of(pair)
    known = verdict_of(pair, rule=BlockRule(30.0, 1.0, np.array([0.0, 0.01, -0.01])))
    assert known.blocks > fresh.blocks
    assert known.block_s == 30.0


def test_the_verdict_is_plain_and_goes_through_json() -> None:
    live = verdict_of(two(2400, 0.3))
    verdict = live.as_verdict()
    assert (verdict.gate, verdict.passed, verdict.threshold) == ("shadow", True, 20.0)
    assert verdict.value == live.e_better
    assert msgspec.json.decode(msgspec.json.encode(verdict), type=Verdict) == verdict
    assert msgspec.json.decode(msgspec.json.encode(live), type=LiveVerdict) == live


def test_answers_to_other_rows_and_rows_out_of_order_are_refused() -> None:
    pair = two(100, 0.0)
    with pytest.raises(GateError, match="same rows"):
        verdict_of(replace(pair, second=until(pair, 50).second))
    back = replace(pair.first, time_ns=pair.first.time_ns[::-1])
    with pytest.raises(GateError, match="time goes back"):
        verdict_of(compared(back, back))


@pytest.mark.slow
def test_row_by_row_noise_with_a_memory_promotes_equals_no_more_often_than_alpha() -> None:
    runs, promoted = 200, 0
    for seed in range(runs):
        time_ns, generator = times(5400, 2.0, seed), np.random.default_rng(seed)
        keep, value, drift = np.exp(-0.5 / 5.0), 0.0, np.empty(len(time_ns))
        for i, step in enumerate(0.1 * generator.normal(size=len(time_ns))):
            drift[i] = value = keep * value + step
        pair = compared(answers(time_ns, np.full(len(time_ns), 1.0)), answers(time_ns, np.clip(1.0 + drift, 0.01, 9)))
        checked = range(2000, len(time_ns), 1500)
        promoted += any(verdict_of(until(pair, rows)).decision == PROMOTE for rows in checked)
    assert promoted / runs <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)


@pytest.mark.parametrize(("passed", "decision"), [(True, PROMOTE), (False, WATCH)])
def test_a_winner_in_another_market_than_its_training_window_is_watched_on(passed: bool, decision: str) -> None:
    evidence = {"finding": "drift", "reason": "spread has moved"}
    market = Verdict(gate="shadow drift", passed=passed, value=0.001, threshold=0.01, evidence=evidence)
    verdict = verdict_of(two(2400, 0.02)).beside_market((market,))
    assert (verdict.decision, verdict.market) == (decision, (market,))
    assert ("spread has moved" in verdict.reason) is not passed
    assert verdict_of(two(2400, -0.02)).beside_market((market,)).decision == REJECT

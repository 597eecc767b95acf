from dataclasses import replace

import numpy as np
import pytest

from lobsmith.online.answers import Answers, Compared
from lobsmith.online.evidence import KEEP, ROLL_BACK, LiveVerdict
from lobsmith.online.rollback import epoch_at, evaluate_rollback, without_fallback
from tests.online.live_traffic import PROBES, S, answers, compared, params, times, two, until

P = params()


def verdict_of(pair: Compared, **options) -> LiveVerdict:
    return evaluate_rollback(pair, P.rollback, P.paired, **options)


def second_with(pair: Compared, change, *, both: bool = False) -> Compared:
    """The newest 100 s of the active version, or of both, with other probabilities."""
    newest = pair.first.time_ns > pair.first.time_ns[-1] - 100 * S

    def changed(side: Answers) -> Answers:
        p = side.probabilities.copy()
        p[newest] = change(p[newest], side.labels[newest])
        return replace(side, probabilities=p)

    return replace(pair, first=changed(pair.first) if both else pair.first, second=changed(pair.second))


def to_nan(p, _):
    out = p.copy()
    out[::4] = np.nan
    return out


def to_infinity(p, _):
    out = p.copy()
    out[::50, 0, 0] = np.inf
    return out


def to_logits(p, _):
    return np.log(p)


def to_constant(p, _):
    return np.broadcast_to(p[:1], p.shape)


def to_saturated(p, labels):
    out = np.full_like(p, 1e-9)
    np.put_along_axis(out, np.maximum(labels, 0)[..., np.newaxis].astype(np.int64), 1.0, axis=2)
    return out


def to_wrong(p, labels):
    out = np.full_like(p, 0.01)
    wrong = (np.maximum(labels, 0) + 1) % 3
    np.put_along_axis(out, wrong[..., np.newaxis].astype(np.int64), 0.98, axis=2)
    return out


BAD = {
    "unanswered": to_nan,
    "no probabilities": to_infinity,
    "are no prob": to_logits,
    "never change": to_constant,
    "saturated": to_saturated,
    "log-loss": to_wrong,
}
CALM = two(900, 0.0, rate=10)


def test_a_version_as_good_as_its_fallback_is_kept() -> None:
    verdict = verdict_of(CALM)
    assert (verdict.decision, verdict.alarms) == (KEEP, ())
    assert verdict.blocks > P.rollback.minimum_blocks
    assert verdict.as_verdict().passed


@pytest.mark.parametrize("limit", BAD)
def test_each_limit_acts_at_once(limit: str) -> None:
    bad = second_with(CALM, BAD[limit])
    verdict = verdict_of(bad)
    assert verdict.decision == ROLL_BACK
    assert limit in verdict.reason
    assert not verdict.as_verdict().passed
    alone = verdict_of(without_fallback(bad.second))
    assert alone.decision == ROLL_BACK
    assert limit in alone.reason


@pytest.mark.parametrize("limit", BAD)
def test_what_the_fallback_does_too_is_no_reason_to_go_back(limit: str) -> None:
    verdict = verdict_of(second_with(CALM, BAD[limit], both=True))
    assert verdict.decision == KEEP
    assert limit in " ".join(verdict.alarms)


def test_slow_answers() -> None:
    slow = replace(CALM, second=replace(CALM.second, latency_ns=CALM.second.latency_ns * 200))
    assert verdict_of(slow).decision == ROLL_BACK
    busy = replace(slow, first_probe_ns=PROBES * 4000)
    assert verdict_of(busy).decision == KEEP
    assert verdict_of(busy).alarms


def test_a_version_that_became_worse_is_rolled_back_by_its_losses() -> None:
    verdict = verdict_of(two(900, -0.05))
    assert verdict.decision == ROLL_BACK
    assert verdict.difference == pytest.approx(0.05, abs=0.01)
    assert verdict.e_worse >= verdict.threshold


def test_a_regime_that_hurts_both_rolls_nothing_back() -> None:
    time_ns = times(1800, 10.0)
    generator = np.random.default_rng(0)
    level = np.where(time_ns - time_ns[0] > 900 * S, 2.5, 0.5)
    pair = compared(
        *(answers(time_ns, np.clip(level + 0.2 * generator.normal(size=len(time_ns)), 0.01, 9)) for _ in "ab")
    )
    verdict = verdict_of(pair)
    assert verdict.decision == KEEP
    assert "log-loss" in verdict.alarms[0]


def test_an_unlucky_stretch_rolls_nothing_back() -> None:
    time_ns = times(1800, 5.0)
    generator = np.random.default_rng(1)
    first, second = (0.5 + 0.1 * generator.normal(size=len(time_ns)) for _ in "ab")
    since = time_ns - time_ns[0]
    second = second + np.where((since > 1200 * S) & (since < 1290 * S), 0.2, 0.0)
    pair = compared(*(answers(time_ns, np.clip(loss, 0.01, 9)) for loss in (first, second)))
    decisions = {verdict_of(until(pair, rows)).decision for rows in range(2000, len(time_ns), 250)}
    assert decisions == {KEEP}


def test_a_difference_within_the_margin_is_no_reason() -> None:
    time_ns = times(1800, 5.0)
    pair = compared(answers(time_ns, 0.5), answers(time_ns, 0.5 + 0.5 * P.rollback.margin))
    verdict = verdict_of(pair)
    assert (verdict.decision, verdict.blocks > 20) == (KEEP, True)
    assert (
        verdict_of(compared(answers(time_ns, 0.5), answers(time_ns, 0.5 + 2 * P.rollback.margin))).decision == ROLL_BACK
    )


def test_a_market_that_stands_still_is_below_no_floor() -> None:
    time_ns = times(300, 10.0)
    still = answers(time_ns, 0.25 + 0.02 * np.sin(np.arange(len(time_ns))), labels=np.ones((len(time_ns), 2), np.int8))
    p = np.full_like(still.probabilities, 0.11)
    p[:, :, 1] = 0.78 + 0.01 * np.sin(np.arange(len(time_ns)))[:, np.newaxis]
    still = replace(still, probabilities=p)
    assert verdict_of(without_fallback(still)).decision == KEEP


def test_no_rows_and_few_rows_are_an_alarm_and_no_reason() -> None:
    for few in (until(CALM, 0), two(900, 0.0, rate=5)):
        verdict = verdict_of(few)
        assert verdict.decision == KEEP
        assert verdict.alarms
    # A window has not passed yet in which there could be more.
    for rows in (1, 100):
        verdict = verdict_of(until(CALM, rows))
        assert (verdict.decision, verdict.alarms) == (KEEP, ())
    unknown = replace(CALM, second=replace(CALM.second, labels=np.full_like(CALM.second.labels, -1)))
    assert verdict_of(unknown).decision == KEEP


def test_later_epochs_ask_for_more_evidence_and_all_together_for_alpha() -> None:
    assert epoch_at(1000, 999, 60.0) == (1, 1000)
    assert epoch_at(0, 59 * S, 60.0) == (1, 0)
    assert epoch_at(0, 121 * S, 60.0) == (3, 120 * S)
    spent = [1 / verdict_of(CALM, epoch=j).threshold for j in range(1, 6)]
    assert spent == sorted(spent, reverse=True)
    assert sum(1 / (j * (j + 1)) for j in range(1, 100_000)) == pytest.approx(1.0, abs=1e-4)
    assert spent[0] == pytest.approx(P.rollback.alpha / 2)


def test_a_fallback_that_is_asked_about_little_hides_nothing() -> None:
    pair = second_with(two(1800, 0.0, rate=20.0), to_nan)
    few = np.arange(len(pair.first.time_ns)) % 50 == 0
    thin = replace(pair, first=_some(pair.first, few), second=_some(pair.second, few))
    stopped = until(pair, len(few) // 2)
    for both in (thin, stopped):
        assert verdict_of(both).decision == KEEP
        assert "unanswered" in verdict_of(both, alone=pair.second).reason
        assert verdict_of(both, alone=pair.second).decision == ROLL_BACK


def test_a_clock_that_is_set_back_does_not_blind_the_limits() -> None:
    pair = second_with(two(1800, 0.0, rate=20.0), to_nan)
    place = len(pair.first.time_ns) - 3000
    time_ns = pair.first.time_ns - np.where(np.arange(len(pair.first.time_ns)) >= place, 600 * S, 0)
    segment = (np.arange(len(time_ns)) >= place).astype(np.int64)
    first, second = (replace(side, time_ns=time_ns, segment=segment) for side in (pair.first, pair.second))
    assert verdict_of(replace(pair, first=first, second=second)).decision == ROLL_BACK


def _some(side: Answers, rows: np.ndarray) -> Answers:
    arrays = ("time_ns", "segment", "labels", "probabilities", "latency_ns")
    return replace(side, **{name: getattr(side, name)[rows] for name in arrays})

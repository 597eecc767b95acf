import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from lobsmith.errors import GateError
from lobsmith.online.ab_test import arm, by_draw, evaluate_ab
from lobsmith.online.answers import Answers
from lobsmith.online.evidence import PROMOTE, REJECT, WATCH
from tests.online.live_traffic import S, answers, params, silent, times

P = params()
BLOCK = P.shadow.arm_s


def split(seconds: float, better_by: float, *, share: float = 0.5, seed: int = 0) -> tuple[Answers, Answers]:
    """Losses drift with the market; the candidate's are lower on average."""
    time_ns, generator = times(seconds, 2.0, seed), np.random.default_rng(seed)
    minutes = (time_ns - time_ns[0]) // (60 * S)
    market = 0.8 + np.cumsum(0.02 * generator.normal(size=minutes[-1] + 1))[minutes]
    for_candidate = np.array([arm("BTCUSDT", t, block_s=BLOCK, share=share, salt=str(seed)) for t in time_ns.tolist()])
    loss = np.clip(market - better_by * for_candidate + 0.2 * generator.normal(size=len(time_ns)), 0.01, 5)
    return (
        answers(time_ns[~for_candidate], loss[~for_candidate], seed=seed),
        answers(time_ns[for_candidate], loss[for_candidate], seed=seed, version=2),
    )


def test_the_share_is_kept_and_blocks_are_drawn_independently() -> None:
    drawn = np.array([arm("BTCUSDT", k * 60 * S, block_s=60, share=0.2, salt="x") for k in range(20_000)])
    assert drawn.mean() == pytest.approx(0.2, abs=4 * np.sqrt(0.16 / 20_000))
    assert np.corrcoef(drawn[1:], drawn[:-1])[0, 1] == pytest.approx(0, abs=4 / np.sqrt(20_000))
    for symbol, salt in (("ETHUSDT", "x"), ("BTCUSDT", "y")):
        other = np.array([arm(symbol, k * 60 * S, block_s=60, share=0.2, salt=salt) for k in range(20_000)])
        assert np.corrcoef(drawn, other)[0, 1] == pytest.approx(0, abs=4 / np.sqrt(20_000))


def test_all_rows_of_a_block_have_one_arm_and_shares_nest() -> None:
    start = 1_700_000_040 * S
    assert len({arm("A", start + k * S // 10, block_s=60, share=0.5, salt="") for k in range(600)}) == 1
    for k in range(500):
        small, large = (arm("A", k * 60 * S, block_s=60, share=share, salt="") for share in (0.1, 0.6))
        assert large or not small
    assert not any(arm("A", k * 60 * S, block_s=60, share=0.0, salt="") for k in range(100))


def test_arms_are_the_same_in_another_process() -> None:
    code = (
        "import json; from lobsmith.online.ab_test import arm;"
        "print(json.dumps([arm('BTCUSDT', k * 10**11, block_s=60, share=0.5, salt='s') for k in range(64)]))"
    )
    other = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert other == [arm("BTCUSDT", k * 10**11, block_s=60, share=0.5, salt="s") for k in range(64)]
    # And on another machine, another year.
    arms = "".join("01"[arm("BTCUSDT", k * 10**11, block_s=60, share=0.5, salt="s")] for k in range(32))
    assert arms == "10101100000110100101001111001101"


def test_a_better_candidate_is_promoted_and_a_worse_one_rejected() -> None:
    better = evaluate_ab(*split(7000, 0.05), P.shadow, P.paired)
    assert better.decision == PROMOTE
    assert better.difference == pytest.approx(-0.05, abs=0.03)
    assert evaluate_ab(*split(7000, -0.05), P.shadow, P.paired).decision == REJECT


def test_equal_versions_seldom_differ_though_losses_drift() -> None:
    settings = params(shadow__share=0.2).shadow
    runs = 60
    sure = sum(
        evaluate_ab(*split(5400, 0.0, share=0.2, seed=seed), settings, P.paired).e_better >= 20 for seed in range(runs)
    )
    assert sure / runs <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)


def test_blocks_that_both_answered_are_left_out() -> None:
    first, second = split(3000, 0.0)
    known = evaluate_ab(first, second, P.shadow, P.paired)
    mixed = replace(second, time_ns=second.time_ns.copy())
    mixed.time_ns[-1] = first.time_ns[first.time_ns < second.time_ns[-1]][-1]
    mixed = replace(mixed, time_ns=np.sort(mixed.time_ns))
    assert evaluate_ab(first, mixed, P.shadow, P.paired).left_out == known.left_out + 1


def test_limits_hold_here_too() -> None:
    first, second = split(3600, 0.05)
    slow = replace(second, latency_ns=second.latency_ns * 3)
    assert evaluate_ab(first, slow, P.shadow, P.paired).decision == REJECT
    assert evaluate_ab(first, silent(second, slice(0, None, 9)), P.shadow, P.paired).decision == REJECT


def test_one_arm_without_rows() -> None:
    first, second = split(900, 0.0)
    none = replace(
        second,
        **{name: getattr(second, name)[:0] for name in ("time_ns", "segment", "labels", "probabilities", "latency_ns")},
    )
    for a, b in ((first, none), (none, second), (none, none)):
        assert evaluate_ab(a, b, P.shadow, P.paired).decision == WATCH
    over = params(shadow__minimum_s=0, shadow__maximum_s=300).shadow
    assert evaluate_ab(first, none, over, P.paired).decision == REJECT


def test_traffic_that_was_not_split_is_refused() -> None:
    first, second = split(100, 0.0)
    with pytest.raises(GateError, match=r"shadow\.share"):
        evaluate_ab(first, second, params(shadow__share=0.0).shadow, P.paired)


def test_rows_that_production_answered_for_the_candidate_count_as_its_unanswered_ones() -> None:
    settings = params(shadow__salt="0").shadow
    first, second = split(3600, 0.05)
    honest = evaluate_ab(first, second, settings, P.paired)
    assert evaluate_ab(*by_draw(first, second, "BTCUSDT", settings), settings, P.paired) == honest
    kept = np.arange(len(second.time_ns)) % 10 > 0
    kept[:1] = True
    missed = replace(first, **{name: _merged(first, second, ~kept, name) for name in ARRAYS})
    left = replace(second, **{name: getattr(second, name)[kept] for name in ARRAYS})
    assert evaluate_ab(missed, left, settings, P.paired).unanswered_second == 0.0
    verdict = evaluate_ab(*by_draw(missed, left, "BTCUSDT", settings), settings, P.paired)
    assert verdict.unanswered_second == pytest.approx((~kept).mean())
    assert verdict.unanswered_reasons == {"answered by production": int((~kept).sum())}
    assert (verdict.decision, "unanswered" in verdict.reason) == (REJECT, True)
    # Before it was there for the first time nothing was its fault.
    late = replace(left, **{name: getattr(left, name)[-500:] for name in ARRAYS})
    assert evaluate_ab(*by_draw(first, late, "BTCUSDT", settings), settings, P.paired).unanswered_second == 0.0


def test_blocks_that_were_drawn_otherwise_are_refused() -> None:
    first, second = split(900, 0.0)
    with pytest.raises(GateError, match=r"shadow\.share"):
        by_draw(first, second, "BTCUSDT", params(shadow__salt="0", shadow__share=0.1).shadow)


ARRAYS = ("time_ns", "segment", "labels", "probabilities", "latency_ns")


def _merged(first: Answers, second: Answers, chosen: np.ndarray, name: str) -> np.ndarray:
    """Rows of both, in the order of time."""
    order = np.argsort(np.concatenate([first.time_ns, second.time_ns[chosen]]), kind="stable")
    return np.concatenate([getattr(first, name), getattr(second, name)[chosen]])[order]

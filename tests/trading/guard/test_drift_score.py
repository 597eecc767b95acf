import numpy as np
import pytest

from lobsmith.errors import DeadlineError
from lobsmith.params import GuardParams
from lobsmith.trading.guard.drift_score import LocalStatus, RawBlock, ScoreWatch
from tests.trading.scores import Scores

PARAMS = GuardParams(shortest=16, every_rows=4, alarms=2, of=3, calm=0.8, calm_blocks=3, silent_s=10)
BLOCK = 16
CALM, ALARM, UNKNOWN = LocalStatus


class Stream:
    """A stream that is scored whenever another block is due."""

    def __init__(self, scores: Scores) -> None:
        self.scores = scores
        self.watch = ScoreWatch("lob", PARAMS, 1.0)
        self.begin()

    def begin(self) -> None:
        self.block, self.time_ns = RawBlock(2, BLOCK, every_ms=1, shortest=BLOCK), 0

    def come(self, rows: int, version: int | None = 1) -> LocalStatus:
        for _ in range(rows):
            self.time_ns += 1_000_000
            self.block.append(np.full(2, self.time_ns / 1e6, np.float32), self.time_ns)
        return self.watch.measure(self.scores, version, self.block).status


def test_a_block_is_scored_once_it_is_full_and_has_moved_on() -> None:
    stream = Stream(Scores())
    assert stream.come(BLOCK - 1) is UNKNOWN
    assert stream.come(1, version=None) is UNKNOWN
    assert stream.scores.asked == []
    assert stream.come(0) is CALM
    assert stream.come(3) is CALM
    assert stream.come(1) is CALM
    firsts = [(version, rows[0, 0], len(rows)) for version, rows in stream.scores.asked]
    assert firsts == [(1, 1.0, BLOCK), (1, 5.0, BLOCK)]


@pytest.mark.parametrize(
    ("scores", "alarms"),
    [
        ([0.5, 1.5, 0.5, 0.5, 1.5, 0.5, 0.5], "......."),
        ([0.5, 1.5, 1.0, 1.5, 0.5, 0.5, 0.5], "...AAA."),
        ([1.5, 1.5, 0.5, 0.9, 0.5, 0.5, 0.5, 0.5], ".AAAAA.."),
        ([1.5, 1.5, 0.5, 0.5, 1.5, 0.5, 0.5, 0.5], ".AAAAAA."),
        # NaN is not calm.
        ([np.nan, np.inf, np.nan, 0.5, 0.5, 0.5], ".AAAA."),
        ([1.5, 1.5, np.nan, 0.5, 0.5, np.nan, 0.5, 0.5, 0.5], ".AAAAAAA."),
    ],
)
def test_one_block_is_no_alarm_and_one_calm_block_does_not_end_it(scores: list[float], alarms: str) -> None:
    stream = Stream(Scores(then=scores))
    statuses = [stream.come(BLOCK)] + [stream.come(4) for _ in scores[1:]]
    assert "".join("A" if status is ALARM else "." for status in statuses) == alarms


def test_where_there_is_no_score_nothing_is_known_until_there_is_one() -> None:
    stream = Stream(Scores(then=[0.5, DeadlineError("late"), DeadlineError("late"), 0.5]))
    # It asks again at once, not only once the block has moved on.
    assert [stream.come(BLOCK), stream.come(4), stream.come(0), stream.come(0)] == [CALM, UNKNOWN, UNKNOWN, CALM]
    assert (stream.watch.scored_blocks, stream.watch.failures) == (2, 2)


def test_an_alarm_outlasts_the_score_and_the_stream_but_not_the_version() -> None:
    stream = Stream(Scores(then=[1.5, 1.5, DeadlineError("late"), 1.5, 0.5]))
    assert [stream.come(BLOCK), stream.come(4), stream.come(4)] == [CALM, ALARM, ALARM]
    stream.begin()
    assert [stream.come(1), stream.come(BLOCK)] == [ALARM, ALARM]
    assert stream.come(0, version=2) is CALM
    assert [version for version, _ in stream.scores.asked] == [1, 1, 1, 1, 2]


def test_after_a_gap_the_block_fills_anew() -> None:
    stream = Stream(Scores())
    assert stream.come(BLOCK) is CALM
    stream.begin()
    assert stream.come(BLOCK - 1) is UNKNOWN
    assert stream.come(1) is CALM


def test_contributions_that_are_no_numbers_are_no_calm_score() -> None:
    class Broken(Scores):
        def score(self, *arguments: object) -> object:
            score = super().score(*arguments)
            score.contributions[0] = np.nan
            return score

    stream = Stream(Broken())
    assert [stream.come(BLOCK), stream.come(4)] == [CALM, ALARM]

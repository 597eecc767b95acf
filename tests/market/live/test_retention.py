"""Captured files are deleted by age and by size, and never those of the newest window."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from lobsmith.market.live.retention import Retention, captured, prune
from lobsmith.units import NS_PER_DAY, NS_PER_S

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
FOREVER, HUGE = 10**6 * NS_PER_DAY, 1 << 60
HOUR_NS = 3600 * NS_PER_S


def ns(moment: datetime) -> int:
    return int(moment.timestamp()) * NS_PER_S


def write(folder: Path, hours_ago: float, *, stream: str = "usdm-btcusdt", size: int = 100, suffix: str = "") -> Path:
    path = folder / f"{stream}-{NOW - timedelta(hours=hours_ago):%Y%m%dT%H%M%S}{suffix}.gz"
    path.write_bytes(b"x" * size)
    return path


def test_what_ended_too_long_ago_goes_and_the_last_of_a_stream_stays(tmp_path: Path) -> None:
    old, across, new = (write(tmp_path, hours) for hours in (60, 50, 40))
    alone = write(tmp_path, 900, stream="usdm-ethusdt")
    limits = Retention(45 * HOUR_NS, HUGE, window_ns=0)
    # The second one ended when the third began, which is not too long ago.
    assert prune(tmp_path, limits, ns(NOW)) == [old]
    assert sorted(tmp_path.iterdir()) == sorted([across, new, alone])
    assert prune(tmp_path, limits, ns(NOW)) == []


def test_the_oldest_go_first_until_the_rest_is_small_enough(tmp_path: Path) -> None:
    first, second, third = (write(tmp_path, hours) for hours in (9, 8, 7))
    other = write(tmp_path, 8.5, stream="simulator-sim")
    newest = write(tmp_path, 6, stream="simulator-sim")
    assert prune(tmp_path, Retention(FOREVER, 300, window_ns=0), ns(NOW)) == [first, second]
    assert sorted(tmp_path.iterdir()) == sorted([third, other, newest])


def test_the_newest_window_of_each_stream_stays_whatever_the_limits_say(tmp_path: Path) -> None:
    gone, _kept, _more, _last = (write(tmp_path, hours) for hours in (10, 8, 5, 3))
    # Two hours before the last file begins at three: what ended at eight is older, what ended at five is not.
    assert prune(tmp_path, Retention(0, 0, window_ns=2 * HOUR_NS + 1), ns(NOW)) == [gone]


def test_files_of_one_second_are_in_order_and_other_names_are_not_touched(tmp_path: Path) -> None:
    first, second = write(tmp_path, 5), write(tmp_path, 5, suffix="-001")
    third = write(tmp_path, 5, suffix="-002")
    for name in ("usdm-btcusdt-20240808.gz", "notes.txt", "usdm-btcusdt-20261399T000000.gz"):
        (tmp_path / name).write_bytes(b"x")
    assert [file.path for file in captured(tmp_path)["usdm-btcusdt"]] == [first, second, third]
    assert prune(tmp_path, Retention(0, 0, window_ns=0), ns(NOW)) == [first, second]
    assert len(list(tmp_path.iterdir())) == 4


def test_only_captures_count_and_one_that_another_session_deletes_is_gone(tmp_path: Path) -> None:
    (tmp_path / "notes.gz").write_bytes(b"x" * 1000)
    kept = [write(tmp_path, hours) for hours in (9, 8, 7)]
    gone = write(tmp_path, 8.5)
    gone.unlink()
    # Listed still, and not to be found any more.
    gone.symlink_to(tmp_path / "nothing")
    assert prune(tmp_path, Retention(FOREVER, 300, window_ns=0), ns(NOW)) == []
    assert all(path.exists() for path in kept)

"""What a retrain reads of a live capture that goes on meanwhile."""

import gzip
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lobsmith.errors import DataError, ThinWindowError
from lobsmith.market.live.files import FileLimits, RawFiles
from lobsmith.market.simulator import simulate
from lobsmith.market.simulator.raw import raw_lines
from lobsmith.params import DataParams, WindowParams
from lobsmith.stages.captured import captured_feed
from lobsmith.stages.ingest import ingest
from tests.small import small_params

S = 1_000_000_000
START_S = 1_772_000_000
WINDOW = WindowParams(length_s=100, minimum_coverage=0.5, minimum_rows=1)
SNAPSHOT, CHANGE = b'{"lastUpdateId":1}', b'{"e":"depthUpdate"}'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "captures").mkdir()
    return tmp_path / "captures"


def write(folder: Path, symbol: str, first_s: int, last_s: int, *, snapshot: bool = True, number: str = "") -> Path:
    """A file with a line a second, each a gzip member."""
    name = f"sim-{symbol}-{datetime.fromtimestamp(START_S + first_s, UTC):%Y%m%dT%H%M%S}{number}.gz"
    texts = [SNAPSHOT if snapshot and second == first_s else CHANGE for second in range(first_s, last_s + 1)]
    lines = [b"%d %b\n" % ((START_S + first_s + at) * S, text) for at, text in enumerate(texts)]
    (folder / name).write_bytes(b"".join(map(gzip.compress, lines)))
    return folder / name


def feed(folder: Path, window: WindowParams = WINDOW) -> list[str]:
    with captured_feed(folder, folder.parent / "scratch", window) as paths:
        assert all(path.parent == folder.parent / "scratch" for path in paths)
        names = [path.name for path in paths]
    assert not (folder.parent / "scratch").exists()
    return names


def test_the_newest_files_of_each_stream_are_taken_back_to_a_snapshot(folder: Path) -> None:
    old = [write(folder, "AAA", first, first + 59).name for first in (0, 60, 120)]
    other = write(folder, "BBB", 100, 200).name
    newest = [write(folder, "AAA", 180, 209, snapshot=False).name, write(folder, "AAA", 210, 239).name]
    twin = write(folder, "AAA", 210, 240, number="-001", snapshot=False).name
    (folder / "notes.gz").write_bytes(b"")
    (folder / "sim-AAA-99999999T000000.gz").write_bytes(b"")
    # From 140 s on: that lies in the third, which begins with a snapshot of its own.
    assert feed(folder) == [old[2], *newest, twin, other]
    (folder / twin).unlink()
    (folder / newest[1]).unlink()
    # From 109 s on, and one more because none of those has a snapshot near its beginning.
    write(folder, "AAA", 120, 179, snapshot=False)
    write(folder, "AAA", 60, 119, snapshot=False)
    assert feed(folder) == [*old, newest[0], other]


def test_too_little_is_one_line_with_both_figures(folder: Path) -> None:
    with pytest.raises(ThinWindowError, match=r"captures: 0 s of a live feed .* = 50 s are needed.* lobsmith live"):
        feed(folder)
    with pytest.raises(ThinWindowError, match="missing: 0 s"):
        feed(folder / "missing")
    thin = write(folder, "AAA", 0, 20)
    with pytest.raises(ThinWindowError, match=rf"{thin.name}: 20 s .* = 50 s"):
        feed(folder)
    # A stream that has only begun does not hold up another.
    assert feed(write(folder, "BBB", 0, 60).parent) == ["sim-BBB-20260225T061320.gz"]


def test_a_torn_tail_is_left_out_and_the_capture_itself_is_not_touched(folder: Path) -> None:
    path = write(folder, "AAA", 0, 60)
    torn = path.read_bytes()[:-7]
    path.write_bytes(torn)
    empty = write(folder, "AAA", 61, 61)
    empty.write_bytes(empty.read_bytes()[:5])
    with captured_feed(folder, folder.parent / "scratch", WINDOW) as [copy]:
        assert gzip.decompress(copy.read_bytes()).count(b"\n") == 60
        # Retention may delete it now, and the capture may go on.
        path.unlink()
        assert copy.exists()
    assert empty.stat().st_size == 5


def test_a_file_of_nothing_that_a_killed_capture_has_left_is_passed_over(folder: Path) -> None:
    before = write(folder, "AAA", 0, 40).name
    write(folder, "AAA", 41, 41).write_bytes(b"")
    after = write(folder, "AAA", 42, 60, snapshot=False).name
    assert feed(folder) == [before, after]


def test_what_is_no_capture_is_named(folder: Path) -> None:
    (folder / "sim-AAA-20260225T061320.gz").write_bytes(gzip.compress(b"time,price\n"))
    with pytest.raises(DataError, match=r"sim-AAA-20260225T061320\.gz: not a raw capture"):
        feed(folder)


def test_a_capture_that_goes_on_is_ingested_as_far_as_it_is_written(folder: Path, tmp_path: Path) -> None:
    lines = list(raw_lines(simulate(7, 120)))
    files = RawFiles(folder, "sim", FileLimits(rotate_bytes=80_000, flush_bytes=1 << 15))
    for line in lines:
        local, _, text = line.rstrip(b"\n").partition(b" ")
        assert files.put("SIM", int(local), text)
    files.close()
    assert len(files.paths) > 2
    newest = files.paths[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    data = small_params(**{"data.source": "live"}).data
    window = WindowParams(length_s=3600, minimum_coverage=0.01, minimum_rows=1)
    with captured_feed(folder, tmp_path / "scratch", window) as paths:
        ingested = ingest(data, paths, tmp_path / "market")
    [instrument] = ingested.done.values()
    assert 0.5 * len(lines) < instrument.accounting.records < len(lines)
    assert instrument.accounting.sequence_breaks == 0


def test_a_stage_without_files_says_where_a_live_feed_is_read(tmp_path: Path) -> None:
    data: DataParams = small_params(**{"data.source": "live"}).data
    with pytest.raises(DataError, match="data.source is live, which the retrain flow reads"):
        ingest(data, None, tmp_path / "market")

import gzip
from pathlib import Path

import pytest

from lobsmith.errors import DataError
from lobsmith.market.readers import read_captures
from tests.market.venues.captured import SPOT, refused, spot_ticker, write

GOOD = b"".join(SPOT)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (gzip.compress(b"", mtime=0), "empty"),
        (gzip.compress(GOOD, mtime=0)[:-20], "truncated"),
        (gzip.compress(GOOD, mtime=0)[:30] + b"\x00" * 40 + gzip.compress(GOOD, mtime=0)[70:], "corrupt"),
        (gzip.compress(GOOD, mtime=0) + b"rest", "corrupt"),
        (b"\x1f\x8bnot gzip", "corrupt"),
        (b"id,timestamp,price\n1,2,3\n", "Binance raw capture"),
        (b"\x89PNG\r\n\x00\xff", "Binance raw capture"),
        (GOOD[20:], "Binance raw capture"),
    ],
)
def test_a_damaged_or_foreign_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "capture.gz"
    path.write_bytes(content)
    assert message in refused(path)


def test_a_missing_file_and_a_directory_are_refused(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "absent.gz")
    assert "directory" in refused(tmp_path)
    assert "no such file" in refused(write(tmp_path / "a", *SPOT), tmp_path / "absent.gz")
    with pytest.raises(DataError):
        read_captures([])


def test_files_out_of_order_are_refused(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a", *SPOT), write(tmp_path / "b", spot_ticker(5000, 115))
    assert read_captures([first, second]).accounting.tickers == 3
    assert "order" in refused(second, first)

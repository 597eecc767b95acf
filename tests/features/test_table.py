from pathlib import Path

import pytest

from lobsmith.features.definitions import COUNT, NAMES
from lobsmith.features.table import PROJECT, load_ranges, measure, pages
from lobsmith.params import load_params
from tests.small import params_file


def test_the_pages_are_what_the_code_generates() -> None:
    generated = pages(load_ranges())
    kept = {path: (PROJECT / path).read_text() for path in generated}
    assert kept == generated, "run python -m lobsmith.features.table"


def test_every_feature_has_a_line_with_its_range() -> None:
    text = pages(load_ranges())["docs/results/features.md"]
    assert all(text.count(f"| `{name}`") == 1 for name in NAMES)
    for low, one, median, ninety_nine, high in load_ranges().quantiles:
        assert low <= one <= median <= ninety_nine <= high
    assert len(load_ranges().quantiles) == COUNT


@pytest.mark.recorded
def test_the_ranges_are_those_of_the_recorded_sessions(recorded: Path) -> None:
    kept = load_ranges()
    files = [recorded / "binance" / name for session in kept.sessions for name in session.split(": ")[1].split(", ")]
    found = measure(files, load_params(params_file()).features)
    assert (found.rows, found.sessions) == (kept.rows, kept.sessions)
    for name, one, other in zip(NAMES, kept.quantiles, found.quantiles, strict=True):
        assert one == pytest.approx(other, rel=0.02, abs=1e-6), name

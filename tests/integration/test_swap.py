"""Versions come and go while clients ask, with the real Triton."""

import pytest

from lobsmith.bench.swap import bench_swap
from tests.small import small_params

pytestmark = pytest.mark.integration


@pytest.mark.slow
def test_no_request_fails_while_versions_are_swapped() -> None:
    report = bench_swap(small_params(), swaps=3, rate=100, before_s=1, note=lambda _: None)
    assert report.failures == {}
    assert (report.swaps, report.rolled_back, report.restarts) == (3, 1, 0)
    assert all(way.requests > 50 for way in report.ways.values())

"""Windows that could hold no rows enough are refused before anybody waits for a look."""

import pytest

from lobsmith.errors import ParamsError
from tests.small import small_params


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"drift.recent_s": 400, "drift.reference_s": 200}, "drift.recent_s"),
        ({"drift.every_ms": 30000}, "drift.minimum_rows"),
        ({"drift.reference_s": 1e18}, "drift.reference_s"),
        ({"drift.recent_s": float("inf")}, "drift.recent_s"),
    ],
)
def test_absurd_windows_are_refused(changes, named):
    with pytest.raises(ParamsError, match=named):
        small_params(**changes)

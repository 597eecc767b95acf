from pathlib import Path

import pytest

from benchmarks.studies.drift_false_alarms import EVIDENTLY, NAIVE, OURS, WAYS, measure, table


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_market_that_has_not_changed_is_seldom_called_another(tmp_path: Path) -> None:
    output = tmp_path / "alarms.jsonl"
    results = measure((0.2, 5.0), series=3, pairs=4, jobs=1, ways=WAYS, output=output)
    alarms = {way: sum(result["alarms"][way] for result in results) for way in (OURS, NAIVE, EVIDENTLY)}
    assert sum(result["pairs"] for result in results) == 24
    assert alarms[OURS] <= 4
    assert alarms[NAIVE] >= 20
    assert alarms[EVIDENTLY] >= 12
    assert table(measure((0.2, 5.0), series=3, pairs=4, jobs=1, ways=WAYS, output=output), WAYS) == table(results, WAYS)

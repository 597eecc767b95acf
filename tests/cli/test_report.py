import json
from pathlib import Path

import msgspec

from tests.cli.test_commands import lobsmith, refused, root
from tests.evaluations import realistic

__all__ = ["root"]


def test_without_files_the_newest_evaluation_is_shown(root: Path) -> None:
    for folder in ("runs/20260101T000000-abcdef", "stages"):
        path = root / ".lobsmith" / folder / "evaluation.json"
        path.parent.mkdir(parents=True)
        path.write_bytes(msgspec.json.encode(msgspec.structs.replace(realistic(), protocol=folder)))
    evaluations = json.loads(lobsmith(root, "report", "evaluation", "--json").stdout)["evaluations"]
    assert [evaluation["protocol"] for evaluation in evaluations] == ["stages"]
    assert "skill" in lobsmith(root, "report", "evaluation").stdout


def test_where_nothing_was_evaluated_the_way_out_is_named(root: Path) -> None:
    refused(lobsmith(root, "report", "evaluation"), "lobsmith retrain")


def test_an_evaluation_of_another_release_is_one_line(root: Path) -> None:
    path = root / ".lobsmith" / "stages" / "evaluation.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"scores": 1}')
    refused(lobsmith(root, "report", "evaluation"), "evaluation.json")


def test_an_unknown_baseline_is_one_line(root: Path, tmp_path: Path) -> None:
    refused(lobsmith(root, "report", "evaluation", str(tmp_path / "none.gz"), "--rivals", "oracle"), "oracle")

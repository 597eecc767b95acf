"""The history of drift checks, and how long their reports are kept."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from lobsmith.drift.verdict import Kind
from lobsmith.monitoring.drift import history
from lobsmith.params import Params, load_params
from lobsmith.workspace import Workspace
from tests.monitoring.drift import drifted
from tests.small import params_file


@dataclass(frozen=True)
class Project:
    workspace: Workspace
    params: Params

    def keep(self, back: int, **changed) -> history.PastCheck:
        """Add a check `back` periods ago."""
        check = drifted.check(looked_ns=drifted.NOW_NS - back * 300 * drifted.S)
        return drifted.keep(self.workspace, self.params, drifted.content(check, 0, **changed))

    def read(self) -> list[history.PastCheck]:
        return history.read(self.workspace, drifted.MODEL)

    @property
    def folder(self) -> Path:
        return history.reports(self.workspace, drifted.MODEL)


def kept(pages: int) -> Params:
    short = {"keep_evidently": 2, "keep_pages": pages, "keep_looks": 6}
    return load_params(params_file(), {f"drift_report.{key}": value for key, value in short.items()})


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(Workspace(tmp_path), kept(pages=4))


def test_a_check_is_found_by_its_time(project):
    assert history.newest(project.read()) is None
    lines = [project.keep(back) for back in (2, 1, 0)]
    assert project.read() == lines
    assert history.newest(lines) == lines[2]
    assert history.newest(lines, lines[1].looked_ns) == lines[1]
    assert history.newest(lines, lines[0].looked_ns - 1) is None
    verdict = drifted.covariate()
    past = lines[2].of(Kind.COVARIATE)
    assert (past.finding, past.value, past.p_value) == (verdict.finding, verdict.value, verdict.p_value)


def test_corrupt_lines_are_skipped(project):
    first = project.keep(2)
    index = project.folder / "looks.jsonl"
    index.write_bytes(index.read_bytes() + b'{"looked_ns": 3}\n\xff\xfe\n{"looked_ns": 17723749')
    second = project.keep(1)
    assert project.read() == [first, second]


def test_the_oldest_reports_and_lines_are_forgotten(project):
    for back in range(20, 0, -1):
        line = project.keep(back)
        (project.folder / line.folder / history.EVIDENTLY_PAGE).write_text("drawn")
    lines = project.read()
    assert lines[-1] == line
    assert 6 <= len(lines) <= 8
    kept = sorted(path.name for path in project.folder.iterdir() if path.is_dir())
    assert kept == [line.folder for line in lines[-4:]]
    drawn = [name for name in kept if (project.folder / name / history.EVIDENTLY_PAGE).exists()]
    assert drawn == kept[-2:]


def test_checks_at_the_same_time_have_separate_folders(project):
    assert len({project.keep(0).folder for _ in range(3)}) == 3


def test_concurrent_writers_lose_no_check(tmp_path):
    # With fewer pages than writers the oldest folder may be forgotten before its writer has written to it.
    project = Project(Workspace(tmp_path), kept(pages=6))
    with ThreadPoolExecutor(8) as pool:
        lines = list(pool.map(project.keep, range(6)))
    assert project.read() == sorted(lines, key=lambda line: line.looked_ns)


def test_a_line_says_that_evidently_failed(project):
    failed = msgspec.structs.replace(drifted.content(count=0).evidently, page=None, failure="it took too long")
    project.keep(0, evidently=failed)
    assert [line.evidently_failed for line in project.read()] == ["it took too long"]

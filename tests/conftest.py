import os
from pathlib import Path

import pytest

from lobsmith import telemetry

telemetry.turn_off()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """In CI a skipped test is a failed one: a part that cannot run there is not tested at all."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = (
            f"skipped in CI: {report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr}"
        )
    return report


@pytest.fixture(scope="session")
def recorded() -> Path:
    """The folder of recorded sessions."""
    folder = os.environ.get("LOBSMITH_DATA")
    if not folder:
        pytest.skip("LOBSMITH_DATA does not name the folder of recorded sessions")
    return Path(folder)

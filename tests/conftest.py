import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from lobsmith import telemetry
from tests.release.zygote import Zygote

if TYPE_CHECKING:
    from lobsmith.features.dataset import Dataset

telemetry.turn_off()
# Neither an example nor the drawing of examples has a time limit: a busy machine would break it.
settings.register_profile("any machine", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
# Two test processes on two cores: further threads spin and wait.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")
# Prefect reads its settings when it is imported; its temporary server takes long where both cores are busy.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """In CI a skipped test fails, as it would be tested nowhere."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = (
            f"skipped in CI: {report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr}"
        )
    return report


@pytest.fixture(scope="session")
def recorded() -> Path:
    """The folder of captured sessions."""
    folder = os.environ.get("LOBSMITH_DATA")
    if not folder:
        pytest.skip("LOBSMITH_DATA does not name the folder of recorded sessions")
    return Path(folder)


@pytest.fixture(scope="session")
def simulated() -> "Callable[[int, int], Dataset]":
    """Return the dataset of a seed and a length, s, with the small parameters; its arrays are shared."""
    from lobsmith.features.dataset import build_dataset
    from lobsmith.market.simulator import simulate
    from tests.small import small_params

    return cache(lambda seed, seconds: build_dataset(simulate(seed, seconds), small_params()))


@pytest.fixture(scope="session")
def small_run(simulated: "Callable[[int, int], Dataset]", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with the small network trained on two simulated minutes; tests copy it."""
    from lobsmith.features.dataset import DATASET, save_dataset
    from lobsmith.stages.train import train_stage
    from tests.small import small_params

    folder = tmp_path_factory.mktemp("small_run")
    save_dataset(simulated(3, 120), folder / DATASET)
    train_stage(small_params(), [folder / DATASET], folder)
    return folder


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """Forks processes that tests kill."""
    forking = Zygote()
    yield forking
    forking.close()


@pytest.fixture
def validation_in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validate published versions in this process instead of a child."""
    from lobsmith.release.checks import validation
    from lobsmith.release.publish import onnx

    monkeypatch.setattr(
        onnx, "validate", lambda directory, trust, deadline_s: validation.check_version(directory, trust)
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the longest tests, so that no worker is left with one at the end."""

    def longest(item: pytest.Item) -> float:
        mark = item.get_closest_marker("timeout")
        return 0.0 if mark is None else float(mark.args[0])

    items.sort(key=longest, reverse=True)

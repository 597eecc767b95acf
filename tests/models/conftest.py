from collections.abc import Callable

import pytest

from lobsmith.features.dataset import Dataset
from lobsmith.params import Params
from tests.small import small_params


@pytest.fixture(scope="session")
def params() -> Params:
    return small_params()


@pytest.fixture(scope="session")
def dataset(simulated: Callable[[int, int], Dataset]) -> Dataset:
    return simulated(5, 60)

import pytest

from lobsmith.features.dataset import Dataset, build_dataset
from lobsmith.market.simulator import simulate
from lobsmith.params import Params
from tests.small import small_params


@pytest.fixture(scope="session")
def params() -> Params:
    return small_params()


@pytest.fixture(scope="session")
def dataset(params: Params) -> Dataset:
    return build_dataset(simulate(seed=5, seconds=60), params)

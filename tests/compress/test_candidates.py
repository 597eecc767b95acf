import pytest

from lobsmith.compress.candidates import only
from lobsmith.errors import TrainingError
from tests.small import small_params

SETTINGS = small_params(
    **{"compress.pruning": [0.25, 0.125], "compress.precisions": ["fp16", "fp32", "int8_static"]}
).compress


@pytest.mark.parametrize(
    ("name", "pruning", "precisions"),
    [
        ("fp32", (), ("fp32",)),
        ("int8_static", (), ("fp32", "int8_static")),
        ("pruned_25", (0.25,), ("fp32",)),
        ("pruned_12.5_fp16", (0.125,), ("fp32", "fp16")),
    ],
)
def test_one_candidate_takes_its_network_and_its_arithmetic(name, pruning, precisions):
    alone = only(SETTINGS, name)
    assert (alone.pruning, alone.precisions) == (pruning, precisions)


@pytest.mark.parametrize("name", ["bf16", "pruned_50", "pruned_25_fp32", "full", ""])
def test_a_name_that_no_candidate_has_is_refused(name):
    with pytest.raises(TrainingError, match="none of the candidates"):
        only(SETTINGS, name)

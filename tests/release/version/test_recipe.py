import pytest

from lobsmith.release.version.recipe import window_id
from tests.small import small_params

ONE = ["f" * 64]


def of(fingerprints=ONE, commit="c", **changes):
    return window_id(small_params(**changes), fingerprints, commit)


def test_the_same_window_is_the_same_in_whichever_order_it_was_read():
    assert of() == of()
    assert of(["a", "b"]) == of(["b", "a"])


def test_other_data_or_code_are_another_training():
    assert len({of(), of(["0" * 64]), of(ONE * 2), of(commit="d"), of(commit=None)}) == 5


@pytest.mark.parametrize(
    "change",
    [
        {"train.seed": 12},
        {"train.threads": 2},
        {"labels.horizons_ms": [100, 2000]},
        {"compress.precisions": ["fp32", "int8_dynamic"]},
        {"split.embargo_ms": 300},
        {"gates.skill": 0.9},
        {"evaluation.fees_bps": 7.0},
        {"reference.held_out": 0.2},
        {"drift.every_ms": 250},
    ],
    ids=str,
)
def test_what_changes_bits_or_verdicts_is_another_training(change):
    assert of(**change) != of()


@pytest.mark.parametrize(
    "change",
    [{"serving.http_port": 9}, {"client.poll_s": 9.0}, {"engine.builder": "none"}, {"release.keep": 9}],
    ids=str,
)
def test_what_changes_neither_is_the_same_training(change):
    assert of(**change) == of()

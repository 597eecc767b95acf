import msgspec
import pytest

from lobsmith.params import as_table
from lobsmith.release.manifest import Manifest
from lobsmith.release.recipe import BITS, VERDICTS, same_recipe
from tests.release import toy
from tests.small import small_params

FINGERPRINT = "f" * 64


def manifest(**changes) -> Manifest:
    made = {
        "model": "lob",
        "version": 1,
        "artifact_id": "a",
        "created_ns": 0,
        "files": {},
        "contract": toy.CONTRACT,
        "prime_rows": 1,
        "instruments": (),
        "precision": "fp32",
        "gpu_architecture": None,
        "git_commit": None,
        "data_fingerprint": FINGERPRINT,
        "params": as_table(small_params()),
        "mlflow_run_id": None,
        "verdicts": (),
        "metrics": {},
        "environment": {"python": "", "packages": {}, "threads": 1, "instruction_set": ""},
        **changes,
    }
    # As it comes from a file, where a tuple is a list.
    return msgspec.json.decode(msgspec.json.encode(made), type=Manifest)


def test_the_same_window_with_the_same_parameters_is_the_same_recipe():
    assert same_recipe(manifest(), FINGERPRINT, small_params())


def test_other_data_are_another_recipe():
    assert not same_recipe(manifest(), "0" * 64, small_params())


@pytest.mark.parametrize(
    "change",
    [
        {"train.seed": 12},
        {"train.threads": 2},
        {"labels.horizons_ms": [100, 2000]},
        {"compress.precisions": ["fp32", "int8_dynamic"]},
        {"split.embargo_ms": 300},
        {"gates.skill": 0.9},
    ],
    ids=str,
)
def test_what_changes_bits_or_verdicts_is_another_recipe(change):
    assert not same_recipe(manifest(), FINGERPRINT, small_params(**change))


@pytest.mark.parametrize(
    "change",
    [{"serving.http_port": 9}, {"client.poll_s": 9.0}, {"engine.builder": "none"}, {"release.keep": 9}],
    ids=str,
)
def test_what_changes_neither_is_the_same_recipe(change):
    assert same_recipe(manifest(), FINGERPRINT, small_params(**change))


def test_a_fingerprint_does_not_stand_for_pooled_instruments():
    pooled = small_params(**{"train.pool": True})
    assert not same_recipe(manifest(params=as_table(pooled)), FINGERPRINT, pooled)


@pytest.mark.parametrize("name", [*BITS, *VERDICTS])
def test_a_manifest_without_a_section_is_another_recipe(name):
    """It is one of an older release."""
    table = as_table(small_params())
    del table[name]
    assert not same_recipe(manifest(params=table), FINGERPRINT, small_params())

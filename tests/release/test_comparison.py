import math

import pytest

from lobsmith.release.reproduce import (
    DIFFERENT,
    EQUIVALENT,
    IDENTICAL,
    ChangedInput,
    Metric,
    environment_changes,
    judge,
    metric_changes,
)
from lobsmith.release.version.manifest import Environment

SAME = ChangedInput(name="model.onnx", published="a", here="a")
OTHER = ChangedInput(name="model.onnx", published="a", here="b")
ENVIRONMENT = Environment(
    python="3.11.1", packages={"torch": "2.6.0", "numpy": "1.26.4"}, threads=1, instruction_set="avx2"
)


def metric(difference: float) -> Metric:
    return Metric(name="model_mcc_50ms", published=0.5, reproduced=0.5 + difference, difference=difference)


@pytest.mark.parametrize(
    ("file", "golden", "off", "verdict", "word"),
    [
        (SAME, 0.0, 0.0, IDENTICAL, "published hashes"),
        (SAME, 1e-7, 1e-12, IDENTICAL, "published hashes"),
        (SAME, 1e-7, 1e-6, EQUIVALENT, "metrics within 1e-06"),
        (OTHER, 1e-6, 1e-6, EQUIVALENT, "model.onnx have other bits"),
        (OTHER, 0.0, 0.0, EQUIVALENT, "model.onnx have other bits"),
        (OTHER, 2e-5, 0.0, DIFFERENT, "golden vectors differ by 2e-05"),
        (SAME, math.inf, 0.0, DIFFERENT, "golden vectors differ by inf"),
        (SAME, math.nan, 0.0, DIFFERENT, "golden vectors differ by nan"),
        (OTHER, 0.0, -0.01, DIFFERENT, "model_mcc_50ms differs by -0.01"),
        (SAME, 0.0, math.nan, DIFFERENT, "model_mcc_50ms differs by nan"),
    ],
)
def test_bits_then_answers_then_metrics_decide(file, golden, off, verdict, word):
    outcome, reason = judge([file], golden, 1e-5, [metric(0.0), metric(off)], [])
    assert (outcome, word in reason) == (verdict, True), reason


def test_what_is_not_identical_names_the_environment():
    changes = environment_changes(
        ENVIRONMENT,
        Environment(python="3.11.1", packages={"torch": "2.7.0", "onnx": "1"}, threads=2, instruction_set="avx512f"),
        "1111",
        None,
    )
    assert {(change.name, change.published, change.here) for change in changes} == {
        ("git commit", "1111", None),
        ("torch", "2.6.0", "2.7.0"),
        ("numpy", "1.26.4", None),
        ("onnx", None, "1"),
        ("threads", "1", "2"),
        ("instruction set", "avx2", "avx512f"),
    }
    assert "torch 2.6.0 is 2.7.0 here" in judge([OTHER], 0.0, 1e-5, [], changes)[1]
    assert environment_changes(ENVIRONMENT, ENVIRONMENT, "1111", "1111") == ()


def test_metrics_that_were_not_made_again_are_named():
    metrics, missing = metric_changes({"a": 1.0, "b": 2.0}, {"a": 1.5, "c": 3.0})
    assert [(change.name, change.difference) for change in metrics] == [("a", 0.5)]
    assert missing == ("b",)

"""Calibration after training: found where there is something to find, and nothing made up where there is not."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from lobsmith.compress.export import export_onnx
from lobsmith.compress.runtime import OnnxModel
from lobsmith.features.definitions import COUNT
from lobsmith.features.labels import Targets
from lobsmith.models.calibrate import calibrate
from lobsmith.models.networks.network import ServedNetwork
from lobsmith.models.networks.outputs import BINARY, CLASSES, COLUMNS, CalibrationLayer
from lobsmith.models.networks.registry import build
from tests.small import small_params

RIDGE = 1e-6
Outcomes = tuple[Tensor, Tensor, Tensor]


def outcomes(rows: int = 20_000, horizons: int = 2, times: float = 1.0, shift: float = 0.0, seed: int = 1) -> Outcomes:
    """Outputs whose logits are the true ones, scaled and shifted, with the outcomes drawn from the true ones."""
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(rows, horizons, COLUMNS, generator=generator)
    probabilities = torch.softmax(outputs[..., :CLASSES], dim=2).reshape(-1, CLASSES)
    direction = torch.multinomial(probabilities, 1, generator=generator).reshape(rows, horizons)
    hits = torch.rand(rows, horizons, BINARY, generator=generator) < outputs[..., CLASSES : CLASSES + BINARY].sigmoid()
    distorted = outputs.clone()
    distorted[..., : CLASSES + BINARY] *= times
    distorted[..., CLASSES : CLASSES + BINARY] += shift
    distorted[..., 0] += shift
    return distorted, direction, hits.float()


def untouched(calibration: CalibrationLayer) -> bool:
    fresh = CalibrationLayer(len(calibration.move_scale)).state_dict()
    return all(torch.equal(tensor, fresh[name]) for name, tensor in calibration.state_dict().items())


def losses(calibration: CalibrationLayer, outputs: Tensor, direction: Tensor, binary: Tensor) -> list[float]:
    """The log-loss of each horizon's direction and of each binary output, over known rows."""
    values = []
    logits = calibration.logits(outputs)
    flags = outputs[..., CLASSES : CLASSES + BINARY] * calibration.binary_scale + calibration.binary_bias
    for h in range(outputs.shape[1]):
        known = direction[:, h] >= 0
        values.append(float(cross_entropy(logits[known, h], direction[known, h])))
        for b in range(BINARY):
            known = binary[:, h, b] >= 0
            values.append(float(binary_cross_entropy_with_logits(flags[known, h, b], binary[known, h, b])))
    return values


@pytest.mark.parametrize("times", [3.0, 1.0, 0.25])
def test_the_temperature_is_found(times: float) -> None:
    calibration = CalibrationLayer(2)
    assert calibrate(calibration, *outcomes(times=times), [RIDGE] * 2) == []
    np.testing.assert_allclose(calibration.direction_scale, 1 / times, rtol=0.05)
    np.testing.assert_allclose(calibration.binary_scale, 1 / times, rtol=0.08)
    np.testing.assert_allclose(calibration.direction_bias, 0.0, atol=0.05)
    np.testing.assert_allclose(calibration.binary_bias, 0.0, atol=0.06)
    np.testing.assert_array_equal(calibration.move_scale, 1.0)
    np.testing.assert_array_equal(calibration.volatility_scale, 1.0)


def test_a_shift_is_found() -> None:
    calibration = CalibrationLayer(2)
    calibrate(calibration, *outcomes(shift=1.5), [RIDGE] * 2)
    np.testing.assert_allclose(calibration.binary_bias, -1.5, atol=0.1)
    # Logits are relative: the bias is centred.
    np.testing.assert_allclose(calibration.direction_bias.sum(dim=1), 0.0, atol=1e-5)
    np.testing.assert_allclose(calibration.direction_bias, np.tile([-1.0, 0.5, 0.5], (2, 1)), atol=0.07)


def test_each_horizon_and_output_has_its_own() -> None:
    outputs, direction, binary = outcomes()
    outputs[:, 0, :CLASSES] *= 4
    outputs[:, 1, CLASSES + 2] *= 2
    calibration = CalibrationLayer(2)
    calibrate(calibration, outputs, direction, binary, [RIDGE] * 2)
    np.testing.assert_allclose(calibration.direction_scale[:, 0], [0.25, 1.0], rtol=0.05)
    np.testing.assert_allclose(calibration.binary_scale, [[1, 1, 1], [1, 1, 0.5]], rtol=0.08)


def test_a_ridge_draws_towards_no_change() -> None:
    few = outcomes(rows=200, times=3.0)
    scales = []
    for ridge in (1e-6, 0.1, 100.0):
        calibration = CalibrationLayer(2)
        calibrate(calibration, *few, [ridge] * 2)
        scales.append(float(calibration.direction_scale[0]))
    assert scales[0] < scales[1] < scales[2] < 1
    assert scales[2] > 0.99


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(30, 400),
    times=st.floats(-2, 8),
    shift=st.floats(-4, 4),
    ridge=st.sampled_from([0.0, 1e-3, 0.1]),
    hidden=st.floats(0, 0.7),
)
def test_the_fitted_rows_are_never_worse(
    seed: int, rows: int, times: float, shift: float, ridge: float, hidden: float
) -> None:
    outputs, direction, binary = outcomes(rows=rows, times=times, shift=shift, seed=seed)
    unknown = torch.rand(direction.shape, generator=torch.Generator().manual_seed(seed)) < hidden
    unknown[0] = False
    direction = direction.masked_fill(unknown, -1)
    binary = binary.masked_fill(unknown.unsqueeze(2), -1.0)
    calibration = CalibrationLayer(2)
    calibrate(calibration, outputs, direction, binary, [ridge] * 2)
    before = losses(CalibrationLayer(2), outputs, direction, binary)
    after = losses(calibration, outputs, direction, binary)
    assert all(b <= a + 1e-6 for a, b in zip(before, after, strict=True))
    assert all(torch.isfinite(tensor).all() for tensor in calibration.state_dict().values())
    assert (calibration.direction_scale > 0).all()
    assert (calibration.binary_scale > 0).all()


EVERYTHING = {f"direction at horizon {h}" for h in (0, 1)} | {
    f"output {column} at horizon {h}" for column in (3, 4, 5) for h in (0, 1)
}


def no_rows() -> Outcomes:
    return torch.zeros(0, 2, COLUMNS), torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0, 2, BINARY)


def all_unknown() -> Outcomes:
    outputs, direction, binary = outcomes(rows=500)
    return outputs, torch.full_like(direction, -1), torch.full_like(binary, -1.0)


def one_class() -> Outcomes:
    outputs, direction, binary = outcomes(rows=500)
    return outputs, torch.full_like(direction, 2), torch.ones_like(binary)


def no_hit() -> Outcomes:
    outputs, direction, binary = outcomes(rows=500)
    return outputs, torch.ones_like(direction), torch.zeros_like(binary)


def few_of_a_class() -> Outcomes:
    outputs, direction, binary = outcomes(rows=500)
    direction, binary = torch.ones_like(direction), torch.zeros_like(binary)
    direction[:9], direction[9:100], binary[:9] = 0, 2, 1
    return outputs, direction, binary


def not_a_number() -> Outcomes:
    outputs, direction, binary = outcomes(rows=500)
    outputs[7] = torch.nan
    return outputs, direction, binary


def infinite() -> Outcomes:
    outputs, direction, binary = outcomes(rows=500)
    outputs[7] = torch.inf
    return outputs, direction, binary


@pytest.mark.parametrize(
    "degenerate", [no_rows, all_unknown, one_class, no_hit, few_of_a_class, not_a_number, infinite]
)
@pytest.mark.parametrize("ridge", [0.0, 1e-3])
def test_where_there_is_nothing_to_fit_to_it_is_left_and_reported(degenerate: object, ridge: float) -> None:
    """F33."""
    calibration = CalibrationLayer(2)
    uncalibrated = calibrate(calibration, *degenerate(), [ridge] * 2)  # type: ignore[operator]
    assert set(uncalibrated) == EVERYTHING
    assert len(uncalibrated) == len(EVERYTHING)
    assert untouched(calibration)


def test_of_an_earlier_calibration_nothing_is_left() -> None:
    calibration = CalibrationLayer(2)
    calibrate(calibration, *outcomes(times=3.0, shift=1.0), [RIDGE] * 2)
    assert not untouched(calibration)
    assert len(calibrate(calibration, *all_unknown(), [RIDGE] * 2)) == 2 * 4
    assert untouched(calibration)


def test_what_can_be_fitted_is_fitted_beside_what_cannot() -> None:
    outputs, direction, binary = outcomes(times=3.0)
    direction[:, 1] = 0
    binary[:, 0, 1] = 1
    calibration = CalibrationLayer(2)
    assert calibrate(calibration, outputs, direction, binary, [RIDGE] * 2) == [
        "output 4 at horizon 0",
        "direction at horizon 1",
    ]
    np.testing.assert_allclose(calibration.direction_scale[:, 0], [1 / 3, 1], rtol=0.05)
    assert (calibration.binary_scale[0, 1], calibration.binary_bias[0, 1]) == (1.0, 0.0)
    assert calibration.binary_scale[0, 0] < 0.5


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_constant_logits_become_the_classes_shares(value: float) -> None:
    _, direction, binary = outcomes(rows=2000)
    direction[:1000] = 2
    calibration = CalibrationLayer(2)
    outputs = torch.full((2000, 2, COLUMNS), value)
    assert calibrate(calibration, outputs, direction, binary, [0.0] * 2) == []
    probabilities, outlook = calibration(outputs)
    assert probabilities.isfinite().all()
    assert outlook.isfinite().all()
    for h in range(2):
        shares = torch.bincount(direction[:, h], minlength=3) / 2000
        torch.testing.assert_close(probabilities[0, h], shares, rtol=0, atol=1e-3)
    torch.testing.assert_close(outlook[0, :, :BINARY], binary.mean(dim=0), rtol=0, atol=1e-3)


def test_flags_are_joined_in_the_order_of_the_outputs() -> None:
    significant = np.array([[1, 0]], np.int8)
    withdrawal = np.array([[[0, 1], [-1, -1]]], np.int8)
    nothing = np.zeros((1, 2), np.float32)
    targets = Targets(significant=significant, withdrawal=withdrawal, move=nothing, volatility=nothing)
    assert targets.flags.tolist() == [[[1, 0, 1], [0, -1, -1]]]


def test_the_exported_model_is_calibrated(tmp_path: Path) -> None:
    params = small_params()
    torch.manual_seed(1)
    network = build(params.model, COUNT, params.labels.horizons_ms).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    network.calibration.move_scale.copy_(torch.tensor([0.5, 2.0]))
    network.calibration.volatility_scale.copy_(torch.tensor([0.7, 3.0]))
    rows = torch.randn(200, COUNT)
    with torch.inference_mode():
        outputs = network(rows.unsqueeze(0), network.cold_state(1))[0][0]
    _, direction, binary = outcomes(rows=200, times=3.0)
    # Before the calibration is fitted, and after.
    answers = []
    for name in ("before", "after"):
        if name == "after":
            assert calibrate(network.calibration, outputs.clone(), direction, binary, [RIDGE] * 2) == []
        path = tmp_path / f"{name}.onnx"
        export_onnx(network, path)
        probabilities, outlook, _ = OnnxModel(path).predict(rows.numpy(), chunk=50)
        with torch.inference_mode():
            expected = ServedNetwork(network)(rows.unsqueeze(0), network.cold_state(1))
            by_hand = network.calibration(outputs)
        np.testing.assert_allclose(probabilities, expected[0][0], atol=1e-5)
        np.testing.assert_allclose(outlook, expected[1][0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(probabilities, by_hand[0], atol=1e-5)
        answers.append(probabilities)
    assert np.abs(answers[0] - answers[1]).max() > 0.05

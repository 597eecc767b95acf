import copy
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from lobsmith.compress.export import FoldedNetwork, export_onnx
from lobsmith.compress.prune.pruning import Pruned, distil, prune, shrink
from lobsmith.compress.prune.sampling import outputs_after, sample_batches
from lobsmith.compress.prune.units import importances, unit_counts
from lobsmith.compress.runtime import OnnxModel
from lobsmith.errors import ContractError, TrainingError
from lobsmith.features.dataset import Dataset
from lobsmith.features.definitions import COUNT
from lobsmith.gates.parity import parity
from lobsmith.models.inference import validation_loss
from lobsmith.models.loss import Loss, mass
from lobsmith.models.networks.network import Network
from lobsmith.models.networks.registry import NETWORKS, build
from lobsmith.models.train import Trained, load_network, predict, save_network, train
from lobsmith.models.trainer import Epoch
from lobsmith.models.training_data import Part, make_training_data, parts_of
from lobsmith.params import Params
from tests.small import small_params

CHANNELS, HIDDEN = 8, 12
DEAD = 4
"""Units without effect in each layer, of 8 and of 12: a share of 0.4 takes them and no other."""
SHARE = 0.4
LAYERS = ("trunk.convolutions.0", "trunk.convolutions.2", "trunk.convolutions.4", "trunk.lstm.0", "trunk.lstm.1")
READERS = {
    "trunk.convolutions.0": ["trunk.convolutions.2.weight"],
    "trunk.convolutions.2": ["trunk.convolutions.4.weight"],
    "trunk.convolutions.4": ["trunk.lstm.weight_ih_l0"],
    "trunk.lstm.0": ["trunk.lstm.weight_hh_l0", "trunk.lstm.weight_ih_l1"],
    "trunk.lstm.1": [
        "trunk.lstm.weight_hh_l1",
        *(f"trunk.{name}.weight" for name in ("query", "key", "value")),
        "readout.weight",
    ],
}
"""Readers of a layer's units, column by column: a second list, to check the module's own."""

dead_units = st.tuples(
    *(
        st.lists(
            st.tuples(st.integers(0, size - 1), st.booleans()), min_size=4, max_size=4, unique_by=lambda dead: dead[0]
        )
        for size in (CHANNELS, CHANNELS, CHANNELS, HIDDEN, HIDDEN)
    )
)


@pytest.fixture(scope="module")
def params() -> Params:
    return small_params(**{"compress.fine_tune_epochs": 3})


@pytest.fixture(scope="module")
def parts(params: Params, simulated: Callable[[int, int], Dataset]) -> list[Part]:
    return parts_of([simulated(5, 60)], params.split)


@pytest.fixture(scope="module")
def trained(params: Params, parts: list[Part]) -> Trained:
    longer = structs.replace(params.train, epochs=4, sequences_per_epoch=128)
    return train(parts, structs.replace(params, train=longer))


@pytest.fixture(scope="module")
def pruned(trained: Trained, parts: list[Part], params: Params) -> Pruned:
    return prune(trained, parts, params, SHARE)


def random_network(params: Params, seed: int = 1) -> Network:
    torch.manual_seed(seed)
    network = build(params.model, COUNT, params.labels.horizons_ms).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


def rows_of(parts: list[Part], count: int = 1000) -> np.ndarray:
    return np.ascontiguousarray(parts[0].dataset.rows.features[-count:])


def kill(network: Network, layer: str, unit: int, *, mute: bool) -> None:
    """Take every effect from a unit: no weight reads it, or its own weights are zero."""
    weights = dict(network.named_parameters())
    if mute:
        for name in READERS[layer]:
            weights[name].data[:, unit] = 0
        return
    if "lstm" in layer:
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            weights[f"trunk.lstm.{name}_l{layer[-1]}"].data[[unit + gate * HIDDEN for gate in range(4)]] = 0
    else:
        for name in ("weight", "bias"):
            weights[f"{layer}.{name}"].data[unit] = 0


@settings(max_examples=12, deadline=None, derandomize=True)
@given(dead=dead_units)
def test_units_without_effect_are_pruned_first_and_change_nothing(
    dead: tuple[list[tuple[int, bool]], ...], parts: list[Part], params: Params
) -> None:
    network = random_network(params)
    for layer, units in zip(LAYERS, dead, strict=True):
        for unit, mute in units:
            kill(network, layer, unit, mute=mute)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    smaller, model = shrink(network, parts, params, SHARE)
    assert (model.channels, model.hidden) == (CHANNELS - DEAD, HIDDEN - DEAD)
    assert unit_counts(smaller) == {layer: CHANNELS - DEAD if "conv" in layer else HIDDEN - DEAD for layer in LAYERS}
    rows = torch.from_numpy(rows_of(parts, 300)).unsqueeze(0)
    with torch.inference_mode():
        expected, outputs = (member(rows, member.cold_state(1))[0] for member in (network, smaller))
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(outputs, expected, rtol=1e-6, atol=2e-6)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("layer", LAYERS)
def test_importance_is_the_squared_slope_of_the_loss_as_a_unit_fades(
    layer: str, parts: list[Part], params: Params
) -> None:
    """The formula against central differences: a unit is scaled by 1 ± ε wherever it is read."""
    train = structs.replace(params.train, sequences_per_epoch=params.train.batch)
    network, params = random_network(params), structs.replace(params, train=train)
    data = make_training_data(network, parts, sequence=train.sequence, burn_in=train.burn_in)
    index, weight = next(sample_batches(data, train))
    labelled = index[:, train.burn_in :]
    targets = [target[labelled] for target in (data.direction, data.binary, data.move, data.volatility)]
    loss = Loss(train.loss, torch.ones(2), params.labels.significant_bps / network.calibration.move_scale)

    def error(unit: int, gate: float) -> float:
        gated = copy.deepcopy(network)
        weights = dict(gated.named_parameters())
        with torch.no_grad():
            for name in READERS[layer]:
                weights[name][:, unit] *= gate
            outputs = outputs_after(gated, data.inputs[index], train.burn_in)
            return float(loss(outputs, *targets, weight).double() / mass(targets[0], weight))

    importance = importances(copy.deepcopy(network), parts, params)[layer]
    slopes = [(error(unit, 1.01) - error(unit, 0.99)) / 0.02 for unit in range(len(importance))]
    # The kinks of the leaky ReLUs make no difference exact.
    np.testing.assert_allclose(importance.sqrt(), np.abs(slopes), rtol=0.05, atol=2e-3)


def test_importance_is_of_what_a_unit_does_not_of_how_its_weights_are_scaled(parts: list[Part], params: Params) -> None:
    """A leaky ReLU is homogeneous: a channel scaled up and read with weights scaled down does the same."""
    network, scaled = random_network(params), random_network(params)
    weights = dict(scaled.named_parameters())
    for number, channel in itertools.product((0, 2), (1, 5)):
        weights[f"trunk.convolutions.{number}.weight"].data[channel] *= 8
        weights[f"trunk.convolutions.{number}.bias"].data[channel] *= 8
        weights[f"trunk.convolutions.{number + 2}.weight"].data[:, channel] /= 8
    expected, actual = (importances(member, parts, params) for member in (network, scaled))
    for layer, importance in expected.items():
        assert float(importance.min()) > 0
        torch.testing.assert_close(actual[layer], importance, rtol=1e-3, atol=0)


def test_importance_falls_with_the_weights_that_read_a_unit(parts: list[Part], params: Params) -> None:
    network = random_network(params)
    before = importances(network, parts, params)["trunk.lstm.1"]
    with torch.no_grad():
        for name in ("trunk.lstm.weight_hh_l1", "trunk.query.weight", "trunk.key.weight", "trunk.value.weight"):
            dict(network.named_parameters())[name][:, 3] *= 0.01
        network.readout.weight[:, 3] *= 0.01
    after = importances(network, parts, params)["trunk.lstm.1"]
    assert int(after.argmin()) == 3
    assert after[3] < 1e-2 * before[3]


def test_share_of_units_and_shapes(pruned: Pruned, params: Params, trained: Trained) -> None:
    assert (pruned.model.channels, pruned.model.hidden) == (4, 8)
    assert structs.replace(pruned.model, channels=CHANNELS, hidden=HIDDEN) == params.model
    network = pruned.trained.network
    assert network.state_size == 2 * 2 * 8 + 2 * 16 * 6 + 1 < trained.network.state_size
    assert torch.equal(network.location, trained.network.location)
    assert torch.equal(network.scale, trained.network.scale)
    assert torch.equal(network.calibration.move_scale, trained.network.calibration.move_scale)
    assert not torch.equal(network.calibration.direction_scale, trained.network.calibration.direction_scale)


@pytest.mark.parametrize(
    ("share", "sizes"), [(0.25, (12, 24)), (0.5, (8, 16)), (0.75, (4, 8)), (0.99, (4, 4)), (0.1, (16, 28))]
)
def test_sizes_are_multiples_of_four(share: float, sizes: tuple[int, int], parts: list[Part]) -> None:
    params = small_params(**{"model.channels": 16, "model.hidden": 32, "train.sequences_per_epoch": 8})
    _, model = shrink(random_network(params), parts, params, share)
    assert (model.channels, model.hidden) == sizes


def test_a_share_too_small_for_one_step_is_one_clear_error(parts: list[Part], params: Params) -> None:
    with pytest.raises(TrainingError, match=r"0\.1 takes nothing from 8 channels and 12 hidden units.*raise"):
        shrink(random_network(params), parts, params, 0.1)


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - {"cnn_lstm_attention"}))
def test_other_networks_have_no_units_to_prune(name: str, parts: list[Part], params: Params) -> None:
    other = structs.replace(params, model=structs.replace(params.model, network=name))
    network = build(other.model, COUNT, params.labels.horizons_ms)
    with pytest.raises(TrainingError, match="cnn_lstm_attention"):
        prune(Trained(network, ()), parts, other, 0.5)


def loss_on(network: Network, parts: list[Part], rows: str, calibration: Network) -> float:
    """Return the mean cross-entropy over both horizons, with another network's calibration."""
    network = copy.deepcopy(network)
    network.calibration.load_state_dict(calibration.calibration.state_dict())
    return validation_loss(network, parts[0].dataset, getattr(parts[0].split, rows), (1, 1))


def distance(network: Network, trained: Trained, parts: list[Part]) -> float:
    """Return the largest difference of a direction's probability from the whole network's, the mean over test rows."""
    student, whole = (predict(each, parts[0].dataset, parts[0].split.test)[0] for each in (network, trained.network))
    return float(np.abs(student - whole).max(axis=2).mean())


def test_distillation_brings_it_back_to_the_whole_network(trained: Trained, parts: list[Part], params: Params) -> None:
    smaller, _ = shrink(trained.network, parts, params, SHARE)
    before = distance(smaller, trained, parts)
    long = structs.replace(params.train, sequences_per_epoch=128, learning_rate=0.01)
    history = distil(smaller, trained.network, parts, structs.replace(params, train=long))
    assert history[-1].train_loss < 0.2 * history[0].train_loss
    assert distance(smaller, trained, parts) < 0.5 * before


def test_the_last_epoch_is_kept_even_where_another_validates_better(
    trained: Trained, parts: list[Part], params: Params
) -> None:
    wild = structs.replace(
        params,
        train=structs.replace(params.train, learning_rate=0.05),
        compress=structs.replace(params.compress, fine_tune_epochs=6),
    )
    epochs: list[Epoch] = []
    student = prune(trained, parts, wild, SHARE, on_epoch=epochs.append).trained
    assert tuple(epochs) == student.history
    assert [epoch.epoch for epoch in epochs] == [1, 2, 3, 4, 5, 6]
    losses = [epoch.validation_loss for epoch in epochs]
    # A rate that great makes it worse in the end; else this test would prove nothing.
    assert losses[-1] > 1.01 * min(losses)
    assert loss_on(student.network, parts, "validation", trained.network) == pytest.approx(losses[-1], rel=1e-5)


def test_a_loss_that_is_not_finite_is_one_clear_error(trained: Trained, parts: list[Part], params: Params) -> None:
    wild = structs.replace(params, train=structs.replace(params.train, learning_rate=1e30))
    with pytest.raises(TrainingError, match=r"epoch \d+: the loss is not finite; lower train.learning_rate"):
        prune(trained, parts, wild, SHARE)


def test_labels_that_are_validated_only_calibrate(
    pruned: Pruned, trained: Trained, parts: list[Part], params: Params
) -> None:
    dataset, rows = parts[0].dataset, parts[0].split.validation
    labels = dataset.labels.copy()
    labels[rows] = (labels[rows] + 1) % 3
    other = prune(trained, [replace(parts[0], dataset=replace(dataset, labels=labels))], params, SHARE).trained
    assert other.history != pruned.trained.history
    weights = dict(pruned.trained.network.named_parameters())
    assert all(torch.equal(weight, weights[name]) for name, weight in other.network.named_parameters())
    assert not torch.equal(other.network.calibration.direction_bias, pruned.trained.network.calibration.direction_bias)


def test_the_same_seed_gives_the_same_bits(pruned: Pruned, trained: Trained, parts: list[Part], params: Params) -> None:
    torch.manual_seed(99)
    again = prune(trained, parts, params, SHARE)
    assert again.model == pruned.model
    assert again.trained.history == pruned.trained.history
    state = again.trained.network.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in pruned.trained.network.state_dict().items())


def test_a_pruned_network_survives_its_file(pruned: Pruned, parts: list[Part], params: Params, tmp_path: Path) -> None:
    save_network(pruned.trained, pruned.model, params.labels.horizons_ms, tmp_path)
    again = load_network(tmp_path)
    assert again.history == pruned.trained.history
    rows = parts[0].split.test
    for original, reloaded in zip(
        predict(pruned.trained.network, parts[0].dataset, rows),
        predict(again.network, parts[0].dataset, rows),
        strict=True,
    ):
        np.testing.assert_array_equal(original, reloaded)


@pytest.fixture(scope="module")
def padded(pruned: Pruned, trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("padded") / "model.onnx"
    export_onnx(pruned.trained.network, path, trained.network.state_size)
    return path


def test_the_wire_keeps_its_state_and_the_file_its_promise(
    padded: Path, pruned: Pruned, trained: Trained, parts: list[Part]
) -> None:
    model, network, rows = OnnxModel(padded), pruned.trained.network, rows_of(parts)
    used = network.state_size
    assert model.state_size == trained.network.state_size > used
    assert parity(network, model, rows, 1e-5).passed
    at_once, stepped = model.run(rows[None], model.cold_state()), model.predict(rows, chunk=1)
    for chunk, steps in zip((at_once.probabilities[0], at_once.outlook[0], at_once.next_state), stepped, strict=True):
        np.testing.assert_allclose(chunk, steps, atol=1e-5)
    with torch.inference_mode():
        _, state = network(torch.from_numpy(rows).unsqueeze(0), network.cold_state(1))
    np.testing.assert_allclose(at_once.next_state[:, :used], state.numpy(), atol=1e-5)
    assert not at_once.next_state[:, used:].any()


def test_what_lies_behind_the_used_state_is_never_read(padded: Path, pruned: Pruned, parts: list[Part]) -> None:
    model, rows, used = OnnxModel(padded), rows_of(parts, 20)[None], pruned.trained.network.state_size
    state = np.random.default_rng(3).normal(size=model.cold_state().shape).astype(np.float32)
    state[:, used - 1] = 5
    zeroed, garbled = state.copy(), state.copy()
    zeroed[:, used:], garbled[:, used:] = 0, np.nan
    for clean, dirty in zip(model.run(rows, zeroed), model.run(rows, garbled), strict=True):
        np.testing.assert_array_equal(clean, dirty)


def test_parity_refuses_another_pruned_network(
    padded: Path, trained: Trained, parts: list[Part], params: Params
) -> None:
    other, _ = shrink(trained.network, parts, params, SHARE)
    assert not parity(other, OnnxModel(padded), rows_of(parts), 1e-5).passed


@pytest.mark.parametrize("size", [None, 2 * 2 * HIDDEN + 2 * 16 * 6 + 1])
def test_a_state_of_the_networks_own_size_changes_no_byte(size: int | None, params: Params, tmp_path: Path) -> None:
    network = random_network(params)
    export_onnx(network, tmp_path / "model.onnx", size)
    export_onnx(network, tmp_path / "plain.onnx")
    assert (tmp_path / "model.onnx").read_bytes() == (tmp_path / "plain.onnx").read_bytes()
    nodes = {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}
    assert "Pad" not in nodes


def test_a_network_that_remembers_more_than_the_wire_carries_is_one_clear_error(params: Params) -> None:
    network = random_network(params)
    with pytest.raises(ContractError, match=rf"{network.state_size} numbers .* {network.state_size - 1} .* model.name"):
        FoldedNetwork(network, network.state_size - 1)

"""Every network of the registry: built, trained, saved, loaded, exported, and stepped row by row."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, get_args

import msgspec
import numpy as np
import pytest
import torch

from lobsmith.compress.export import export_onnx
from lobsmith.compress.runtime import OnnxModel
from lobsmith.errors import TrainingError
from lobsmith.evaluation.baselines import with_network
from lobsmith.features.dataset import Dataset
from lobsmith.features.definitions import COUNT, NAMES
from lobsmith.models.networks.network import Network, ServedNetwork
from lobsmith.models.networks.registry import NETWORKS, architecture, build, state_size
from lobsmith.models.split import longest_run
from lobsmith.models.train import Trained, load_network, predict, save_network, train
from lobsmith.models.training_data import Part, parts_of
from lobsmith.params import NetworkName, Params, load_params
from tests.small import SMALL, params_file

ROWS = 250


class SavedNetwork(NamedTuple):
    """One trained network, and the model that was exported from it."""

    params: Params
    trained: Trained
    model: OnnxModel
    folder: Path

    @property
    def network(self) -> Network:
        return self.trained.network


@pytest.fixture(scope="module")
def parts(dataset: Dataset, params: Params) -> list[Part]:
    return parts_of([dataset], params.split)


@pytest.fixture(scope="module", params=list(NETWORKS))
def saved(
    request: pytest.FixtureRequest, parts: list[Part], params: Params, tmp_path_factory: pytest.TempPathFactory
) -> SavedNetwork:
    chosen = with_network(params, request.param)
    folder = tmp_path_factory.mktemp(request.param)
    trained = train(parts, chosen)
    save_network(trained, chosen.model, params.labels.horizons_ms, folder)
    export_onnx(trained.network, folder / "model.onnx")
    return SavedNetwork(chosen, trained, OnnxModel(folder / "model.onnx"), folder)


@pytest.fixture(scope="module")
def rows(dataset: Dataset, parts: list[Part]) -> np.ndarray:
    start, stop = longest_run(dataset, parts[0].split.test)
    assert stop - start >= ROWS
    return dataset.rows.features[start : start + ROWS]


def served(network: Network, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """PyTorch's outputs for rows at once."""
    with torch.inference_mode():
        features = torch.from_numpy(np.ascontiguousarray(rows)).unsqueeze(0)
        probabilities, outlook, _ = ServedNetwork(network)(features, network.cold_state(1))
    return probabilities[0].numpy(), outlook[0].numpy()


def test_it_trains(saved: SavedNetwork) -> None:
    history = saved.trained.history
    assert len(history) == (2 if architecture(saved.params.model.network).learns == "gradient" else 1)
    assert all(np.isfinite([epoch.train_loss, epoch.validation_loss]).all() for epoch in history)
    assert all(epoch.epoch == number for number, epoch in enumerate(history, start=1))
    # The weights have changed.
    fresh = build(saved.params.model, COUNT, saved.params.labels.horizons_ms)
    state = saved.network.state_dict()
    assert any(not torch.equal(tensor, state[name]) for name, tensor in fresh.named_parameters())


def test_answers_are_probabilities_and_differ_from_row_to_row(saved: SavedNetwork, rows: np.ndarray) -> None:
    probabilities, outlook = served(saved.network, rows)
    assert probabilities.shape == (ROWS, 2, 3)
    assert outlook.shape == (ROWS, 2, 5)
    np.testing.assert_allclose(probabilities.sum(axis=2), 1.0, atol=1e-5)
    assert np.isfinite(outlook).all()
    assert ((outlook[:, :, :3] >= 0) & (outlook[:, :, :3] <= 1)).all()
    assert (outlook[:, :, 4] >= 0).all()
    assert (np.ptp(probabilities, axis=0) > 1e-3).any()


def test_saved_and_loaded_again_it_answers_the_same(saved: SavedNetwork, dataset: Dataset, parts: list[Part]) -> None:
    loaded = load_network(saved.folder)
    assert loaded.history == saved.trained.history
    assert loaded.uncalibrated == saved.trained.uncalibrated
    states = loaded.network.state_dict(), saved.network.state_dict()
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name
    chosen = parts[0].split.test[:100]
    for reloaded, original in zip(
        *(predict(each, dataset, chosen) for each in (loaded.network, saved.network)), strict=True
    ):
        np.testing.assert_array_equal(reloaded, original)


def test_the_exported_model_stepped_row_by_row_equals_torch_at_once(saved: SavedNetwork, rows: np.ndarray) -> None:
    probabilities, outlook = served(saved.network, rows)
    stepped = saved.model.predict(rows, chunk=1)
    np.testing.assert_allclose(stepped[0], probabilities, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(stepped[1], outlook, rtol=1e-4, atol=1e-5)


def test_the_state_is_as_large_as_declared(saved: SavedNetwork) -> None:
    size = state_size(saved.params.model, COUNT, saved.params.labels.horizons_ms)
    assert saved.network.state_size == saved.model.state_size == size > 0
    answers = saved.model.run(np.zeros((3, 2, COUNT), np.float32), saved.model.cold_state(3))
    assert answers.next_state.shape == (3, size)
    state = saved.network.cold_state(3)
    assert saved.network(torch.zeros(3, 2, COUNT), state)[1].shape == state.shape == (3, size)


def test_the_past_does_not_change_with_the_future(saved: SavedNetwork, rows: np.ndarray) -> None:
    before = served(saved.network, rows)
    for changed in (1, 120, ROWS - 1):
        other = rows.copy()
        other[changed:] += np.random.default_rng(changed).normal(size=other[changed:].shape).astype(np.float32) * 5
        after = served(saved.network, other)
        for first, second in zip(before, after, strict=True):
            np.testing.assert_array_equal(first[:changed], second[:changed])
        assert any((first[changed] != second[changed]).any() for first, second in zip(before, after, strict=True))


def test_only_a_network_with_a_memory_remembers(saved: SavedNetwork, rows: np.ndarray) -> None:
    remembers = saved.params.model.network not in ("logistic", "queue_imbalance")
    warm, cold = served(saved.network, rows)[0][-1], served(saved.network, rows[-1:])[0][0]
    assert remembers == (np.abs(warm - cold).max() > 1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_name_builds_at_full_size(name: str) -> None:
    params = with_network(load_params(params_file()), name)
    network = build(params.model, COUNT, params.labels.horizons_ms).eval()
    assert network.horizons == len(params.labels.horizons_ms) == 4
    outputs, state = network(torch.zeros(2, 3, COUNT), network.cold_state(2))
    assert outputs.shape == (2, 3, 4, 8)
    assert state.shape == (2, network.state_size)


@pytest.mark.parametrize("name", ["", "LSTM", "transformer"])
def test_an_unknown_name_is_one_clear_error(name: str) -> None:
    params = with_network(load_params(params_file(), SMALL), name)
    with pytest.raises(
        TrainingError, match=r"model.network is '.*'; choose one of cnn_lstm_attention, lstm, .*bin_ctabl"
    ):
        build(params.model, COUNT, params.labels.horizons_ms)
    with pytest.raises(TrainingError, match="choose one of"):
        state_size(params.model, COUNT, params.labels.horizons_ms)


def test_a_saved_network_of_another_kind_is_one_clear_error(saved: SavedNetwork, tmp_path: Path) -> None:
    other = "logistic" if saved.params.model.network != "logistic" else "lstm"
    wrong = msgspec.structs.replace(saved.params.model, network=other)
    save_network(saved.trained, wrong, saved.params.labels.horizons_ms, tmp_path)
    with pytest.raises(
        TrainingError, match=r"(?s)weights.safetensors: not a trained network: .*run the train stage again"
    ):
        load_network(tmp_path)


def test_queue_imbalance_answers_the_counted_shares(dataset: Dataset, parts: list[Part], params: Params) -> None:
    network = train(parts, with_network(params, "queue_imbalance")).network
    # Without its calibration, which is fitted to other rows.
    fresh = type(network.calibration)(network.horizons)
    cuts = parts[0].split
    column = dataset.rows.features[:, NAMES.index("imbalance_1")]
    # Edges are taken over every row that trains; those that equal an edge belong to the tenth below.
    trained_on = column[cuts.train]
    standardised = (trained_on - network.location[NAMES.index("imbalance_1")].item()) / network.scale[
        NAMES.index("imbalance_1")
    ].item()
    tenth = np.searchsorted(network.trunk.edges.numpy(), standardised, side="left")
    inside = np.flatnonzero(np.isin(tenth, range(10)))
    assert len(inside) == len(cuts.train)
    labels = dataset.labels[cuts.train]
    with torch.inference_mode():
        features = torch.from_numpy(dataset.rows.features[cuts.train]).unsqueeze(0)
        outputs = network(features, network.cold_state(1))[0][0]
        shares = fresh(outputs)[0].numpy()
    assert len(np.unique(tenth)) == 10
    for b in range(10):
        chosen = tenth == b
        assert chosen.sum() > 30
        for h in range(2):
            counts = np.bincount(labels[chosen, h], minlength=3) + 1.0
            np.testing.assert_allclose(shares[chosen, h], np.tile(counts / counts.sum(), (chosen.sum(), 1)), atol=1e-5)
    # The more bids, the more often it goes up.
    np.testing.assert_array_less(shares[tenth == 0, 0, 2].mean(), shares[tenth == 9, 0, 2].mean())


def test_the_parameters_know_the_same_names() -> None:
    assert set(get_args(NetworkName)) == set(NETWORKS)


@pytest.mark.parametrize("name", ["queue_imbalance", "logistic"])
def test_rows_before_a_gap_without_labels_are_not_counted(name: str, dataset: Dataset, params: Params) -> None:
    """The last seconds before a gap have features but no label."""
    segment = dataset.rows.segment.copy()
    segment[len(segment) // 4 :] += 1
    labels = dataset.labels.copy()
    near = dataset.rows.time[len(segment) // 4] - dataset.rows.time[: len(segment) // 4] < 10**9
    labels[: len(segment) // 4][near] = -1
    torn = replace(dataset, rows=replace(dataset.rows, segment=segment), labels=labels)
    trained = train(parts_of([torn], params.split), with_network(params, name))
    assert all(tensor.isfinite().all() for tensor in trained.network.state_dict().values())

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec import structs

from lobsmith.errors import TrainingError
from lobsmith.features.dataset import Dataset, build_dataset, save_dataset
from lobsmith.market.simulator import simulate
from lobsmith.models.checkpoint import CHECKPOINT
from lobsmith.models.networks.registry import NETWORKS
from lobsmith.models.split import Split, runs, split
from lobsmith.models.train import Trained, load_network, predict, save_network, train
from lobsmith.models.trainer import Epoch
from lobsmith.models.training_data import Part
from lobsmith.params import Params
from lobsmith.stages.train import train_stage
from tests.small import small_params

MS = 1_000_000


def assert_same(first: Trained, other: Trained) -> None:
    state = other.network.state_dict()
    assert first.network.state_dict().keys() == state.keys()
    for name, tensor in first.network.state_dict().items():
        assert torch.equal(tensor, state[name]), name


@pytest.fixture(scope="module")
def parts(dataset: Dataset, params: Params) -> Split:
    return split(dataset, params.split)


@pytest.fixture(scope="module")
def trained(dataset: Dataset, parts: Split, params: Params) -> Trained:
    return train([Part(dataset, parts)], params)


def test_parts_follow_each_other_and_no_label_looks_across(dataset: Dataset, parts: Split) -> None:
    time, horizon = dataset.rows.time, max(dataset.horizons_ms) * MS
    assert time[parts.train].max() + horizon < time[parts.validation].min()
    assert time[parts.validation].max() + horizon < time[parts.test].min()
    assert dataset.usable[np.concatenate([parts.train, parts.validation, parts.test])].all()


def test_the_same_seed_gives_the_same_bits(dataset: Dataset, parts: Split, params: Params, trained: Trained) -> None:
    again = train([Part(dataset, parts)], params)
    assert again.history == trained.history
    assert_same(again, trained)


def test_labels_outside_the_training_part_are_never_used(
    dataset: Dataset, parts: Split, params: Params, trained: Trained
) -> None:
    labels = dataset.labels.copy()
    outside = np.ones(len(labels), bool)
    outside[parts.train] = False
    outside[parts.validation] = False
    labels[outside] = (labels[outside] + 1) % 3
    targets = {}
    for name, array in vars(dataset.targets).items():
        changed = array.copy()
        changed[outside] = 1 - changed[outside]
        targets[name] = changed
    other = replace(dataset, labels=labels, targets=replace(dataset.targets, **targets))
    again = train([Part(other, parts)], params)
    assert again.history == trained.history
    assert_same(again, trained)


def test_validation_labels_are_never_trained_on(
    dataset: Dataset, parts: Split, params: Params, trained: Trained
) -> None:
    labels = dataset.labels.copy()
    labels[parts.validation] = (labels[parts.validation] + 1) % 3
    again = train([Part(replace(dataset, labels=labels), parts)], params)
    assert [epoch.train_loss for epoch in again.history] == [epoch.train_loss for epoch in trained.history]
    assert [epoch.validation_loss for epoch in again.history] != [epoch.validation_loss for epoch in trained.history]


def test_learns_what_the_simulator_holds() -> None:
    params = small_params(**{"train.epochs": 6, "train.sequences_per_epoch": 256})
    dataset = build_dataset(simulate(seed=5, seconds=300), params)
    parts = split(dataset, params.split)
    trained = train([Part(dataset, parts)], params)
    assert trained.history[-1].train_loss < trained.history[0].train_loss
    labels = dataset.labels[parts.test, 0]
    shares = np.bincount(dataset.labels[parts.train, 0], minlength=3) / len(parts.train)
    log_p = np.log(predict(trained.network, dataset, parts.test)[0][:, 0])
    assert -log_p[np.arange(len(log_p)), labels].mean() < 0.95 * -np.log(shares[labels]).mean()


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_learns_and_survives_its_file(
    name: str, dataset: Dataset, parts: Split, params: Params, tmp_path: Path
) -> None:
    changed = structs.replace(params, model=structs.replace(params.model, network=name))
    trained = train([Part(dataset, parts)], changed)
    assert trained.history
    assert all(np.isfinite([epoch.train_loss, epoch.validation_loss]).all() for epoch in trained.history)
    probabilities, outlook = predict(trained.network, dataset, parts.test)
    assert (probabilities.shape, outlook.shape) == ((len(parts.test), 2, 3), (len(parts.test), 2, 5))
    np.testing.assert_allclose(probabilities.sum(axis=2), 1, atol=1e-5)
    assert np.isfinite(outlook).all()
    assert (np.ptp(probabilities, axis=0) > 0).all()
    save_network(trained, changed.model, dataset.horizons_ms, tmp_path)
    assert_same(load_network(tmp_path), trained)


def test_an_unknown_network_is_one_clear_error(dataset: Dataset, parts: Split, params: Params) -> None:
    changed = structs.replace(params, model=structs.replace(params.model, network="oracle"))
    with pytest.raises(TrainingError, match="model.network is 'oracle'; choose one of cnn_lstm_attention"):
        train([Part(dataset, parts)], changed)


def test_a_killed_training_goes_on_to_the_same_weights(dataset: Dataset, trained: Trained, tmp_path: Path) -> None:
    path, folder = tmp_path / "dataset.safetensors", tmp_path / "run"
    save_dataset(dataset, path)
    folder.mkdir()

    def interrupt(epoch: Epoch) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_stage(small_params(), [path], folder, on_epoch=interrupt)
    assert (folder / CHECKPOINT).exists()
    epochs: list[int] = []
    resumed = train_stage(small_params(), [path], folder, on_epoch=lambda epoch: epochs.append(epoch.epoch))
    assert epochs == [2]
    assert resumed.history == trained.history
    assert_same(resumed, trained)
    assert_same(load_network(folder), trained)
    assert not (folder / CHECKPOINT).exists()


def test_saved_and_loaded_again_it_is_the_same(
    dataset: Dataset, parts: Split, params: Params, trained: Trained, tmp_path: Path
) -> None:
    save_network(trained, params.model, dataset.horizons_ms, tmp_path)
    loaded = load_network(tmp_path)
    assert (loaded.history, loaded.uncalibrated) == (trained.history, trained.uncalibrated)
    assert_same(loaded, trained)
    for reloaded, original in zip(*(predict(t.network, dataset, parts.test) for t in (loaded, trained)), strict=True):
        np.testing.assert_array_equal(reloaded, original)


@pytest.mark.parametrize("content", [None, b"", b"garbage", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_bad_weights_file_is_one_clear_error(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "weights.safetensors").write_bytes(content)
    with pytest.raises(TrainingError, match="weights.safetensors"):
        load_network(tmp_path)


def test_runs_break_at_gaps_and_at_incomplete_rows(dataset: Dataset) -> None:
    rows = dataset.rows.slice(300, 400)
    segment, complete = rows.segment.copy(), np.ones(100, bool)
    segment[40:] += 1
    complete[70:75] = False
    broken = replace(
        dataset,
        rows=replace(rows, segment=segment, complete=complete),
        labels=dataset.labels[300:400],
        targets=dataset.targets.slice(300, 400),
    )
    assert runs(broken, np.asarray([0, 99])) == [(0, 40), (40, 70), (75, 100)]


def test_too_little_data_is_one_clear_error(dataset: Dataset, params: Params) -> None:
    short = replace(
        dataset, rows=dataset.rows.slice(0, 210), labels=dataset.labels[:210], targets=dataset.targets.slice(0, 210)
    )
    with pytest.raises(TrainingError, match=r"SIM"):
        train([Part(short, split(short, params.split))], params)

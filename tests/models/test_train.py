from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lobsmith.errors import TrainingError
from lobsmith.features.dataset import Dataset, build_dataset
from lobsmith.market.simulator import simulate
from lobsmith.models.split import Split, runs, split
from lobsmith.models.train import Trained, load_network, log_probabilities, save_network, train
from lobsmith.params import Params
from tests.small import small_params

MS = 1_000_000


@pytest.fixture(scope="module")
def parts(dataset: Dataset, params: Params) -> Split:
    return split(dataset, params.split)


@pytest.fixture(scope="module")
def trained(dataset: Dataset, parts: Split, params: Params) -> Trained:
    return train(dataset, parts, params)


def test_parts_follow_each_other_and_no_label_looks_across(dataset: Dataset, parts: Split) -> None:
    time, horizon = dataset.rows.time, max(dataset.horizons_ms) * MS
    assert time[parts.train].max() + horizon < time[parts.validation].min()
    assert time[parts.validation].max() + horizon < time[parts.test].min()
    assert dataset.usable[np.concatenate([parts.train, parts.validation, parts.test])].all()


def test_the_same_seed_gives_the_same_bits(dataset: Dataset, parts: Split, params: Params, trained: Trained) -> None:
    again = train(dataset, parts, params)
    assert again.history == trained.history
    for name, tensor in trained.network.state_dict().items():
        assert torch.equal(tensor, again.network.state_dict()[name]), name


def test_labels_outside_the_training_part_are_never_learnt(
    dataset: Dataset, parts: Split, params: Params, trained: Trained
) -> None:
    labels = dataset.labels.copy()
    outside = np.ones(len(labels), bool)
    outside[parts.train] = False
    outside[parts.validation] = False
    labels[outside] = (labels[outside] + 1) % 3
    again = train(replace(dataset, labels=labels), parts, params)
    assert again.history == trained.history


def test_learns_what_the_simulator_holds() -> None:
    params = small_params(**{"train.epochs": 6, "train.sequences_per_epoch": 256})
    dataset = build_dataset(simulate(seed=5, seconds=300), params)
    parts = split(dataset, params.split)
    trained = train(dataset, parts, params)
    assert trained.history[-1].train_loss < trained.history[0].train_loss
    labels = dataset.labels[parts.test, 0]
    shares = np.bincount(dataset.labels[parts.train, 0], minlength=3) / len(parts.train)
    log_p = log_probabilities(trained.network, dataset, parts.test)[:, 0].numpy()
    assert -log_p[np.arange(len(log_p)), labels].mean() < 0.95 * -np.log(shares[labels]).mean()


def test_saved_and_loaded_again_it_is_the_same(trained: Trained, tmp_path: Path) -> None:
    save_network(trained, tmp_path)
    loaded = load_network(tmp_path)
    assert loaded.history == trained.history
    for name, tensor in trained.network.state_dict().items():
        assert torch.equal(tensor, loaded.network.state_dict()[name]), name


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
    broken = replace(dataset, rows=replace(rows, segment=segment, complete=complete), labels=dataset.labels[300:400])
    assert runs(broken, np.asarray([0, 99])) == [(0, 40), (40, 70), (75, 100)]


def test_too_little_data_is_one_clear_error(dataset: Dataset, params: Params) -> None:
    short = replace(dataset, rows=dataset.rows.slice(0, 210), labels=dataset.labels[:210])
    with pytest.raises(TrainingError, match=r"SIM"):
        train(short, split(short, params.split), params)

"""What a network is trained on: training rows only, drawn without bias, cut so that no label looks ahead."""

from collections.abc import Callable
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch

from lobsmith.errors import TrainingError
from lobsmith.features.dataset import Dataset, build_dataset
from lobsmith.features.definitions import COUNT, mirror
from lobsmith.features.labels import UNKNOWN
from lobsmith.market.simulator import simulate
from lobsmith.models.networks.network import Network
from lobsmith.models.networks.registry import NETWORKS, build
from lobsmith.models.split import cut, split, split_beside, train_only, usable_rows
from lobsmith.models.training_data import Part, Sampler, TrainingData, fit_inputs, make_training_data, parts_of
from lobsmith.params import Params

MS = 1_000_000


@pytest.fixture(scope="module")
def parts(dataset: Dataset, params: Params) -> list[Part]:
    return parts_of([dataset], params.split)


@pytest.fixture(scope="module")
def beside(params: Params) -> Dataset:
    """Another instrument: it goes on for longer, and its rows are at other times."""
    return build_dataset(simulate(seed=6, seconds=90), params)


def fresh(params: Params, name: str = "logistic") -> Network:
    torch.manual_seed(1)
    model = msgspec.structs.replace(params.model, network=name)
    return build(model, COUNT, params.labels.horizons_ms)


def disturbed(dataset: Dataset, where: np.ndarray) -> Dataset:
    """The dataset with everything different at some rows."""
    random = np.random.default_rng(3)
    rows, targets = dataset.rows, dataset.targets
    features, raw, mid = rows.features.copy(), rows.raw.copy(), rows.mid.copy()
    features[where] += random.normal(size=features[where].shape).astype(np.float32) * 5
    raw[where] += 3
    mid[where] += random.integers(1, 100, mid[where].shape)
    labels = dataset.labels.copy()
    labels[where] = (labels[where] + 1) % 3
    other = {name: column.copy() for name, column in vars(targets).items()}
    for column in other.values():
        column[where] = column[where] * 0 + 1
    return replace(
        dataset,
        rows=replace(rows, features=features, raw=raw, mid=mid),
        labels=labels,
        targets=replace(targets, **other),
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_inputs_are_fitted_to_training_rows_only(parts: list[Part], params: Params, name: str) -> None:
    dataset, cuts = parts[0].dataset, parts[0].split
    networks = []
    after = np.arange(len(dataset.rows)) > cuts.train[-1]
    before = np.arange(len(dataset.rows)) < cuts.train[-1]
    for variant in (dataset, disturbed(dataset, after), disturbed(dataset, before)):
        network = fresh(params, name)
        fit_inputs(network, [Part(variant, cuts)], symmetric=True)
        networks.append(network.state_dict())
    for key, tensor in networks[0].items():
        assert torch.equal(tensor, networks[1][key]), key
    assert not torch.equal(networks[0]["location"], networks[2]["location"])
    assert not torch.equal(networks[0]["calibration.volatility_scale"], networks[2]["calibration.volatility_scale"])


def test_inputs_are_in_units_of_the_training_rows(parts: list[Part], params: Params) -> None:
    network = fresh(params)
    fit_inputs(network, parts, symmetric=False)
    features = parts[0].dataset.rows.features[parts[0].split.train].astype(np.float64)
    np.testing.assert_allclose(network.location, features.mean(axis=0), rtol=1e-5, atol=1e-6)
    moves = features.std(axis=0) > 1e-6
    np.testing.assert_allclose(network.scale[moves], features.std(axis=0)[moves], rtol=1e-5)
    np.testing.assert_array_equal(network.scale[~moves], 1.0)
    assert moves.sum() > 60
    move = parts[0].dataset.targets.move[parts[0].split.train].astype(np.float64)
    np.testing.assert_allclose(network.calibration.move_scale, np.sqrt((move**2).mean(axis=0)), rtol=1e-5)


def test_symmetric_inputs_do_not_tell_bids_from_asks(parts: list[Part], params: Params) -> None:
    network = fresh(params)
    fit_inputs(network, parts, symmetric=True)
    source, sign = mirror()
    location, scale = network.location, network.scale
    torch.testing.assert_close(location[list(source)] * torch.tensor(sign), location)
    torch.testing.assert_close(scale[list(source)], scale)
    alone = fresh(params)
    fit_inputs(alone, parts, symmetric=False)
    assert not torch.allclose(alone.location[list(source)] * torch.tensor(sign), alone.location)


def test_what_is_no_training_row_is_known_to_no_loss(parts: list[Part], params: Params) -> None:
    network = fresh(params)
    fit_inputs(network, parts, symmetric=True)
    rows = make_training_data(network, parts, sequence=32, burn_in=16)
    trains = np.zeros(len(rows.inputs), bool)
    trains[parts[0].split.train] = True
    assert (rows.direction[~trains] == UNKNOWN).all()
    assert (rows.binary[~trains] == UNKNOWN).all()
    assert rows.move[~trains].isnan().all()
    assert rows.volatility[~trains].isnan().all()
    np.testing.assert_array_equal(rows.direction[trains], parts[0].dataset.labels[trains])
    assert not rows.move[trains].isnan().any()
    # In units of the training's root mean square.
    torch.testing.assert_close(rows.move[trains].square().mean(dim=0), torch.ones(2), rtol=1e-4, atol=0)
    assert not rows.significant[~trains].any()
    assert rows.inputs.abs().max() <= 8


def test_sequences_lie_in_one_gap_free_run_of_the_training_span(parts: list[Part], params: Params) -> None:
    dataset, cuts = parts[0].dataset, parts[0].split
    segment = (np.arange(len(dataset.rows)) // 400).astype(np.int64)
    broken = Part(replace(dataset, rows=replace(dataset.rows, segment=segment)), cuts)
    network = fresh(params)
    fit_inputs(network, parts, symmetric=True)
    starts = make_training_data(network, [broken, parts[0]], sequence=32, burn_in=16).starts
    first = starts[starts < len(dataset.rows)]
    assert len(first) > 100
    assert len(starts) > 2 * len(first) > 0
    for start in first:
        assert segment[start] == segment[start + 47]
        assert dataset.rows.complete[start : start + 48].all()
        assert start + 47 <= cuts.train[-1]
    possible = sum(
        segment[row] == segment[row + 47] and bool(dataset.rows.complete[row : row + 48].all())
        for row in range(cuts.train[0], cuts.train[-1] - 46)
    )
    assert len(first) == possible
    second = starts[starts >= len(dataset.rows)] - len(dataset.rows)
    assert (second[0], second[-1]) == (cuts.train[0], cuts.train[-1] - 47)


def test_no_run_that_is_long_enough_is_one_clear_error(parts: list[Part], params: Params) -> None:
    network = fresh(params)
    fit_inputs(network, parts, symmetric=True)
    with pytest.raises(TrainingError, match=r"SIM: no gap-free run of 100016 rows .*train.burn_in \+ train.sequence"):
        make_training_data(network, parts, sequence=100_000, burn_in=16)


SEQUENCE, BURN_IN = 8, 4


@pytest.fixture
def rare() -> TrainingData:
    """Three thousand rows, of which few have a significant move."""
    significant = np.zeros(3000, bool)
    significant[[0, 1, 2, 500, 501, 1700, 2999]] = True
    none = torch.zeros(0)
    return TrainingData(none, none, none, none, none, np.arange(3000 - SEQUENCE - BURN_IN + 1), significant)


@pytest.fixture
def sampler(rare: TrainingData) -> Callable[..., Sampler]:
    def make(priority: float, uniform_share: float, seed: int = 1) -> Sampler:
        return Sampler(
            rare,
            sequence=SEQUENCE,
            burn_in=BURN_IN,
            priority=priority,
            uniform_share=uniform_share,
            generator=np.random.default_rng(seed),
        )

    return make


def holds(rare: TrainingData) -> np.ndarray:
    """Whether a sequence has a significant move where a loss is taken."""
    return np.array([rare.significant[start + BURN_IN : start + BURN_IN + SEQUENCE].any() for start in rare.starts])


def test_sequences_with_a_significant_move_come_so_many_times_as_often(
    rare: TrainingData, sampler: Callable[..., Sampler]
) -> None:
    with_move = holds(rare)
    assert 0 < with_move.sum() < 60
    draws = 400_000
    for priority in (1.0, 10.0, 100.0):
        starts, _ = sampler(priority, 0.0).draw(draws)
        count = with_move[starts].sum()
        rate = count / with_move.sum()
        other = (draws - count) / (~with_move).sum()
        # The ratio's standard error is that of the rarer count.
        assert rate / other == pytest.approx(priority, rel=4 / np.sqrt(min(count, draws - count)))


@pytest.mark.parametrize("uniform_share", [0.1, 0.5, 1.0])
def test_no_sequence_counts_more_than_the_uniform_share_allows(
    sampler: Callable[..., Sampler], uniform_share: float
) -> None:
    _, weights = sampler(100.0, uniform_share).draw(100_000)
    assert weights.max() <= (1 + 1e-6) / uniform_share
    if uniform_share == 1.0:
        np.testing.assert_allclose(weights, 1.0, rtol=1e-5)
    else:
        assert weights.max() > 1.1
        assert weights.min() < 0.2


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("priority", "uniform_share"), [(1, 0.5), (100, 0.5), (100, 0.05), (30, 0)])
def test_the_weighted_mean_is_that_of_all_sequences(
    rare: TrainingData, sampler: Callable[..., Sampler], priority: float, uniform_share: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    functions = [random.normal(size=3000), np.where(rare.significant, 1.0, 0.0), np.linspace(-1, 1, 3000) ** 3]
    functions.append(np.concatenate([holds(rare), np.zeros(3000)])[:3000])
    starts, weights = sampler(priority, uniform_share, seed).draw(50_000)
    for values in functions:
        drawn = values[starts] * weights
        error = drawn.std() / np.sqrt(len(drawn))
        assert abs(drawn.mean() - values[rare.starts].mean()) <= 4 * error


def test_without_the_weights_it_would_not_be(rare: TrainingData, sampler: Callable[..., Sampler]) -> None:
    starts, _ = sampler(100, 0.5).draw(50_000)
    assert holds(rare)[starts].mean() > 5 * holds(rare).mean()


def test_every_sequence_can_be_drawn(rare: TrainingData, sampler: Callable[..., Sampler]) -> None:
    starts, _ = sampler(100, 0.5).draw(200_000)
    np.testing.assert_array_equal(np.unique(starts), rare.starts)


def test_no_label_of_a_part_looks_past_its_boundary(dataset: Dataset, params: Params) -> None:
    cuts = split(dataset, params.split)
    time, horizon = dataset.rows.time, max(dataset.horizons_ms) * MS
    usable = usable_rows(dataset)
    second = int(len(usable) * (1 - params.split.test))
    boundaries = [time[usable[int(second * (1 - params.split.validation))]], time[usable[second]]]
    embargo = params.split.embargo_ms * MS
    assert embargo > 0
    for earlier, later, boundary in (
        (cuts.train, cuts.validation, boundaries[0]),
        (cuts.validation, cuts.test, boundaries[1]),
    ):
        assert (time[earlier] + horizon < boundary).all()
        assert (time[later] >= boundary + embargo).all()
        # And no more than these are taken out.
        lost = usable[(usable > earlier[-1]) & (usable < later[0])]
        assert ((time[lost] + horizon >= boundary) & (time[lost] < boundary + embargo)).all()
        assert len(lost)
    assert dataset.usable[np.concatenate([cuts.train, cuts.validation, cuts.test])].all()


def test_a_longer_embargo_takes_out_more(dataset: Dataset, params: Params) -> None:
    short, long = (split(dataset, msgspec.structs.replace(params.split, embargo_ms=ms)) for ms in (0, 3000))
    np.testing.assert_array_equal(short.train, long.train)
    assert len(long.validation) < len(short.validation)
    assert dataset.rows.time[long.test[0]] >= dataset.rows.time[short.test[0]] + 3000 * MS


@pytest.mark.parametrize("order", [1, -1])
def test_others_never_train_on_times_that_the_first_is_tested_on(
    dataset: Dataset, beside: Dataset, params: Params, order: int
) -> None:
    datasets = [dataset, beside][::order]
    first, other = parts_of(datasets, params.split)
    assert (first.dataset, other.dataset) == (datasets[0], datasets[1])
    horizon = max(dataset.horizons_ms) * MS
    held = first.dataset.rows.time[np.concatenate([first.split.validation, first.split.test])]
    time = other.dataset.rows.time
    assert (time[other.split.train] + horizon < held.min()).all()
    tested = first.dataset.rows.time[first.split.test]
    assert (time[other.split.validation] + horizon < tested.min()).all()
    assert (time[other.split.validation] >= held.min()).all()
    assert (time[other.split.test] >= tested.min()).all()
    assert len(other.split.train) > 100


def test_an_instrument_with_nothing_to_train_on_is_left_out(dataset: Dataset, beside: Dataset, params: Params) -> None:
    later = replace(beside, rows=replace(beside.rows, time=beside.rows.time + 3600 * 1000 * MS))
    assert split_beside(later, dataset, split(dataset, params.split), params.split.embargo_ms) is None
    assert [part.dataset for part in parts_of([dataset, later], params.split)] == [dataset]


def test_without_a_test_span_all_trains_or_validates(dataset: Dataset, params: Params) -> None:
    (cuts,) = train_only([dataset], params.split)
    assert len(cuts.test) == 0
    assert usable_rows(dataset)[-1] - cuts.validation[-1] < 60
    assert dataset.rows.time[cuts.train[-1]] + 1000 * MS < dataset.rows.time[cuts.validation[0]]


def test_no_dataset_trains_on_minutes_that_validate_another(dataset: Dataset, params: Params) -> None:
    rows = dataset.rows
    later = replace(dataset, rows=replace(rows, time=rows.time + 2000 * MS))
    first, second = train_only([dataset, later], params.split)
    begin, end = rows.time[first.validation[0]], rows.time[first.validation[-1]]
    train = later.rows.time[second.train]
    assert not ((train >= begin) & (train <= end)).any()
    assert len(second.train) < len(train_only([later], params.split)[0].train)


@pytest.mark.parametrize(
    ("first", "second", "end"), [(0, 10, 20), (10, 10, 20), (10, 5, 20), (10, 20, 20), (5, 20, 10)]
)
def test_an_empty_part_is_one_clear_error(dataset: Dataset, first: int, second: int, end: int) -> None:
    with pytest.raises(TrainingError, match="SIM: .* usable rows are too few to split"):
        cut(dataset, usable_rows(dataset), first, second, end, 0)


def test_a_part_that_purging_empties_is_one_clear_error(dataset: Dataset) -> None:
    # Ten rows are far less than a second, the longest horizon.
    with pytest.raises(TrainingError, match="SIM: a part of the split has no row left after purging"):
        cut(dataset, usable_rows(dataset), 500, 510, 1000, 0)
    with pytest.raises(TrainingError, match="purging and the embargo"):
        cut(dataset, usable_rows(dataset), 500, 1000, 1400, 30_000)


def test_no_usable_row_is_one_clear_error(dataset: Dataset, params: Params) -> None:
    with pytest.raises(TrainingError, match="0 usable rows"):
        split(replace(dataset, labels=np.full_like(dataset.labels, UNKNOWN)), params.split)

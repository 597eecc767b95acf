import pytest
import torch

from lobsmith.features.definitions import COUNT
from lobsmith.models.networks.network import Network, ServedNetwork, outputs_of
from lobsmith.models.networks.outputs import CLASSES, COLUMNS
from lobsmith.models.networks.recurrent import CnnLstmAttention
from lobsmith.models.networks.registry import NETWORKS, build, state_size
from lobsmith.params import ModelParams
from tests.small import params_file

HORIZONS = (100, 1000)


def make(name: str = "cnn_lstm_attention") -> Network:
    torch.manual_seed(1)
    params = ModelParams(name="lob", network=name, channels=8, hidden=12, layers=2, ring=16, attention=6)
    network = build(params, COUNT, HORIZONS).eval()
    # Heads start at zero, where every answer is the same. Wide layers with weights so large let rounding errors grow.
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3 if name == "cnn_lstm_attention" else 0.1)
    return network


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> Network:
    return make(request.param)


@pytest.fixture
def encoder() -> CnnLstmAttention:
    encoder = make().trunk
    assert isinstance(encoder, CnnLstmAttention)
    return encoder


def answers(network: Network, rows: torch.Tensor, *, chunk: int = 256) -> torch.Tensor:
    """Return all predictions, float32 [N, H, 8]."""
    with torch.inference_mode():
        return torch.cat(network.calibration(outputs_of(network, rows, chunk=chunk)), dim=-1)


def test_a_thousand_rows_at_once_equal_steps_that_carry_the_state(network: Network) -> None:
    rows = torch.randn(1000, COUNT)
    at_once = answers(network, rows, chunk=1000)
    assert at_once.shape == (1000, len(HORIZONS), COLUMNS)
    for chunk in (1, 7, 100):
        stepped = answers(network, rows, chunk=chunk)
        assert (at_once[..., :CLASSES] - stepped[..., :CLASSES]).abs().max() <= 1e-5, chunk
        # A move has no bounds.
        assert ((at_once - stepped).abs() / at_once.abs().clamp(min=1)).max() <= 1e-5, chunk


def test_the_past_does_not_change_with_the_future(network: Network) -> None:
    rows = torch.randn(300, COUNT)
    other = rows.clone()
    other[200:] += 5
    before, after = answers(network, rows), answers(network, other)
    assert torch.equal(before[:200], after[:200])
    assert not torch.allclose(before[200:], after[200:])


def test_streams_of_a_batch_do_not_touch_each_other(network: Network) -> None:
    features, state = torch.randn(3, 20, COUNT), network.cold_state(3)
    with torch.inference_mode():
        together, next_state = network(features, state)
        alone, alone_state = network(features[1:2], state[1:2])
    torch.testing.assert_close(together[1:2], alone)
    torch.testing.assert_close(next_state[1:2], alone_state)


def test_a_warmed_state_is_that_of_steps_with_outputs(network: Network) -> None:
    rows = torch.randn(2, 120, COUNT)
    with torch.inference_mode():
        inputs = network.standardise(rows)
        warmed = network.warm(inputs, network.cold_state(2))
        torch.testing.assert_close(warmed, network(rows, network.cold_state(2))[1])
        assert torch.equal(network.warm(inputs[:, :0], warmed), warmed)


def test_what_is_served_are_probabilities_and_auxiliary_outputs(network: Network) -> None:
    with torch.inference_mode():
        probabilities, outlook, _ = ServedNetwork(network)(torch.randn(2, 50, COUNT), network.cold_state(2))
    assert (probabilities.shape, outlook.shape) == ((2, 50, 2, 3), (2, 50, 2, 5))
    torch.testing.assert_close(probabilities.sum(dim=-1), torch.ones(2, 50, 2))
    assert (probabilities >= 0).all()
    assert ((outlook[..., :3] >= 0) & (outlook[..., :3] <= 1)).all()
    assert (outlook[..., 4] >= 0).all()


def test_attention_looks_back_over_the_ring_and_no_further(encoder: CnnLstmAttention) -> None:
    query, old = torch.randn(1, 1, 6), torch.randn(1, 16, 6)
    new, values = torch.randn(1, 1, 6), torch.randn(1, 17, 6)
    keys = torch.cat([old, new], dim=1)
    full = torch.tensor([[16.0]])
    with torch.inference_mode():
        weights = encoder._weights(query, keys, full)
        before = torch.matmul(weights, values)
        values[:, 0] += 100  # sixteen rows ago: has left the ring
        assert torch.equal(torch.matmul(weights, values), before)
        values[:, 1] += 100  # fifteen rows ago: the oldest inside
        assert not torch.equal(torch.matmul(weights, values), before)
        keys[:, 0] += 100
        assert torch.equal(encoder._weights(query, keys, full), weights)
        keys[:, 1] += 100
        assert not torch.equal(encoder._weights(query, keys, full), weights)


def test_a_cold_ring_holds_nothing_to_attend_to(encoder: CnnLstmAttention) -> None:
    values = torch.randn(1, 17, 6)
    with torch.inference_mode():
        weights = encoder._weights(torch.randn(1, 1, 6), torch.randn(1, 17, 6), torch.zeros(1, 1))
    torch.testing.assert_close(torch.matmul(weights, values)[0, 0], values[0, -1])


def test_attention_by_age_adds_up_and_counts_from_the_present_row(encoder: CnnLstmAttention) -> None:
    with torch.inference_mode():
        weights, state = encoder.attention_by_age(torch.randn(1, 40, COUNT), torch.zeros(1, encoder.state_size))
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(1, 40))
    # The first row has itself, the second one row more.
    torch.testing.assert_close(weights[0, 0], torch.eye(16)[0])
    assert (weights[0, 1, :2] > 0).all()
    assert (weights[0, 1, 2:] == 0).all()
    assert (weights[0, 16:] > 0).all()
    assert state[0, -1] == 16


def test_the_default_state_has_the_documented_size() -> None:
    from lobsmith.params import load_params

    params = load_params(params_file())
    assert state_size(params.model, COUNT, params.labels.horizons_ms) == 2113

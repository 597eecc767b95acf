import pytest
import torch

from lobsmith.models.network import CausalNetwork, predict
from lobsmith.params import ModelParams

PARAMS = ModelParams(name="lob", channels=8, hidden=12, layers=2, ring=16, attention=6)


@pytest.fixture
def network() -> CausalNetwork:
    torch.manual_seed(1)
    network = CausalNetwork(55, 2, PARAMS).eval()
    # Heads start at zero, where every answer is the same.
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_a_thousand_rows_at_once_equal_steps_that_carry_the_state(network: CausalNetwork, chunk: int) -> None:
    rows = torch.randn(1000, 55)
    at_once, stepped = predict(network, rows, chunk=1000).exp(), predict(network, rows, chunk=chunk).exp()
    assert (at_once - stepped).abs().max() <= 1e-5


def test_the_past_does_not_change_with_the_future(network: CausalNetwork) -> None:
    rows = torch.randn(300, 55)
    other = rows.clone()
    other[200:] += 5
    before, after = predict(network, rows), predict(network, other)
    assert torch.equal(before[:200], after[:200])
    assert not torch.allclose(before[200:], after[200:])


def test_streams_of_a_batch_do_not_touch_each_other(network: CausalNetwork) -> None:
    features, state = torch.randn(3, 20, 55), network.cold_state(3)
    with torch.inference_mode():
        together, next_state = network(features, state)
        alone, alone_state = network(features[1:2], state[1:2])
    torch.testing.assert_close(together[1:2], alone)
    torch.testing.assert_close(next_state[1:2], alone_state)


def test_attention_looks_back_over_the_ring_and_no_further(network: CausalNetwork) -> None:
    query, old = torch.randn(1, 1, 6), torch.randn(1, 16, 6)
    new, values = torch.randn(1, 1, 6), torch.randn(1, 17, 6)
    keys = torch.cat([old, new], dim=1)
    full = torch.tensor([[16.0]])
    with torch.inference_mode():
        before = network._attend(query, keys, values, full)
        values[:, 0] += 100  # sixteen rows ago: has left the ring
        assert torch.equal(network._attend(query, keys, values, full), before)
        values[:, 1] += 100  # fifteen rows ago: the oldest inside
        assert not torch.equal(network._attend(query, keys, values, full), before)


def test_a_cold_ring_holds_nothing_to_attend_to(network: CausalNetwork) -> None:
    values = torch.randn(1, 17, 6)
    with torch.inference_mode():
        context = network._attend(torch.randn(1, 1, 6), torch.randn(1, 17, 6), values, torch.zeros(1, 1))
    torch.testing.assert_close(context[0, 0], values[0, -1])

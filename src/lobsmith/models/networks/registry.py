"""The networks that `model.network` names: architectures to train, and baselines."""

from functools import partial

from lobsmith.errors import TrainingError
from lobsmith.models.networks import bin_ctabl, deeplob, memoryless, recurrent, volatility
from lobsmith.models.networks.network import Architecture, Network
from lobsmith.params import ModelParams

NETWORKS: dict[str, Architecture] = {
    "cnn_lstm_attention": recurrent.CNN_LSTM_ATTENTION,
    "lstm": recurrent.LSTM,
    "volatility": volatility.ARCHITECTURE,
    "logistic": memoryless.LOGISTIC,
    "queue_imbalance": memoryless.QUEUE_IMBALANCE,
    "deeplob": deeplob.ARCHITECTURE,
    "bin_ctabl": bin_ctabl.ARCHITECTURE,
}


def architecture(name: str) -> Architecture:
    """Return an architecture by name.

    Raises:
        TrainingError: the name is unknown.
    """
    if name not in NETWORKS:
        raise TrainingError(f"model.network is {name!r}; choose one of {', '.join(NETWORKS)}")
    return NETWORKS[name]


def build(params: ModelParams, features: int, horizons_ms: tuple[int, ...]) -> Network:
    """Build the network that the parameters name, untrained.

    Raises:
        TrainingError: the name is unknown.
    """
    chosen = architecture(params.network)
    encoder = partial(chosen.encoder, params, horizons_ms)
    return Network(features, len(horizons_ms), encoder, linear=chosen.linear, clips=not chosen.undoes_scaling)


def state_size(params: ModelParams, features: int, horizons_ms: tuple[int, ...]) -> int:
    """Return S of the network that the parameters name."""
    return build(params, features, horizons_ms).state_size

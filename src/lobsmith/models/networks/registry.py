"""One name in `params.yaml`, one network: the architectures that can be trained, and those they are held against."""

from collections.abc import Callable
from functools import partial

from msgspec import Struct
from torch import Tensor, nn

from lobsmith.errors import TrainingError
from lobsmith.features.definitions import NAMES
from lobsmith.models.networks.bin_ctabl import BinCtabl
from lobsmith.models.networks.deeplob import DeepLob
from lobsmith.models.networks.encoders import CnnLstmAttention, ImbalanceBins, Lstm, Memoryless
from lobsmith.models.networks.network import Network
from lobsmith.models.networks.volatility import Volatility
from lobsmith.params import ModelParams

_TrunkBuilder = Callable[[ModelParams, tuple[int, ...], Tensor, Tensor], nn.Module]


class Architecture(Struct, frozen=True, kw_only=True):
    """How a network is built and learns."""

    trunk: _TrunkBuilder
    linear: bool = False
    """Whether a linear path leads around the trunk."""
    learns: str = "gradient"
    """`gradient` descent over sequences, `newton` (L-BFGS over all rows), or `counts`."""
    undoes_scaling: bool = False
    """Whether the trunk wants prices as they were: no input is clipped then, or hidden while it trains."""
    window: int = 0
    """Rows of the window that each row is seen with; 0 for a recurrent trunk."""
    about: str = ""


def _cnn_lstm_attention(params: ModelParams, _horizons: tuple[int, ...], location: Tensor, _scale: Tensor) -> nn.Module:
    return CnnLstmAttention(
        len(location),
        channels=params.channels,
        hidden=params.hidden,
        layers=params.layers,
        ring=params.ring,
        attention=params.attention,
    )


def _lstm(_params: ModelParams, _horizons: tuple[int, ...], location: Tensor, _scale: Tensor) -> nn.Module:
    return Lstm(len(location), hidden=128, layers=3, dropout=0.2)


def _volatility(_params: ModelParams, horizons: tuple[int, ...], location: Tensor, scale: Tensor) -> nn.Module:
    return Volatility(location, scale, horizons, hidden=64, layers=2)


def _deeplob(_params: ModelParams, _horizons: tuple[int, ...], location: Tensor, scale: Tensor) -> nn.Module:
    return DeepLob(location, scale)


def _bin_ctabl(_params: ModelParams, _horizons: tuple[int, ...], location: Tensor, scale: Tensor) -> nn.Module:
    return BinCtabl(location, scale)


def _none(_params: ModelParams, _horizons: tuple[int, ...], _location: Tensor, _scale: Tensor) -> nn.Module:
    return Memoryless()


def _imbalance(_params: ModelParams, _horizons: tuple[int, ...], _location: Tensor, _scale: Tensor) -> nn.Module:
    return ImbalanceBins(NAMES.index("imbalance_1"))


NETWORKS: dict[str, Architecture] = {
    "cnn_lstm_attention": Architecture(
        trunk=_cnn_lstm_attention,
        linear=True,
        about="three 1×1 convolutions, LSTM, attention over recent rows",
    ),
    "lstm": Architecture(trunk=_lstm, about="LSTM of 3 × 128 units, dropout 0.2"),
    "volatility": Architecture(
        trunk=_volatility, undoes_scaling=True, about="LSTM of 2 × 64 units beside EWMA, HAR and GARCH(1,1)"
    ),
    "logistic": Architecture(trunk=_none, linear=True, learns="newton", about="logistic regression on all features"),
    "queue_imbalance": Architecture(
        trunk=_imbalance, learns="counts", about="class shares by tenth of the imbalance at the touch"
    ),
    "deeplob": Architecture(
        trunk=_deeplob, undoes_scaling=True, window=100, about="DeepLOB, Zhang, Zohren & Roberts 2019"
    ),
    "bin_ctabl": Architecture(trunk=_bin_ctabl, undoes_scaling=True, window=10, about="BiN-C(TABL), Tran et al. 2020"),
}


def architecture(name: str) -> Architecture:
    """Return an architecture by name.

    Raises:
        TrainingError: there is none of that name.
    """
    if name not in NETWORKS:
        raise TrainingError(f"model.network is {name!r}; choose one of {', '.join(NETWORKS)}")
    return NETWORKS[name]


def build(params: ModelParams, features: int, horizons_ms: tuple[int, ...]) -> Network:
    """Build the network that the parameters name, untrained.

    Raises:
        TrainingError: there is no such network.
    """
    chosen = architecture(params.network)
    trunk = partial(chosen.trunk, params, horizons_ms)
    return Network(features, len(horizons_ms), trunk, linear=chosen.linear, clips=not chosen.undoes_scaling)


def state_size(params: ModelParams, features: int, horizons_ms: tuple[int, ...]) -> int:
    """Return S of the network that the parameters name."""
    return build(params, features, horizons_ms).state_size

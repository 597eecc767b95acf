"""Keeps a neural network on limit-order-book data in service.

The public names of Python, imported when they are first used:

    from lobsmith import FeatureStream, open_stream

    with open_stream("binance-usdm:BTCUSDT") as stream:
        for row in FeatureStream.read("session.gz"):
            answer = stream.step(row)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lobsmith.compiled import use_own_cache
from lobsmith.telemetry import turn_off

if TYPE_CHECKING:
    from lobsmith.errors import LobsmithError
    from lobsmith.features.frame import read_features
    from lobsmith.features.stream import FeatureStream, Row, Rows
    from lobsmith.market.events import Events
    from lobsmith.market.instrument import Instrument
    from lobsmith.params import Params, load_params
    from lobsmith.trading.client.stream import Prediction
    from lobsmith.trading.guard.guarded_client import GatedPrediction
    from lobsmith.trading.predict import predict
    from lobsmith.trading.session import Stream, open_stream
    from lobsmith.workspace import Workspace

__version__ = "0.1.0"

__all__ = [
    "Events",
    "FeatureStream",
    "GatedPrediction",
    "Instrument",
    "LobsmithError",
    "Params",
    "Prediction",
    "Row",
    "Rows",
    "Stream",
    "Workspace",
    "load_params",
    "open_stream",
    "predict",
    "read_features",
]

_MODULES = {
    "Events": "market.events",
    "FeatureStream": "features.stream",
    "GatedPrediction": "trading.guard.guarded_client",
    "Instrument": "market.instrument",
    "LobsmithError": "errors",
    "Params": "params",
    "Prediction": "trading.client.stream",
    "Row": "features.stream",
    "Rows": "features.stream",
    "Stream": "trading.session",
    "Workspace": "workspace",
    "load_params": "params",
    "open_stream": "trading.session",
    "predict": "trading.predict",
    "read_features": "features.frame",
}

# Before the libraries that they configure are imported.
turn_off()
use_own_cache()


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])

"""The wire contract: what every version of a model takes and gives.

`config.pbtxt` belongs to a model, not to a version, so the contract is fixed for a model's life.

| tensor           | direction | shape        | meaning |
|------------------|-----------|--------------|---------|
| `features`       | in        | [B, T, F]    | T rows of features, oldest first |
| `state`          | in        | [B, S]       | the stream's state, opaque; all zeros mean cold |
| `probabilities`  | out       | [B, T, H, 3] | for each row and horizon: P(down), P(unchanged), P(up) of the mid |
| `outlook`        | out       | [B, T, H, 5] | for each row and horizon: see `OUTLOOKS` |
| `next_state`     | out       | [B, S]       | the state after the last row, to be sent with the next request |

All are float32. T is 1 for a live tick and at most `MAX_ROWS` for catching up.

`<model>_drift` takes and gives, float32 too, with the model's F:

| tensor           | direction | shape        | meaning |
|------------------|-----------|--------------|---------|
| `rows`           | in        | [B, T, F]    | T raw rows in their own units, thinned, oldest first |
| `score`          | out       | [B, 1]       | how unlike the training window the block is; above 1 is an alarm |
| `contributions`  | out       | [B, F]       | how far each feature has moved by itself |
"""

from msgspec import Struct

from lobsmith.features.definitions import COUNT as FEATURE_COUNT
from lobsmith.features.definitions import definitions_sha256
from lobsmith.params import Params

FEATURES = "features"
STATE = "state"
PROBABILITIES = "probabilities"
OUTLOOK = "outlook"
NEXT_STATE = "next_state"

ROWS = "rows"
SCORE = "score"
CONTRIBUTIONS = "contributions"

CLASSES = ("down", "unchanged", "up")
OUTLOOKS = ("significant", "bid_withdrawal", "ask_withdrawal", "move_bps", "volatility_bps")
"""Probability of a significant move, of the withdrawal of bids and of asks; expected move and realised volatility."""
MAX_ROWS = 256
"""Rows that one request may carry."""


class WireContract(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is fixed for a model's life.

    `definitions_sha256` covers the feature names, the kernel's version and constants, the normaliser and the labels:
    two models that agree in it mean the same by every number they exchange.
    """

    feature_count: int
    state_size: int
    horizons_ms: tuple[int, ...]
    definitions_sha256: str


def wire_contract(params: Params) -> WireContract:
    """Derive the contract from the parameters."""
    # PyTorch takes two seconds to import, and everything that only reads a manifest imports this module.
    from lobsmith.models.networks.registry import state_size

    return WireContract(
        feature_count=FEATURE_COUNT,
        state_size=state_size(params.model, FEATURE_COUNT, params.labels.horizons_ms),
        horizons_ms=params.labels.horizons_ms,
        definitions_sha256=definitions_sha256(params.features, params.labels),
    )

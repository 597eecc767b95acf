"""The wire contract: inputs and outputs of every version of a model, fixed for the model's life by `config.pbtxt`.

| tensor           | direction | shape        | meaning |
|------------------|-----------|--------------|---------|
| `features`       | in        | [B, T, F]    | T rows of features, oldest first |
| `state`          | in        | [B, S]       | the stream's state, opaque; all zeros mean cold |
| `probabilities`  | out       | [B, T, H, 3] | for each row and horizon: P(down), P(unchanged), P(up) of the mid |
| `outlook`        | out       | [B, T, H, 5] | for each row and horizon: see `OUTLOOKS` |
| `next_state`     | out       | [B, S]       | the state after the last row, for the next request |

All are float32. T is 1 for a live row and at most `MAX_ROWS` for catching up.

`<model>_drift`, float32 too, with the model's F:

| tensor           | direction | shape        | meaning |
|------------------|-----------|--------------|---------|
| `rows`           | in        | [B, T, F]    | T raw rows in their own units, thinned, oldest first |
| `score`          | out       | [B, 1]       | drift score of the block; above 1 is an alarm |
| `contributions`  | out       | [B, F]       | shift of each feature by itself |
"""

from msgspec import Struct

from lobsmith.features.definitions import COUNT as FEATURE_COUNT
from lobsmith.features.definitions import DIRECTIONS, definitions_sha256
from lobsmith.params import Params

FEATURES = "features"
STATE = "state"
PROBABILITIES = "probabilities"
OUTLOOK = "outlook"
NEXT_STATE = "next_state"

ROWS = "rows"
SCORE = "score"
CONTRIBUTIONS = "contributions"

CLASSES = DIRECTIONS
OUTLOOKS = ("significant", "bid_withdrawal", "ask_withdrawal", "move_bps", "volatility_bps")
"""P(significant move), P(withdrawal of bids), P(of asks); expected move and realised volatility, bps."""
MAX_ROWS = 256
"""Most rows of a request."""


class WireContract(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is fixed for a model's life.

    `definitions_sha256` covers feature names, the kernel's version and constants, the normaliser and the labels.
    """

    feature_count: int
    state_size: int
    horizons_ms: tuple[int, ...]
    definitions_sha256: str


def wire_contract(params: Params) -> WireContract:
    """Derive the contract from the parameters."""
    # PyTorch takes two seconds to import; readers of manifests do not need it.
    from lobsmith.models.networks.registry import state_size

    return WireContract(
        feature_count=FEATURE_COUNT,
        state_size=state_size(params.model, FEATURE_COUNT, params.labels.horizons_ms),
        horizons_ms=params.labels.horizons_ms,
        definitions_sha256=definitions_sha256(params.features, params.labels),
    )

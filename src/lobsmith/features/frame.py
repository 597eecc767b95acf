"""Rows of captured files as a table."""

from pathlib import Path
from typing import TYPE_CHECKING

from lobsmith.features.captured import read_dataset
from lobsmith.features.dataset import Dataset
from lobsmith.features.definitions import DIRECTIONS, NAMES
from lobsmith.params import Params, load_params
from lobsmith.workspace import Workspace

if TYPE_CHECKING:
    import polars as pl


def read_features(
    *files: Path | str,
    root: Workspace | Path | str | None = None,
    params: Params | None = None,
    normalised: bool = False,
) -> "pl.DataFrame":
    """Read captured files as a table of features, a row per change of the touch.

    | column | type | meaning |
    |---|---|---|
    | `time` | Datetime, ns, UTC | local receive time |
    | `segment` | Int64 | number of the gap-free segment |
    | `mid` | Float64 | mean of best bid and best ask, quote units |
    | `complete` | Boolean | the z-score's window has enough rows |
    | 75 features, by name | Float32 | in their own units |
    | `direction_50ms`, ... | Enum: down, unchanged, up | of the mid after each horizon; null where unknown |

    Args:
        files: of one instrument, in order, as one stream.
        root: the project's folder: see `Workspace.find`.
        params: instead of the project's.
        normalised: features as the network reads them, rolling ones as z-scores.

    Raises:
        CaptureError: a file cannot be used.
        ParamsError: there is no project, or its parameters are wrong.
    """
    import polars as pl

    params = params or load_params(Workspace.find(root).params)
    dataset = read_dataset([Path(file) for file in files], params)
    rows = dataset.rows
    features = pl.DataFrame(rows.features if normalised else rows.raw, schema=NAMES)
    context = outcomes(dataset)
    return pl.concat(
        [
            context.select("time", "segment", "mid"),
            pl.DataFrame({"complete": rows.complete}),
            features,
            context.drop("time", "segment", "mid"),
        ],
        how="horizontal",
    )


def outcomes(dataset: Dataset) -> "pl.DataFrame":
    """Return time, segment, mid and directions of a dataset's rows: see `read_features`."""
    import polars as pl

    directions = dict(enumerate(DIRECTIONS))
    labels = {
        f"direction_{horizon}ms": pl.Series(dataset.labels[:, h]).replace_strict(
            directions, default=None, return_dtype=pl.Enum(DIRECTIONS)
        )
        for h, horizon in enumerate(dataset.horizons_ms)
    }
    rows = dataset.rows
    return pl.DataFrame(
        {
            "time": pl.Series(rows.time).cast(pl.Datetime("ns", "UTC")),
            "segment": rows.segment,
            "mid": rows.mid * (dataset.instrument.tick_size / 2),
            **labels,
        }
    )

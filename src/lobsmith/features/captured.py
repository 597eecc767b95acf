"""Data sets of captured files.

Apart from `dataset`: readers import Polars, whose threads do not survive the fork of a flow run.
"""

from collections.abc import Sequence
from pathlib import Path

from lobsmith.features.dataset import Dataset, build_dataset
from lobsmith.market.readers import read_captures
from lobsmith.params import Params


def read_dataset(paths: Sequence[Path], params: Params) -> Dataset:
    """Compute features and labels of captured files of one instrument, in order as one stream.

    Raises:
        CaptureError: a file cannot be used.
        DataError: no files were given.
    """
    return build_dataset(read_captures(paths, params.data.screen), params)

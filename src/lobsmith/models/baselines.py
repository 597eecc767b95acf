"""What a network must beat: the majority class and the queue-imbalance rule."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lobsmith.features.dataset import Dataset
from lobsmith.features.definitions import NAMES
from lobsmith.models.network import CLASSES

_BINS = 10
_IMBALANCE = NAMES.index("imbalance_1")


def _shares(labels: npt.NDArray[np.int8]) -> npt.NDArray[np.float64]:
    """Return the share of each class with one count added to each, so that none is impossible."""
    counts = np.bincount(labels, minlength=CLASSES) + 1.0
    return np.asarray(counts / counts.sum(), np.float64)


@dataclass(frozen=True)
class Majority:
    """The class shares of the training rows, float64 [H, 3]: the base rate."""

    shares: npt.NDArray[np.float64]

    @classmethod
    def fit(cls, dataset: Dataset, rows: npt.NDArray[np.int64]) -> "Majority":
        """Count the classes of the given rows."""
        labels = dataset.labels[rows]
        return cls(np.stack([_shares(labels[:, h]) for h in range(labels.shape[1])]))

    def predict(
        self,
        dataset: Dataset,  # noqa: ARG002  every baseline is asked alike
        rows: npt.NDArray[np.int64],
    ) -> npt.NDArray[np.float64]:
        """Return probabilities float64 [N, H, 3], the same for each row."""
        return np.broadcast_to(self.shares, (len(rows), *self.shares.shape))


@dataclass(frozen=True)
class QueueImbalance:
    """Class shares given the decile of the imbalance at the touch (after Gould & Bonart 2016).

    `edges` is float64 [B - 1], `shares` float64 [B, H, 3].
    """

    edges: npt.NDArray[np.float64]
    shares: npt.NDArray[np.float64]

    @classmethod
    def fit(cls, dataset: Dataset, rows: npt.NDArray[np.int64]) -> "QueueImbalance":
        """Count the classes of the given rows in each decile."""
        imbalance = dataset.rows.raw[rows, _IMBALANCE].astype(np.float64)
        edges = np.quantile(imbalance, np.linspace(0, 1, _BINS + 1)[1:-1])
        bins = np.searchsorted(edges, imbalance)
        labels = dataset.labels[rows]
        shares = np.stack(
            [np.stack([_shares(labels[bins == b, h]) for h in range(labels.shape[1])]) for b in range(len(edges) + 1)]
        )
        return cls(edges, shares)

    def predict(self, dataset: Dataset, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return probabilities float64 [N, H, 3]."""
        imbalance = dataset.rows.raw[rows, _IMBALANCE].astype(np.float64)
        return np.asarray(self.shares[np.searchsorted(self.edges, imbalance)], np.float64)

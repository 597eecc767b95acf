"""Is the exported file the trained network?"""

import numpy as np
import torch

from lobsmith.compress.runtime import Float, OnnxModel
from lobsmith.gates.verdict import Verdict
from lobsmith.models.network import CausalNetwork, predict

_STEPS = 1000


def parity(network: CausalNetwork, model: OnnxModel, rows: Float, threshold: float) -> Verdict:
    """Compare PyTorch with ONNX Runtime on real rows: all at once, one by one, and as a batch of two streams.

    Args:
        network: the trained network.
        model: its exported file.
        rows: float32 [N, F]; up to 1000 of them are used.
        threshold: largest difference in any probability.
    """
    rows = rows[:_STEPS]
    expected = predict(network, torch.from_numpy(np.ascontiguousarray(rows)), chunk=len(rows)).exp().numpy()
    at_once, _ = model.predict(rows, chunk=len(rows))
    stepped, _ = model.predict(rows, chunk=1)
    half = len(rows) // 2
    batch, _ = model.run(np.stack([rows[:half], rows[-half:]]), model.cold_state(2))
    differences = {
        "at_once": _largest(at_once, expected),
        "stepped": _largest(stepped, expected),
        "batch": _largest(batch[0], expected[:half]),
    }
    finite = bool(np.isfinite(stepped).all())
    constant = bool((np.ptp(stepped, axis=0) == 0).all())
    value = max(differences.values())
    return Verdict(
        gate="parity",
        passed=finite and not constant and value <= threshold,
        value=value,
        threshold=threshold,
        evidence={"rows": len(rows), "finite": finite, "constant": constant, **differences},
    )


def _largest(a: Float, b: Float) -> float:
    """Return the largest absolute difference; infinite where a number is not finite."""
    difference = np.abs(a - b).max()
    return float(difference) if np.isfinite(difference) else float("inf")

"""Parity gate: does the exported file, or the engine, compute the trained network?"""

from pathlib import Path

import numpy as np
import torch

from lobsmith.compress.runtime import Float, OnnxModel, StatefulModel
from lobsmith.models.networks.network import Network, ServedNetwork
from lobsmith.models.networks.outputs import CLASSES
from lobsmith.verdict import Verdict

_ROWS = 1000
_CHUNK = 256
"""Most rows of a request, and of an engine's chunk."""


def parity(
    network: Network, model: StatefulModel, rows: Float, threshold: float, *, step: Path | None = None
) -> Verdict:
    """Compare PyTorch with ONNX Runtime on real rows: in chunks, row by row, and as a batch of two streams.

    Args:
        network: the trained network.
        model: its exported file, or an engine of it.
        rows: float32 [N, F]; up to 1000 are used.
        threshold: largest difference in any output, as a share of it where it is above 1.
        step: the file for one row of one stream, or None.
    """
    rows = rows[:_ROWS]
    expected = _torch(network, rows)
    at_once = _joined(*model.predict(rows, chunk=_CHUNK)[:2])
    stepped = _joined(*model.predict(rows, chunk=1)[:2])
    half = min(len(rows) // 2, _CHUNK)
    both = model.run(np.stack([rows[:half], rows[-half:]]), model.cold_state(2))
    differences = {
        "at_once": _largest(at_once, expected),
        "stepped": _largest(stepped, expected),
        "batch": _largest(_joined(both.probabilities[0], both.outlook[0]), expected[:half]),
    }
    answers = [at_once, stepped]
    if step is not None:
        answers.append(_joined(*OnnxModel(step).predict(rows, chunk=1)[:2]))
        differences["step_graph"] = _largest(answers[-1], expected)
    finite = all(bool(np.isfinite(outputs).all()) for outputs in answers)
    # A horizon with constant directions fails, whatever the other horizons answer.
    constant = any(bool((np.ptp(outputs[:, :, :CLASSES], axis=0) == 0).all(axis=1).any()) for outputs in answers)
    value = max(differences.values())
    return Verdict(
        gate="parity",
        passed=finite and not constant and value <= threshold,
        value=value if np.isfinite(value) else None,
        threshold=threshold,
        evidence={"rows": len(rows), "finite": finite, "constant": constant, **differences},
    )


def _torch(network: Network, rows: Float) -> Float:
    served = ServedNetwork(network).eval()
    with torch.inference_mode():
        features = torch.from_numpy(np.ascontiguousarray(rows)).unsqueeze(0)
        probabilities, outlook, _ = served(features, network.cold_state(1))
    return _joined(probabilities[0].numpy(), outlook[0].numpy())


def _joined(probabilities: Float, outlook: Float) -> Float:
    """Return all outputs of each row and horizon, float32 [N, H, 8]."""
    return np.concatenate([probabilities, outlook], axis=2)


def _largest(a: Float, b: Float) -> float:
    """Return the largest difference; infinite where a number is not finite."""
    difference = (np.abs(a - b) / np.maximum(1.0, np.abs(b))).max()
    return float(difference) if np.isfinite(difference) else float("inf")

"""The evaluation report: one HTML page without outside references."""

import io
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
from jinja2 import Environment
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lobsmith.features.labels import UNKNOWN
from lobsmith.gates.evaluation import Evaluation
from lobsmith.models.train import Epoch

_BINS = 10
_SMALLEST_BIN = 100
"""Neighbouring rows are alike: a bin of fewer says nothing."""

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>lobsmith evaluation: {{ e.instrument.symbol }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1c2430 }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #d8dee6 }
th:first-child, td:first-child { text-align: left }
.passed { color: #17663a } .refused { color: #a3161a; font-weight: 600 }
svg { max-width: 100%; height: auto }
</style>
<h1>{{ e.instrument.symbol }} on {{ e.instrument.venue }}</h1>
<p>Held-out rows from {{ start }} UTC on. Rows:
{% for part, count in e.rows.items() %}{{ part }} {{ "{:,}".format(count) }}{{ ", " if not loop.last }}{% endfor %}.
Data fingerprint <code>{{ e.data_fingerprint[:16] }}</code>.</p>
<h2>Verdicts</h2>
<table><tr><th>gate</th><th>verdict</th><th>value</th><th>threshold</th></tr>
{% for v in e.verdicts %}<tr><td>{{ v.gate }}</td>
<td class="{{ 'passed' if v.passed else 'refused' }}">{{ "passed" if v.passed else "refused" }}</td>
<td>{{ "%.4g"|format(v.value) }}</td><td>{{ "%.4g"|format(v.threshold) }}</td></tr>{% endfor %}</table>
<h2>Scores on held-out rows</h2>
<table><tr><th>predictor</th><th>horizon</th><th>rows</th><th>accuracy</th><th>log-loss, nats</th></tr>
{% for s in e.scores %}<tr><td>{{ s.predictor }}</td><td>{{ s.horizon_ms }} ms</td>
<td>{{ "{:,}".format(s.rows) }}</td>
<td>{{ "%.4f"|format(s.accuracy) }}</td><td>{{ "%.4f"|format(s.log_loss) }}</td></tr>{% endfor %}</table>
<p>Share of down, unchanged, up: {% for h, shares in e.class_shares.items() %}{{ h }} ms
{{ "%.1f, %.1f, %.1f %%"|format(shares[0] * 100, shares[1] * 100, shares[2] * 100) }}{{ "; " if not loop.last -}}
{% endfor %}.
</p>
<h2>Training and calibration</h2>
{{ plots }}
</html>
"""


def render_report(
    evaluation: Evaluation,
    history: tuple[Epoch, ...],
    probabilities: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int8],
) -> str:
    """Return the page.

    Args:
        evaluation: scores and verdicts.
        history: the epochs of the training.
        probabilities: float32 [N, H, 3] of the held-out rows.
        labels: int8 [N, H] of the same rows.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _plot_history(left, history)
    _plot_reliability(right, probabilities, labels, [int(h) for h in evaluation.class_shares])
    svg = io.StringIO()
    with rc_context({"svg.hashsalt": "lobsmith"}):  # else ids differ from run to run
        figure.savefig(svg, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    start = datetime.fromtimestamp(evaluation.test_start_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S")
    page = Environment(autoescape=True).from_string(_PAGE)
    drawing = svg.getvalue()
    # The drawing is our own markup; everything else on the page is escaped.
    return page.render(e=evaluation, start=start, plots=Markup(drawing[drawing.index("<svg") :]))  # noqa: S704


def _plot_history(axes: Axes, history: tuple[Epoch, ...]) -> None:
    epochs = [one.epoch for one in history]
    axes.plot(epochs, [one.train_loss for one in history], marker="o", label="training")
    axes.plot(epochs, [one.validation_loss for one in history], marker="o", label="validation")
    axes.set(title="Loss by epoch", xlabel="epoch", ylabel="cross-entropy, nats")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()


def _plot_reliability(
    axes: Axes, probabilities: npt.NDArray[np.float32], labels: npt.NDArray[np.int8], horizons_ms: list[int]
) -> None:
    axes.plot([1 / 3, 1], [1 / 3, 1], color="grey", linewidth=0.8)
    for h, horizon in enumerate(horizons_ms):
        points = reliability(probabilities[:, h], labels[:, h])
        if points:
            x, y, _ = zip(*points, strict=True)
            axes.plot(x, y, marker="o", label=f"{horizon} ms")
    axes.set(title="Reliability on held-out rows", xlabel="said probability", ylabel="came true")
    axes.legend()


def reliability(probabilities: npt.NDArray[np.float32], labels: npt.NDArray[np.int8]) -> list[tuple[float, float, int]]:
    """Return how often the most probable class came true against how probable it was said to be.

    Args:
        probabilities: float32 [N, 3] at one horizon.
        labels: int8 [N] at the same.

    Returns:
        By tenth of probability: (mean said probability, share that came true, rows); thin tenths are left out.
    """
    known = (labels != UNKNOWN) & np.isfinite(probabilities).all(axis=1)
    said = probabilities[known].max(axis=1)
    right = probabilities[known].argmax(axis=1) == labels[known]
    bins = np.clip((said * _BINS).astype(int), 0, _BINS - 1)
    counts = [int((bins == b).sum()) for b in range(_BINS)]
    return [
        (float(said[bins == b].mean()), float(right[bins == b].mean()), count)
        for b, count in enumerate(counts)
        if count >= _SMALLEST_BIN
    ]

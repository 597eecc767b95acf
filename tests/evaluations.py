"""An evaluation with invented figures, for tests that draw or read it."""

import math
from types import SimpleNamespace

import numpy as np
from msgspec.structs import replace

from lobsmith.evaluation import results as ev
from lobsmith.evaluation.results import MAJORITY, MODEL, Interval
from lobsmith.features.definitions import DIRECTIONS
from lobsmith.market.instrument import Instrument
from lobsmith.verdict import Verdict

HORIZONS = (50, 100, 1000, 10_000)
BASELINES = (MAJORITY, "queue imbalance", "logistic", "gradient boosting", "DeepLOB", "BiN-CTABL")


def around(value: float, half: float) -> Interval:
    return Interval(value, value - half, value + half)


def realistic(seed: int = 7) -> ev.Evaluation:
    random = np.random.default_rng(seed)
    horizon_metrics, comparisons, calibration, confidence, confusion, effects, heads = [], [], [], [], [], [], []
    for h, horizon in enumerate(HORIZONS):
        losses = 0.65 + 0.12 * h + np.array([0, 0.21, 0.09, 0.013, 0.004, -0.002, 0.006]) + random.normal(0, 0.002, 7)
        for predictor, loss in zip((MODEL, *BASELINES), losses, strict=True):
            f1 = 0.62 - 0.3 * (float(loss) - 0.6)
            horizon_metrics.append(
                ev.HorizonMetrics(
                    predictor=predictor,
                    horizon_ms=horizon,
                    rows=41_250 - 40 * h,
                    accuracy=f1 + 0.1,
                    log_loss=around(float(loss), 0.012),
                    macro_f1=around(f1, 0.01),
                    mcc=around(f1 - 0.25, 0.014),
                    pr_auc={direction: float(random.uniform(0.3, 0.8)) for direction in DIRECTIONS},
                )
            )
            if predictor != MODEL:
                difference = around(float(losses[0] - loss), 0.004)
                comparisons.append(ev.Comparison(against=predictor, horizon_ms=horizon, difference=difference))
            probabilities = np.linspace(0.38, 0.93, 8)
            points = [
                ev.ReliabilityPoint(float(p), float(p + random.normal(0, 0.03)), int(9000 * math.exp(-3 * (p - 0.38))))
                for p in probabilities
            ]
            calibration.append(
                ev.Calibration(
                    predictor=predictor,
                    horizon_ms=horizon,
                    ece=float(random.uniform(0.02, 0.045)),
                    floor=0.028,
                    floor_95=0.036,
                    points=[] if predictor == MAJORITY else points,
                )
            )
        for direction in DIRECTIONS:
            for c, level in enumerate((0.5, 0.6, 0.7, 0.8, 0.9)):
                rows = int(12_000 * math.exp(-1.1 * c - 0.2 * h))
                confidence.append(
                    ev.AtConfidence(
                        horizon_ms=horizon,
                        direction=direction,
                        confidence=level,
                        rows=rows,
                        blocks=rows * 400 // (20 * horizon),
                        precision=min(0.99, level + float(random.normal(0.04, 0.03))),
                        mean_confidence=level + 0.045,
                        recall=rows / (15_000 + 2000 * DIRECTIONS.index(direction)),
                    )
                )
        counts = random.integers(800, 3000, (3, 3)) + np.diag([7000, 12_000, 7000])
        confusion.append(ev.Confusion(horizon_ms=horizon, counts=counts.tolist()))
        for level in (0.6, 0.7, 0.8, 0.9):
            gross = level * 0.9 * (h + 1) / 2
            effects.append(
                ev.Effect(
                    horizon_ms=horizon,
                    confidence=level,
                    trades=int(4000 * (1 - level)),
                    gross_bps=gross,
                    spread_bps=0.21,
                    fees_bps=1.0,
                    net_bps=around(gross - 1.21, 0.15),
                )
            )
        for output in ("significant", "bid withdrawal", "ask withdrawal", "move", "volatility"):
            loss = float(random.uniform(0.2, 0.6))
            auc = None if output in ("move", "volatility") else 0.41
            heads.append(
                ev.Head(output=output, horizon_ms=horizon, rows=41_000, mean=0.1, loss=loss, reference=0.5, pr_auc=auc)
            )
    weights = np.exp(-np.arange(100) / 18)
    return ev.Evaluation(
        instrument=Instrument(venue="binance-usdm", symbol="BTCUSDT", tick_size=0.1, lot_size=0.001),
        network="streaming convolutions with memory",
        protocol="train on the first 70 %, validate on 15 %, hold out the last 15 %, a minute apart",
        data_fingerprint="9f3a17c05be2d844" * 4,
        seeds=[7, 11, 13],
        rows={"all": 275_000, "train": 192_500, "validation": 41_250, "test": 41_250},
        test_start_ns=1_753_920_000_000_000_000,
        class_shares={
            str(horizon): [0.2 + 0.03 * h, 0.6 - 0.06 * h, 0.2 + 0.03 * h] for h, horizon in enumerate(HORIZONS)
        },
        dependence=[
            ev.Dependence(horizon_ms=ms, correlation_s=ms / 400, block_s=ms / 100, blocks=400_000 // ms)
            for ms in HORIZONS
        ],
        horizon_metrics=horizon_metrics,
        comparisons=comparisons,
        calibration=calibration,
        confidence=confidence,
        confusion=confusion,
        effects=effects,
        heads=heads,
        attention=(weights / weights.sum()).tolist(),
        verdicts=(
            Verdict(gate="parity", passed=True, value=3.1e-7, threshold=1e-5, evidence={"rows": 4096, "streams": 8}),
            Verdict(gate="skill", passed=True, value=0.77, threshold=0.98, evidence={"against": MAJORITY}),
            Verdict(gate="calibration", passed=False, value=0.041, threshold=0.036),
        ),
    )


def compared(differences: dict[int, dict[str, float]]) -> ev.Evaluation:
    """An evaluation that passed its gates, with differences by horizon and baseline, ± 0.5; without drawings."""
    return replace(
        realistic(),
        calibration=[],
        confidence=[],
        effects=[],
        attention=[],
        comparisons=[
            ev.Comparison(against=against, horizon_ms=horizon, difference=around(value, 0.5))
            for horizon, baselines in differences.items()
            for against, value in baselines.items()
        ],
        verdicts=realistic().verdicts[:2],
    )


def history(epochs: int = 12) -> list[SimpleNamespace]:
    return [
        SimpleNamespace(epoch=n, train_loss=0.6 + 0.4 / (n + 1), validation_loss=0.64 + 0.35 / (n + 1) + 0.002 * n)
        for n in range(epochs)
    ]

"""hftbacktest's side of `lobsmith bench features`, run by the Python of its own virtual environment.

Reads one JSON request a line on standard input and answers each with one JSON object a line:

    {"do": "convert", "files": [...], "tickers": true}   raw files to its own format, with its own converter
    {"do": "load", "tick": …, "lot": …, "roi": true}     prepare to replay the last conversion
    {"do": "replay"}                                     replay it once

Every answer has `seconds` of the work alone, without compilation and input or output.
"""

import gzip
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from hftbacktest import BacktestAsset, HashMapMarketDepthBacktest, ROIVectorMarketDepthBacktest
from hftbacktest.data.utils import binancefutures
from numba import njit

WHOLE_SESSION_NS = 10**18


@njit
def elapse(backtest):
    """Send the whole feed through the backtester, without a strategy."""
    return backtest.elapse(WHOLE_SESSION_NS)


def convert(files, tickers):
    """Convert files, in order, as one stream; return seconds, converted rows and lines of text."""
    with tempfile.NamedTemporaryFile(suffix=".gz") as whole:
        lines = 0
        for name in files:
            with Path(name).open("rb") as part:
                shutil.copyfileobj(part, whole)
            with gzip.open(name) as text:
                lines += sum(1 for _ in text)
        whole.flush()
        started = time.perf_counter()
        rows = binancefutures.convert(whole.name, opt="t" if tickers else "")
        return time.perf_counter() - started, rows, lines


def asset(rows, tick, lot, roi):
    made = (
        BacktestAsset()
        .data(rows)
        .linear_asset(1.0)
        .constant_order_latency(0, 0)
        .risk_adverse_queue_model()
        .no_partial_fill_exchange()
        .trading_value_fee_model(0.0, 0.0)
        .tick_size(tick)
        .lot_size(lot)
        .last_trades_capacity(0)
    )
    if roi:
        prices = rows["px"][rows["px"] > 0]
        middle = float(np.median(prices))
        made = made.roi_lb(middle * 0.5).roi_ub(middle * 1.5)
    return made


def replay(rows, tick, lot, roi):
    """Replay rows of its own format once; return the seconds that it took."""
    kind = ROIVectorMarketDepthBacktest if roi else HashMapMarketDepthBacktest
    backtest = kind([asset(rows, tick, lot, roi)])
    started = time.perf_counter()
    end = elapse(backtest)
    seconds = time.perf_counter() - started
    backtest.close()
    if end not in (0, 1):
        raise RuntimeError(f"hftbacktest ended with {end}")
    return seconds


def main():
    rows = None
    settings = {}
    out = sys.stdout
    sys.stdout = sys.stderr  # hftbacktest prints what it does
    for line in sys.stdin:
        request = json.loads(line)
        answer = {}
        if request["do"] == "convert":
            seconds, rows, lines = convert(request["files"], request["tickers"])
            kinds = rows["ev"] & 0xFF
            answer = {"seconds": seconds, "lines": lines, "rows": len(rows)}
            answer["kinds"] = {
                int(kind): int(count) for kind, count in zip(*np.unique(kinds, return_counts=True), strict=True)
            }
        elif request["do"] == "load":
            settings = {name: request[name] for name in ("tick", "lot", "roi")}
            replay(rows, **settings)  # compiles
            answer = {"seconds": 0.0}
        else:
            answer = {"seconds": replay(rows, **settings)}
        out.write(json.dumps(answer) + "\n")
        out.flush()


if __name__ == "__main__":
    main()

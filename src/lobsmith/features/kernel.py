"""The feature kernel of training and the live client: a small state, updated per event."""

import numba
import numpy as np
import numpy.typing as npt

from lobsmith.features import normaliser
from lobsmith.features.definitions import COUNT, DECAYS, LEVELS, ROLLING
from lobsmith.features.logarithm import log
from lobsmith.market import book as order_book
from lobsmith.market.events import ASK, BID, GAP, TICKER, TRADE

_BASIS_POINTS = 1e4
_NEAR_LEVELS = 5
_PULL_S = 0.1
"""Decay of the `pull` features."""
_LONG_AGO_S = 100.0
"""Age before the first move or trade."""
_BOOK_COLUMNS = 4 * LEVELS
_TOUCH_COLUMNS = 10


def kernel_dtype() -> np.dtype[np.void]:
    """Return the kernel's state, without book and normaliser; all zeros mean a new segment."""
    return np.dtype(
        [
            ("lot", np.float64),
            ("flow_decay", np.float64, (DECAYS,)),
            ("size_decay", np.float64),
            ("short_decay", np.float64),
            ("long_decay", np.float64),
            ("has_previous", np.int64),
            ("segment", np.int64),
            ("row_time", np.int64),
            ("trade_time", np.int64),
            ("mid", np.int64),
            ("flow_touch", np.float64, (DECAYS,)),
            ("flow_near", np.float64),
            ("rows", np.float64),
            ("trades", np.float64, (DECAYS,)),
            ("trade_flow", np.float64, (DECAYS,)),
            ("last_trade", np.int64),
            ("trade_price", np.int64),  # of the last trade
            ("trade_side", np.float64),
            ("move", np.int64),  # last change of twice the mid, ticks
            ("move_time", np.int64),
            ("usual_size", np.float64),  # slow average of the touch's queues
            ("short_variance", np.float64),
            ("long_variance", np.float64),
            ("price", np.int64, (2, LEVELS)),
            ("size", np.float64, (2, LEVELS)),
            ("depth", np.int64, (2,)),
            ("levels_known", np.int64),  # depth unchanged since the levels were read
            ("distance", np.float64, (2, LEVELS)),  # from the mid, ticks
            ("logs", np.float64, (4 * LEVELS,)),  # ln(1 + lots) of bids, asks, then cumulated
            ("old_price", np.int64, (2, _NEAR_LEVELS)),
            ("old_size", np.float64, (2, _NEAR_LEVELS)),
            ("old_depth", np.int64, (2,)),
            ("raw", np.float32, (COUNT,)),
        ],
        align=True,
    )


@numba.njit(cache=True, error_model="numpy")
def _signed_log(value: float) -> float:
    size = log(1.0 + np.abs(value))
    return float(-size if value < 0.0 else size)


@numba.njit(cache=True, error_model="numpy")
def _reset(kernel: npt.NDArray[np.void]) -> None:
    k = kernel[0]
    k.has_previous = 0
    k.row_time = 0
    k.trade_time = 0
    k.flow_near = 0.0
    k.rows = 0.0
    for d in range(DECAYS):
        k.flow_touch[d] = 0.0
        k.trades[d] = 0.0
        k.trade_flow[d] = 0.0
    k.trade_side = 0.0
    k.move = 0
    k.usual_size = 0.0
    k.short_variance = 0.0
    k.long_variance = 0.0


@numba.njit(cache=True, error_model="numpy")
def _decay_trades(kernel: npt.NDArray[np.void], time: int) -> None:
    k = kernel[0]
    if k.trade_time != 0:
        elapsed = np.float64(time - k.trade_time) * 1e-9
        for d in range(DECAYS):
            factor = np.exp(-elapsed / k.flow_decay[d])
            k.trades[d] *= factor
            k.trade_flow[d] *= factor
    k.trade_time = time


@numba.njit(cache=True, error_model="numpy")
def _level_flow(kernel: npt.NDArray[np.void], side: int, level: int) -> float:
    """Return a level's change of queue since the previous row (Cont, Kukanov & Stoikov).

    A better price counts its whole new queue, a worse one loses its whole old queue.
    """
    k = kernel[0]
    flow = 0.0
    has_new = level < k.depth[side]
    has_old = level < k.old_depth[side]
    improvement = 0
    if has_new and has_old:
        improvement = k.price[side, level] - k.old_price[side, level]
        if side == 1:
            improvement = -improvement
    if has_new and improvement >= 0:
        flow += k.size[side, level]
    if has_old and improvement <= 0:
        flow -= k.old_size[side, level]
    return flow


@numba.njit(cache=True, error_model="numpy")
def _measure_levels(kernel: npt.NDArray[np.void], mid: float) -> None:
    """Compute levels' distances and all logarithms in one vectorised loop."""
    k = kernel[0]
    per_lot = 1.0 / k.lot
    for side in range(2):
        # Missing levels: empty, at the last one's price.
        for level in range(k.depth[side], LEVELS):
            k.price[side, level] = k.price[side, level - 1]
            k.size[side, level] = 0.0
        cumulative = 1.0
        for level in range(LEVELS):
            lots = k.size[side, level] * per_lot
            cumulative += lots
            k.logs[LEVELS * side + level] = 1.0 + lots
            k.logs[LEVELS * (side + 2) + level] = cumulative
            k.distance[side, level] = np.abs(k.price[side, level] - mid)
    for i in range(4 * LEVELS):
        k.logs[i] = log(k.logs[i])


@numba.njit(cache=True, error_model="numpy")
def _book_columns(kernel: npt.NDArray[np.void], mid: float) -> None:
    k = kernel[0]
    scale = _BASIS_POINTS / mid
    for side in range(2):
        for level in range(LEVELS):
            column = 4 * level + 2 * side
            k.raw[column] = k.distance[side, level] * scale
            k.raw[column + 1] = k.logs[LEVELS * side + level]


@numba.njit(cache=True, error_model="numpy")
def _slope(kernel: npt.NDArray[np.void], side: int, mid: float) -> float:
    """Return the least-squares slope of log cumulative lots on the distance from the mid, in basis points."""
    k = kernel[0]
    count = k.depth[side]
    if count < 2:
        return 0.0
    first = LEVELS * (side + 2)
    x_sum = 0.0
    y_sum = 0.0
    for level in range(count):
        x_sum += k.distance[side, level]
        y_sum += k.logs[first + level]
    x_mean = x_sum / count
    y_mean = y_sum / count
    covariance = 0.0
    variance = 0.0
    for level in range(count):
        x = k.distance[side, level] - x_mean
        covariance += x * (k.logs[first + level] - y_mean)
        variance += x * x
    return float(covariance / variance * mid / _BASIS_POINTS)


@numba.njit(cache=True, error_model="numpy")
def _touch_columns(kernel: npt.NDArray[np.void], column: int, time: int, mid: float, spread: float) -> None:
    k = kernel[0]
    usual = log(1.0 + k.usual_size / k.lot)
    k.raw[column] = k.logs[0] - k.logs[LEVELS]
    k.raw[column + 1] = k.logs[0] - usual
    k.raw[column + 2] = k.logs[LEVELS] - usual
    k.raw[column + 3] = log(max(spread, 1.0))
    direction = 1.0 if k.move > 0 else -1.0 if k.move < 0 else 0.0
    age = np.float64(time - k.move_time) * 1e-9 if k.move != 0 else _LONG_AGO_S
    k.raw[column + 4] = _signed_log(np.float64(k.move))
    k.raw[column + 5] = log(1.0 + 1e3 * age)
    k.raw[column + 6] = direction * np.exp(-age / _PULL_S)
    traded = k.trade_side != 0.0
    age = np.float64(time - k.last_trade) * 1e-9 if traded else _LONG_AGO_S
    k.raw[column + 7] = _signed_log(k.trade_price - mid) if traded else 0.0
    k.raw[column + 8] = log(1.0 + 1e3 * age)
    k.raw[column + 9] = k.trade_side * np.exp(-age / _PULL_S)


@numba.njit(cache=True, error_model="numpy")
def _flow_columns(kernel: npt.NDArray[np.void], column: int, touch: float) -> None:
    """Write order flow and trades, in units of the average size at the touch."""
    k = kernel[0]
    usual = 1.0 / max(k.usual_size, k.lot)
    k.raw[column] = _signed_log(touch * usual)
    k.raw[column + 1] = _signed_log(k.flow_near * usual)
    for d in range(DECAYS):
        k.raw[column + 2 + d] = _signed_log(k.flow_touch[d] * usual)
        k.raw[column + 2 + DECAYS + d] = _signed_log(k.trade_flow[d] * usual)
        k.raw[column + 2 + 2 * DECAYS + d] = log(1.0 + k.trades[d] / k.flow_decay[d])


@numba.njit(cache=True, error_model="numpy")
def _row(kernel: npt.NDArray[np.void], time: int) -> None:
    """Compute the raw features from the levels just read."""
    k = kernel[0]
    twice_mid = k.price[0, 0] + k.price[1, 0]
    mid = 0.5 * twice_mid
    _measure_levels(kernel, mid)
    _book_columns(kernel, mid)
    first = k.has_previous == 0

    elapsed = 0.0 if first else np.float64(time - k.row_time) * 1e-9
    move = 0 if first else twice_mid - k.mid
    mid_return = 0.0 if move == 0 else _BASIS_POINTS * np.log(twice_mid / k.mid)
    touch = 0.0
    near = 0.0
    if not first:
        touch = _level_flow(kernel, 0, 0) - _level_flow(kernel, 1, 0)
        near = touch
        for level in range(1, _NEAR_LEVELS):
            near += _level_flow(kernel, 0, level) - _level_flow(kernel, 1, level)
    slowest = 0.0
    for d in range(DECAYS):
        slowest = np.exp(-elapsed / k.flow_decay[d])
        k.flow_touch[d] = k.flow_touch[d] * slowest + touch
    k.flow_near = k.flow_near * slowest + near
    k.rows = k.rows * slowest + 1.0
    _decay_trades(kernel, time)
    squared = mid_return * mid_return
    k.short_variance = k.short_variance * np.exp(-elapsed / k.short_decay) + squared
    k.long_variance = k.long_variance * np.exp(-elapsed / k.long_decay) + squared
    if move != 0:
        k.move = move
        k.move_time = time
    bid_size = k.size[0, 0]
    ask_size = k.size[1, 0]
    if first:
        k.usual_size = 0.5 * (bid_size + ask_size)
    else:
        keep = np.exp(-elapsed / k.size_decay)
        k.usual_size = keep * k.usual_size + (1.0 - keep) * 0.5 * (k.old_size[0, 0] + k.old_size[1, 0])

    column = _BOOK_COLUMNS
    bid = 0.0
    ask = 0.0
    for level in range(LEVELS):
        if level < k.depth[0]:
            bid += k.size[0, level]
        if level < k.depth[1]:
            ask += k.size[1, level]
        if level in (0, _NEAR_LEVELS - 1, LEVELS - 1):
            k.raw[column] = (bid - ask) / (bid + ask)
            column += 1
    microprice = (k.price[1, 0] * bid_size + k.price[0, 0] * ask_size) / (bid_size + ask_size)
    spread = np.float64(k.price[1, 0] - k.price[0, 0])
    k.raw[column] = _BASIS_POINTS * (microprice - mid) / mid
    k.raw[column + 1] = _BASIS_POINTS * spread / mid
    k.raw[column + 2] = mid_return
    k.raw[column + 3] = (
        np.sqrt(k.short_variance / k.short_decay / (k.long_variance / k.long_decay)) if k.long_variance > 0.0 else 0.0
    )
    k.raw[column + 4] = _slope(kernel, 0, mid)
    k.raw[column + 5] = _slope(kernel, 1, mid)
    k.raw[column + 6] = log(1.0 + elapsed * 1e3)
    k.raw[column + 7] = log(1.0 + k.rows / k.flow_decay[DECAYS - 1])
    _touch_columns(kernel, column + 8, time, mid, spread)
    _flow_columns(kernel, column + 8 + _TOUCH_COLUMNS, touch)

    k.mid = twice_mid
    k.row_time = time
    k.has_previous = 1
    for side in range(2):
        k.old_depth[side] = k.depth[side]
        for level in range(_NEAR_LEVELS):
            k.old_price[side, level] = k.price[side, level]
            k.old_size[side, level] = k.size[side, level]


@numba.njit(cache=True, error_model="numpy")
def _read_levels(book: npt.NDArray[np.void], kernel: npt.NDArray[np.void]) -> None:
    """Read both sides' levels, or only the touch's sizes where nothing else changed."""
    k = kernel[0]
    bid, bid_size, ask, ask_size = order_book.touch(book)
    if k.levels_known and bid == k.price[0, 0] and ask == k.price[1, 0]:
        k.size[0, 0] = bid_size
        k.size[1, 0] = ask_size
        return
    k.depth[0] = order_book.levels(book, BID, k.price[0], k.size[0])
    k.depth[1] = order_book.levels(book, ASK, k.price[1], k.size[1])
    k.levels_known = 1 if k.depth[0] > 0 and k.depth[1] > 0 else 0


@numba.njit(cache=True, error_model="numpy")
def run(
    book: npt.NDArray[np.void],
    kernel: npt.NDArray[np.void],
    window: npt.NDArray[np.void],
    local_time: npt.NDArray[np.int64],
    kind: npt.NDArray[np.uint8],
    side: npt.NDArray[np.int8],
    flags: npt.NDArray[np.uint8],
    price: npt.NDArray[np.int64],
    size: npt.NDArray[np.float64],
    sequence: npt.NDArray[np.int64],
    raw: npt.NDArray[np.float32],
    scaled: npt.NDArray[np.float32],
    times: npt.NDArray[np.int64],
    mids: npt.NDArray[np.int64],
    segments: npt.NDArray[np.int64],
    counts: npt.NDArray[np.int64],
) -> int:
    """Apply events to the book and write a row for each change of the touch.

    Args:
        book: the book's state, [1].
        kernel: the kernel's state, [1].
        window: the normaliser's state, [1].
        local_time, kind, side, flags, price, size, sequence: event columns, [N], as in `market.events.Events`.
        raw: float32 [R, F], written; R at least the number of ticker messages.
        scaled: float32 [R, F], written: the network's input, rolling columns as z-scores.
        times: int64 [R], written: local time, ns.
        mids: int64 [R], written: best bid plus best ask, ticks.
        segments: int64 [R], written.
        counts: int64 [R], written: rows in the normaliser's window.

    Returns:
        The number of rows.
    """
    k = kernel[0]
    rows = 0
    for n in range(local_time.shape[0]):
        event = kind[n]
        if event == TRADE:
            _decay_trades(kernel, local_time[n])
            for d in range(DECAYS):
                k.trades[d] += 1.0
                k.trade_flow[d] += side[n] * size[n]
            k.last_trade = local_time[n]
            k.trade_price = price[n]
            k.trade_side = np.float64(side[n])
            continue
        if event != TICKER:
            k.levels_known = 0
        if event == GAP:
            _reset(kernel)
            normaliser.reset(window)
            k.segment += 1
        status = order_book.apply(book, event, side[n], price[n], size[n], sequence[n], flags[n])
        if status != order_book.ROW:
            continue
        _read_levels(book, kernel)
        if k.depth[0] == 0 or k.depth[1] == 0:
            continue
        _row(kernel, local_time[n])
        counts[rows] = normaliser.normalise(window, k.raw, scaled[rows])
        for c in range(COUNT):
            if not ROLLING[c]:
                scaled[rows, c] = k.raw[c]
        raw[rows] = k.raw
        times[rows] = local_time[n]
        mids[rows] = k.mid
        segments[rows] = k.segment
        rows += 1
    return rows

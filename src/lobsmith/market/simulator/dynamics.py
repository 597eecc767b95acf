"""Order arrivals: a queue-reactive book, self-exciting trades, regimes, a flash crash.

A contiguous ladder of `LEVELS` prices a side in continuous time (Gillespie). After Huang, Lehalle & Rosenbaum
("Simulating and analyzing order book data: the queue-reactive model", 2015), intensities at the touch depend on the
queue, in average orders: limit orders fall slowly with it, cancellations rise like a power below one, market orders
fall. An empty queue uncovers the next price; with probability `theta` the other side follows (the reference price
moves), with probability `reinitialise` the queues behind are redrawn. In addition:

- Market orders excite their own side (Hawkes, exponential kernel).
- A latent Ornstein-Uhlenbeck direction and the queue imbalance shift all intensities: the learnable signal.
- A regime (calm, trending, volatile; a Markov chain) scales rates and order sizes and shifts trades.
- Optionally, in a flash crash sellers come and bids vanish, then buyers return.

Randomness is SplitMix64: the same seed gives the same bytes.
"""

import math
from collections.abc import Mapping
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numba import njit

from lobsmith.errors import DataError

Positive = Annotated[float, Meta(gt=0)]
Rate = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]

LEVELS = 40
RING = 256
DEPTH_EVERY = 0.1  # s
OPENING = 600_000  # ticks

CALM, TRENDING, VOLATILE = range(3)
LIMIT, CANCEL, MARKET, INSIDE, DEEP = range(5)
KINDS = 5


class Dynamics(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The constants; rates per second and side in the calm regime, sizes in lots.

    Raises:
        DataError: a constant is not finite or out of range, or trades excite themselves without end.
    """

    limit: Positive = 8.0
    cancel: Positive = 7.5
    market: Positive = 1.3
    inside: Rate = 14.0
    """Orders into the spread, per free tick."""
    deep: Rate = 8.0
    """Changes behind the touch."""
    order: Positive = 800.0
    """Mean order size; market orders 1.5 times."""
    queue: Positive = 2200.0
    """Size to which queues behind the touch revert."""
    theta: Share = 0.2
    reinitialise: Share = 0.1
    excitement: Rate = 0.5
    """A market order's addition to its side's intensity, as a share of `market`."""
    excitement_s: Positive = 0.4
    """Decay time. A trade has `market * excitement * excitement_s` children, times the regime's factor."""
    direction: Rate = 0.4
    """Effect of the latent direction (variance 1) on log intensities."""
    direction_s: Positive = 1.0
    imbalance: Rate = 0.6
    regime_s: Positive = 60.0
    """Mean duration."""
    calm: Positive = 0.8
    trending: Positive = 1.2
    volatile: Positive = 2.2
    """Factors on all rates."""
    trend: Rate = 0.05
    """Effect of a trend on the log intensity of market orders."""
    turbulence: Rate = 2.0
    """Factor on market orders' size in the volatile regime."""
    crash_at_s: float = -1.0
    """Start of a flash crash; negative: none."""
    crash_s: Rate = 2.0
    recovery_s: Rate = 6.0
    crash: Rate = 100.0
    """Factor on selling in the crash, and a third of it on buying in the recovery."""

    def __post_init__(self) -> None:
        """Validate: a Struct checks types only when decoded."""
        for field in msgspec.structs.fields(self):
            value = getattr(self, field.name)
            try:
                msgspec.convert(value, field.type)
            except msgspec.ValidationError as error:
                raise DataError(f"dynamics: {field.name} is {value}: {error}") from error
            if not math.isfinite(value):
                raise DataError(f"dynamics: {field.name} is {value}; give a finite number")
        children = max(self.calm, self.trending, self.volatile) * self.market * self.excitement * self.excitement_s
        if children >= 1.0:
            raise DataError(
                f"dynamics: a trade excites {children:.2f} others and trades would multiply without end; "
                "keep market * excitement * excitement_s, times the greatest regime factor, below 1"
            )

    def scaled(self, factors: Mapping[str, float]) -> "Dynamics":
        """Multiply some constants, such as `{"order": 1.3}`.

        Raises:
            DataError: no constant of that name, or an invalid result.
        """
        for name in factors:
            if name not in self.__struct_fields__:
                raise DataError(
                    f"dynamics: there is no constant {name}; it is one of {', '.join(self.__struct_fields__)}"
                )
        return msgspec.structs.replace(self, **{name: getattr(self, name) * by for name, by in factors.items()})


class Change(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Other constants from a time on.

    Raises:
        DataError: the time is not finite, or not after the opening.
    """

    at_s: float
    dynamics: Dynamics

    def __post_init__(self) -> None:
        """Validate the time."""
        if not 0 < self.at_s < math.inf:
            raise DataError(f"cannot change the market at {self.at_s} s; give a time after its opening")


STATE = np.dtype(
    [
        ("random", np.uint64),
        ("now", np.float64),  # s since the start
        ("next_depth", np.float64),
        ("regime", np.int64),
        ("trend", np.float64),  # +1 or -1 in the trending regime, else 0
        ("regime_until", np.float64),
        ("direction", np.float64),
        ("excited", np.float64, (2,)),  # by market orders on [bid, ask]
        ("local", np.int64),
        ("update", np.int64),
        ("trade", np.int64),
        ("tickers", np.int64),
        ("best", np.int64, (2,)),
        ("sizes", np.int64, (2, RING)),
        ("dirty", np.int64, (2, RING)),  # 1 + index in `changed`, else 0
        ("changed", np.int64, (2, RING)),
        ("changes", np.int64, (2,)),
        ("rates", np.float64, (2 * KINDS,)),
    ],
    align=True,
)


@njit(cache=True, error_model="numpy")
def uniform(s):  # type: ignore[no-untyped-def]
    """Return SplitMix64's next float in (0, 1)."""
    s.random += np.uint64(0x9E3779B97F4A7C15)
    z = s.random
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return (np.float64(z >> np.uint64(11)) + 0.5) * 2.0**-53


@njit(cache=True, error_model="numpy")
def lots(s, mean):  # type: ignore[no-untyped-def]
    """Draw an order size: exponential, at least one lot."""
    return 1 + np.int64(-np.log(uniform(s)) * mean)


@njit(cache=True, error_model="numpy")
def queue_at(s, side, price):  # type: ignore[no-untyped-def]
    """Return the size at a price, lots."""
    return s.sizes[side, price & (RING - 1)]


@njit(cache=True, error_model="numpy")
def put(s, side, price, size):  # type: ignore[no-untyped-def]
    """Set and mark a level."""
    slot = price & (RING - 1)
    s.sizes[side, slot] = size
    s.update += 1
    if s.dirty[side, slot] == 0:
        s.changed[side, s.changes[side]] = price
        s.changes[side] += 1
        s.dirty[side, slot] = s.changes[side]
    else:
        s.changed[side, s.dirty[side, slot] - 1] = price


@njit(cache=True, error_model="numpy")
def open_market(s, d):  # type: ignore[no-untyped-def]
    """Initialise both ladders."""
    s.best[0], s.best[1] = OPENING, OPENING + 1
    for side in range(2):
        for k in range(LEVELS):
            put(s, side, s.best[side] - (1 - 2 * side) * k, lots(s, d.queue))


@njit(cache=True, error_model="numpy")
def _improve(s, side, size):  # type: ignore[no-untyped-def]
    """Put an order one tick inside the spread; drop the deepest level."""
    sign = 1 - 2 * side
    s.best[side] += sign
    put(s, side, s.best[side], size)
    put(s, side, s.best[side] - sign * LEVELS, 0)


@njit(cache=True, error_model="numpy")
def _reduce(s, d, side, amount):  # type: ignore[no-untyped-def]
    """Take lots from the best level; an empty one uncovers the next."""
    sign = 1 - 2 * side
    left = queue_at(s, side, s.best[side]) - amount
    put(s, side, s.best[side], max(left, 0))
    if left > 0:
        return
    s.best[side] -= sign
    put(s, side, s.best[side] - sign * (LEVELS - 1), lots(s, d.queue))
    if uniform(s) < d.reinitialise:
        for k in range(3):
            put(s, side, s.best[side] - sign * k, lots(s, d.queue))


@njit(cache=True, error_model="numpy")
def _crash(s, d):  # type: ignore[no-untyped-def]
    """Return the crash's phase: 0 none, 1 crash, 2 recovery."""
    if d.crash_at_s < 0.0 or s.now < d.crash_at_s or s.now >= d.crash_at_s + d.crash_s + d.recovery_s:
        return 0
    return 1 if s.now < d.crash_at_s + d.crash_s else 2


@njit(cache=True, error_model="numpy")
def total_rate(s, d):  # type: ignore[no-untyped-def]
    """Compute all intensities; return their sum."""
    bid = np.float64(queue_at(s, 0, s.best[0]))
    ask = np.float64(queue_at(s, 1, s.best[1]))
    pressure = d.direction * s.direction + d.imbalance * (bid - ask) / (bid + ask)
    room = np.float64(s.best[1] - s.best[0] - 1)
    scale = d.calm if s.regime == CALM else d.trending if s.regime == TRENDING else d.volatile
    phase = _crash(s, d)
    whole = 0.0
    for side in range(2):
        push = pressure if side == 0 else -pressure  # positive: favours this side
        lean = push + d.trend * (s.trend if side == 0 else -s.trend)
        n = (bid if side == 0 else ask) / d.order
        fading = np.exp(-0.5 * n)
        limit = d.limit * (0.75 + 0.5 * fading) * np.exp(0.25 * push)
        cancel = d.cancel * min((n * d.order / d.queue) ** 0.7, 2.0) * np.exp(-0.25 * push)
        market = d.market * (0.8 + 0.8 * fading) * np.exp(-lean)
        inside = d.inside * room * np.exp(0.7 * push)
        if phase == 1:
            market *= d.crash if side == 0 else 0.2
            if side == 0:
                limit *= 0.2
                inside *= 0.1
                cancel *= 3.0
        elif phase == 2:
            market *= d.crash / 3.0 if side == 1 else 0.2
        market += d.market * s.excited[side]  # scaled by the regime only, or trades multiply without end
        s.rates[KINDS * side + LIMIT] = scale * limit
        s.rates[KINDS * side + CANCEL] = scale * cancel
        s.rates[KINDS * side + MARKET] = scale * market
        s.rates[KINDS * side + INSIDE] = scale * inside
        s.rates[KINDS * side + DEEP] = scale * d.deep
    for k in range(2 * KINDS):
        whole += s.rates[k]
    return whole


@njit(cache=True, error_model="numpy")
def drift(s, d, elapsed_s):  # type: ignore[no-untyped-def]
    """Advance the latent state by `elapsed_s` seconds."""
    keep = np.exp(-elapsed_s / d.direction_s)
    normal = np.sqrt(-2.0 * np.log(uniform(s))) * np.cos(2.0 * np.pi * uniform(s))
    s.direction = keep * s.direction + np.sqrt(1.0 - keep * keep) * normal
    fade = np.exp(-elapsed_s / d.excitement_s)
    s.excited[0] *= fade
    s.excited[1] *= fade
    if s.now >= s.regime_until:
        s.regime = min(np.int64(uniform(s) * 3.0), 2)
        s.trend = 0.0
        if s.regime == TRENDING:
            s.trend = 1.0 if uniform(s) < 0.5 else -1.0
        s.regime_until = s.now - np.log(uniform(s)) * d.regime_s


@njit(cache=True, error_model="numpy")
def change_deep(s, d, side):  # type: ignore[no-untyped-def]
    """Change a level behind the touch: small ones grow, large ones shrink, none empties."""
    sign = 1 - 2 * side
    price = s.best[side] - sign * (1 + np.int64(uniform(s) * (LEVELS - 1)))
    size = queue_at(s, side, price)
    amount = lots(s, d.order)
    put(s, side, price, max(size + amount if size < 2.0 * d.queue * uniform(s) else size - amount, 1))


@njit(cache=True, error_model="numpy")
def change_touch(s, d, side, what, fills):  # type: ignore[no-untyped-def]
    """Execute an order at the touch; return the number of trades.

    Args:
        s: a `STATE` element.
        d: the constants.
        side: 0 bids, 1 asks: the affected queue.
        what: `LIMIT`, `CANCEL`, `MARKET` or `INSIDE`.
        fills: int64 [F, 2], written: price and lots of each trade.
    """
    sign = 1 - 2 * side
    best = s.best[side]
    trades = 0
    if what == LIMIT:
        put(s, side, best, queue_at(s, side, best) + lots(s, d.order))
    elif what == CANCEL:
        _reduce(s, d, side, lots(s, d.order))
    elif what == INSIDE:
        _improve(s, side, lots(s, 1.5 * d.order))
    else:
        wanted = lots(s, 1.5 * d.order * (d.turbulence if s.regime == VOLATILE else 1.0))
        while wanted > 0 and trades < len(fills):
            price = s.best[side]
            filled = min(wanted, queue_at(s, side, price))
            fills[trades, 0], fills[trades, 1] = price, filled
            _reduce(s, d, side, filled)
            wanted -= filled
            trades += 1
        s.excited[side] += d.excitement
    if sign * (best - s.best[side]) > 0 and uniform(s) < d.theta:
        _improve(s, 1 - side, lots(s, 1.5 * d.order))
    return trades

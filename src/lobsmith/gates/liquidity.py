"""The liquidity contract: whether a symbol has the volume and the spread to be traded."""

import re
from collections.abc import Iterable

import numpy as np
from msgspec import Struct

from lobsmith.market.events import BID, END, GAP, TICKER, TRADE, Events
from lobsmith.market.instrument import Instrument
from lobsmith.params import LiquidityParams
from lobsmith.units import NS_PER_S
from lobsmith.verdict import Verdict

PROBLEM = "problem"
"""Evidence of why a daily volume cannot be told."""
_DAY_S = 86_400.0
_COINM_USD = {"BTCUSD": 100.0}
_COINM_OTHER_USD = 10.0


class Liquidity(Struct, frozen=True, kw_only=True):
    """Liquidity of an instrument's events."""

    instrument: Instrument
    seconds: float
    """Time inside segments, from which the volume is scaled up."""
    volume: float
    """Sum of trade sizes over that time, in the venue's units."""
    mid: float
    """Time-weighted, in the quote currency."""
    spread: float
    """Time-weighted share of the mid."""


def measure(instrument: Instrument, parts: Iterable[Events]) -> Liquidity:
    """Measure an instrument's events; a best bid and ask count for as long as they stand, gaps do not count."""
    volume = seconds = mids = spreads = 0.0
    bid = ask = 0
    since = 0
    for events in parts:
        volume += float(events.size[events.kind == TRADE].sum())
        touched = (events.kind == TICKER) & (events.flags & END > 0)
        wanted = touched | (events.kind == GAP)
        bids = events.price[np.flatnonzero(touched) - 1]
        sides = events.side[np.flatnonzero(touched) - 1]
        asks = events.price[touched]
        # Either side may come first within the message.
        bids, asks = np.where(sides == BID, bids, asks), np.where(sides == BID, asks, bids)
        times, kinds = events.local_time[wanted], events.kind[wanted]
        if not len(times):
            continue
        every_bid = np.zeros(len(times), np.int64)
        every_ask = np.zeros(len(times), np.int64)
        every_bid[kinds == TICKER], every_ask[kinds == TICKER] = bids, asks
        before_bid, before_ask = np.append(bid, every_bid[:-1]), np.append(ask, every_ask[:-1])
        lasted = np.diff(times, prepend=since) / NS_PER_S * (before_bid > 0)
        total = (before_bid + before_ask) / 2.0
        seconds += float(lasted.sum())
        mids += float((lasted * total).sum())
        spreads += float((lasted * (before_ask - before_bid) / np.maximum(total, 1.0)).sum())
        bid, ask, since = int(every_bid[-1]), int(every_ask[-1]), int(times[-1])
    share = 1.0 / seconds if seconds else 0.0
    return Liquidity(
        instrument=instrument,
        seconds=seconds,
        volume=volume,
        mid=mids * share * instrument.tick_size,
        spread=spreads * share,
    )


def is_btc(instrument: Instrument) -> bool:
    """Return whether an instrument's base is bitcoin; the simulator's is."""
    return instrument.venue == "simulator" or re.match(r"(BTC|XBT)", instrument.symbol) is not None


def daily_volume_btc(liquidity: Liquidity, btc_price: float) -> float | None:
    """Return the volume of 24 hours in bitcoin, scaled up; None where no price of bitcoin is known.

    COIN-M contracts are worth 100 USD for bitcoin, 10 USD for others; everything else is in units of its base.
    """
    if not liquidity.seconds or not liquidity.mid:
        return 0.0
    scale = _DAY_S / liquidity.seconds
    if liquidity.instrument.venue == "binance-coinm":
        base = re.split(r"[_]", liquidity.instrument.symbol)[0]
        notional = liquidity.volume * _COINM_USD.get(base, _COINM_OTHER_USD)
        price = liquidity.mid if is_btc(liquidity.instrument) else btc_price
        return scale * notional / price if price else None
    if is_btc(liquidity.instrument):
        return scale * liquidity.volume
    return scale * liquidity.volume * liquidity.mid / btc_price if btc_price else None


def liquidity_verdicts(measured: Iterable[Liquidity], params: LiquidityParams) -> dict[str, tuple[Verdict, Verdict]]:
    """Return, by instrument, the verdicts on volume and spread; a symbol is tradable when both passed."""
    liquidities = list(measured)
    btc = [liquidity.mid for liquidity in liquidities if is_btc(liquidity.instrument) and liquidity.mid]
    btc_price = params.btc_price or (float(np.median(btc)) if btc else 0.0)
    verdicts = {}
    for liquidity in liquidities:
        name = str(liquidity.instrument)
        volume = daily_volume_btc(liquidity, btc_price)
        evidence = {"instrument": name, "seconds_seen": liquidity.seconds, "btc_price": btc_price}
        if volume is None:
            evidence[PROBLEM] = "no price of bitcoin: ingest a BTC symbol too, or set contract.liquidity.btc_price"
        enough = Verdict(
            gate="daily volume",
            passed=volume is not None and volume >= params.minimum_daily_volume_btc,
            value=volume or 0.0,
            threshold=params.minimum_daily_volume_btc,
            evidence=evidence,
        )
        close = Verdict(
            gate="spread",
            passed=bool(liquidity.seconds) and liquidity.spread < params.maximum_spread,
            value=liquidity.spread,
            threshold=params.maximum_spread,
            evidence={"instrument": name, "seconds_seen": liquidity.seconds},
        )
        verdicts[name] = enough, close
    return verdicts

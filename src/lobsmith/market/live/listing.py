"""Tick and lot of an instrument, from a table or the venue's listing."""

from typing import Any

import httpx

from lobsmith.errors import DataError, VenueError
from lobsmith.market.instrument import SIMULATED, Instrument
from lobsmith.market.venues.binance.live import VenueEndpoint
from lobsmith.market.venues.binance.reader import KNOWN

_DEADLINE_S = 10.0


def instrument_of(endpoint: VenueEndpoint, symbol: str) -> Instrument:
    """Return a symbol's instrument.

    Raises:
        DataError: no such symbol.
        VenueError: the venue does not answer.
    """
    name = symbol.upper()
    if name == SIMULATED.symbol:
        return SIMULATED
    known = KNOWN.get((endpoint.venue, name))
    if known is None:
        known = _listed(endpoint, name)
    return Instrument(venue=endpoint.venue, symbol=name, tick_size=known[0], lot_size=known[1])


def _listed(endpoint: VenueEndpoint, name: str) -> tuple[float, float]:
    url = endpoint.rest + endpoint.listing_path
    try:
        response = httpx.get(url, timeout=_DEADLINE_S)
        response.raise_for_status()
        symbols: list[dict[str, Any]] = response.json()["symbols"]
        symbol = next((entry for entry in symbols if entry["symbol"] == name), None)
        if symbol is None:
            raise DataError(f"{name}: {endpoint.venue} has no such symbol; see {url}")
        filters = {entry["filterType"]: entry for entry in symbol["filters"]}
        return float(filters["PRICE_FILTER"]["tickSize"]), float(filters["LOT_SIZE"]["stepSize"])
    except (httpx.HTTPError, KeyError, ValueError, TypeError) as error:
        raise VenueError(f"{url}: {str(error) or type(error).__name__}; trying again") from error

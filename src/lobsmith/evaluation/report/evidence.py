"""Evidence of a verdict as a list to read: names in words, figures rounded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lobsmith.evaluation.report.formatting import count, figure, horizon, moment

_LONGEST = 160
_INTERVAL = {"value", "low", "high"}
_TIME, _HORIZON = "_ns", "_ms"
_NAMES = {
    "at_once": "in chunks",
    "base": "base rate",
    "delta_log_loss": "rise of log-loss",
    "delta_mcc": "rise of MCC",
    "ece": "ECE",
    "epoch": "regime",
    "epochs": "regimes",
    "floor_95": "95th percentile",
    "log_loss": "log-loss",
    "stepped": "row by row",
    "step_graph": "one-row file",
    "use": "used for",
}


@dataclass(frozen=True)
class Item:
    """A piece of evidence: its name, its value, and what it consists of."""

    name: str
    text: str
    items: tuple["Item", ...] = ()


def listed(evidence: Mapping[str, Any]) -> tuple[Item, ...]:
    """Return evidence as items, of which those without depth are one line."""
    return tuple(_item(str(name), value) for name, value in evidence.items())


def named(key: str) -> str:
    """Return a key in words: a horizon where it is a number of milliseconds.

    >>> named("floor_95"), named("train_rows"), named("1000"), named("horizon_ms")
    ('95th percentile', 'train rows', '1 s', 'horizon')
    """
    if key.isascii() and key.isdigit():
        return horizon(int(key))
    return _NAMES.get(key, key.removesuffix(_TIME).removesuffix(_HORIZON).replace("_", " "))


def _item(key: str, value: Any) -> Item:
    if isinstance(value, Mapping) and set(value) != _INTERVAL:
        items = listed(value)
        return Item(named(key), "none") if not items else _folded(named(key), items)
    if isinstance(value, list | tuple) and any(isinstance(part, Mapping | list | tuple) for part in value):
        return Item(named(key), "", tuple(_part(place, part) for place, part in enumerate(value, 1)))
    return Item(named(key), _text(key, value))


def _part(place: int, value: Any) -> Item:
    """Return an item of a list: a table is named by its first entry, as in “fold 1”."""
    if not isinstance(value, Mapping) or not value:
        return _item(str(place), value) if isinstance(value, Mapping | list | tuple) else Item("", _text("", value))
    (first, of), *others = value.items()
    if isinstance(of, bool) or not isinstance(of, str | int):
        return _folded(f"{place}", listed(value))
    return _folded(f"{named(first)} {of}", listed(dict(others)))


def _folded(name: str, items: Sequence[Item]) -> Item:
    """Return items below a name: in one line where all are texts."""
    if any(item.items for item in items):
        return Item(name, "", tuple(items))
    return Item(name, ", ".join(f"{item.name} {item.text}" for item in items))


def _text(key: str, value: Any) -> str:
    if value is None:
        return "not known"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        low, middle, high = (figure(value[name]) for name in ("low", "value", "high"))
        return f"{middle} [{low}, {high}]"
    if isinstance(value, list | tuple):
        return _short(", ".join(_text("", part) for part in value) or "none")
    if isinstance(value, int) and key.endswith(_TIME):
        return moment(value)
    if isinstance(value, int) and key.endswith(_HORIZON):
        return horizon(value)
    if isinstance(value, int):
        return count(value)
    return figure(value) if isinstance(value, float) else _short(str(value))


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"

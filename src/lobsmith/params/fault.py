"""What is wrong with a parameter: its place, the value, and the valid ones."""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from msgspec import inspect

from lobsmith.params.section import NAME_PATTERN, NAME_RULE

_PARAMETER = re.compile(r"\b[a-z]\w*(?:\.[a-z]\w*)+")
_PLACE = re.compile(r" - at `\$(.*)`$")
_OPTIONS = {"model.name": "--model"}
"""Options that stand for a parameter, besides `--set`."""


def describe_fault(error: str, schema: type, table: Any, path: Path, overrides: Mapping[str, Any]) -> str:
    """Return a validation error in one line that says where the value comes from.

    Args:
        error: the message of `msgspec.ValidationError`.
        schema: the struct that the table was to become.
        table: the parameters, overrides included.
        path: the file.
        overrides: values that replaced those of the file, by dotted name.
    """
    text = _PLACE.sub("", error)
    match = _PLACE.search(error)
    keys = re.findall(r"[^.\[\]]+", match[1]) if match else []
    if unknown := re.fullmatch(r"Object contains unknown field `(.+)`", text):
        keys.append(unknown[1])
        text = unknown_parameter(keys, schema) or text
    elif text.startswith("Object missing"):
        text = f"there is no {'.'.join([*keys, text.split('`')[1]])}"
    elif named := _PARAMETER.search(text):  # a section's own check
        keys = named[0].split(".")
    else:
        text = f"{'.'.join(keys)}: {_expected(text, _type_at(schema, keys))}"
        value = _value_at(table, keys)
        text += f", got {value!r}" if isinstance(value, str | int | float | None) else ""
    names = [*_PARAMETER.findall(text), ".".join(keys)]
    replaced = {name: overrides[name] for name in overrides if any(_holds(name, other) for other in names)}
    return f"{_source(path, keys, replaced)}: {text}"


def unknown_parameter(keys: list[str], schema: type) -> str | None:
    """Return that there is no such parameter, with the closest name, else all of its section; None where there is."""
    for known in range(len(keys)):
        if keys[known] not in _fields(_type_at(schema, keys[:known])):
            break
    else:
        return None
    section, name = keys[:known], keys[known]
    names = _fields(_type_at(schema, section))
    close = get_close_matches(name, names, 1)
    way_out = f"did you mean {'.'.join([*section, close[0]])}?" if close else f"there are {', '.join(names)}"
    return f"there is no parameter {'.'.join(keys[: known + 1])}; {way_out}"


def _expected(text: str, kind: inspect.Type | None) -> str:
    if isinstance(kind, inspect.LiteralType):
        return f"expected one of {', '.join(map(str, kind.values))}"
    if "matching regex" in text:
        return f"expected {NAME_RULE}" if getattr(kind, "pattern", None) == NAME_PATTERN else text.replace("`", "")
    return re.sub(r", got (`\w+`|\d+)$", "", text).replace("`", "").replace("Expected", "expected")


def _source(path: Path, keys: list[str], overrides: Mapping[str, Any]) -> str:
    """Return `--set NAME=VALUE` with the file, else file and line."""
    if overrides:
        settings = [f"--set {name}={value}" for name, value in overrides.items()]
        options = [f" or {_OPTIONS[name]} {overrides[name]}" for name in overrides if name in _OPTIONS]
        return f"{path} with {' '.join(settings)}{''.join(options)}"
    line = _line(path, keys)
    return str(path) if line is None else f"{path}:{line}"


def _holds(name: str, place: str) -> bool:
    return place == name or place.startswith(f"{name}.")


def _line(path: Path, keys: list[str]) -> int | None:
    """Return the line of the innermost key that the file has, from 1; None for the whole file."""
    node, line = yaml.compose(path.read_text()), None
    for key in keys:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        found = [(name, value) for name, value in pairs if name.value == key]
        if not found:
            break
        line, node = found[0][0].start_mark.line + 1, found[0][1]
    return line


def _value_at(table: Any, keys: list[str]) -> Any:
    for key in keys:
        if isinstance(table, dict):
            table = table.get(key)
        elif isinstance(table, list) and key.isdigit():
            table = table[int(key)]
        else:
            return ()
    return table


def _type_at(schema: type, keys: list[str]) -> inspect.Type | None:
    kind: inspect.Type | None = _described(schema)
    for key in keys:
        if isinstance(kind, inspect.StructType):
            kind = next((field.type for field in kind.fields if field.name == key), None)
        elif isinstance(kind, inspect.VarTupleType | inspect.ListType):
            kind = kind.item_type
        elif isinstance(kind, inspect.TupleType) and key.isdigit():
            kind = kind.item_types[int(key)]
        else:
            return None
    return kind


@cache
def _described(schema: type) -> inspect.Type:
    return inspect.type_info(schema)


def _fields(kind: inspect.Type | None) -> list[str]:
    return [field.name for field in kind.fields] if isinstance(kind, inspect.StructType) else []

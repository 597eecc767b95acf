"""The strict base of all sections, and shared ranges."""

from typing import Annotated

from msgspec import Meta, Struct

Positive = Annotated[int, Meta(ge=1)]
Weight = Annotated[float, Meta(ge=0)]
PositiveFloat = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Port = Annotated[int, Meta(ge=1, le=65535)]
# Reserved endings: the candidate deployment, TensorRT plans and the drift score.
NAME_PATTERN = r"^[A-Za-z][A-Za-z0-9_]{0,63}(?<!_candidate)(?<!_trt)(?<!_drift)\Z"
NAME_RULE = "a letter, then letters, digits and underscores, not ending in _candidate, _trt or _drift"
Name = Annotated[str, Meta(pattern=NAME_PATTERN)]

LARGEST_CHUNK = 256
"""Most rows of a request."""


class Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of `params.yaml`: immutable, unknown keys are refused."""

"""The strict base of all sections, and shared ranges."""

from typing import Annotated

from msgspec import Meta, Struct

Positive = Annotated[int, Meta(ge=1)]
Weight = Annotated[float, Meta(ge=0)]
PositiveFloat = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Port = Annotated[int, Meta(ge=1, le=65535)]
# Reserved endings: the candidate deployment, TensorRT plans and the drift score.
Name = Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}(?<!_candidate)(?<!_trt)(?<!_drift)\Z")]

LARGEST_CHUNK = 256
"""Most rows of a request."""


class Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of `params.yaml`: immutable, unknown keys are refused."""

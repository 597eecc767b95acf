"""The strict base of all sections, and the ranges that several of them share."""

from typing import Annotated

from msgspec import Meta, Struct

Positive = Annotated[int, Meta(ge=1)]
Weight = Annotated[float, Meta(ge=0)]
PositiveFloat = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Port = Annotated[int, Meta(ge=1, le=65535)]
# The endings belong to the candidate slot, to TensorRT plans and to the reference score.
Name = Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}(?<!_candidate)(?<!_trt)(?<!_drift)\Z")]

LARGEST_CHUNK = 256
"""Most rows that a request carries."""


class Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of `params.yaml`: immutable, and no key is accepted that is not declared."""

"""Messages between the worker and the zygote."""

from typing import NamedTuple


class Order(NamedTuple):
    """A job for a child; `environment` is added to the zygote's."""

    ticket: int
    job: str
    environment: dict[str, str]


class Ping(NamedTuple):
    """A check that the zygote takes orders."""

    ticket: int


class Pong(NamedTuple):
    """The reply to a ping."""

    ticket: int


class Ready(NamedTuple):
    """The zygote's imports are complete."""


class Forked(NamedTuple):
    """The reply to an order."""

    ticket: int
    pid: int


class Ended(NamedTuple):
    """Exit status or negative signal of a child."""

    pid: int
    status: int

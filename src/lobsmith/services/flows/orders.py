"""Messages between the worker and the zygote."""

from typing import NamedTuple


class Order(NamedTuple):
    """A job to fork a child for; the reply repeats `ticket`, `environment` is added to the zygote's."""

    ticket: int
    job: str
    environment: dict[str, str]


class Ping(NamedTuple):
    """Is the zygote taking orders?"""

    ticket: int


class Pong(NamedTuple):
    """The reply to a ping."""

    ticket: int


class Ready(NamedTuple):
    """The zygote's imports are complete."""


class Forked(NamedTuple):
    """The reply to an order: the child's process id."""

    ticket: int
    pid: int


class Ended(NamedTuple):
    """Exit status of a child, or the negative signal that killed it."""

    pid: int
    status: int

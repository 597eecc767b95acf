"""What the worker and the zygote tell each other."""

from typing import NamedTuple


class Order(NamedTuple):
    """A job to fork a child for; `ticket` is repeated in the answer, `environment` is added to the zygote's."""

    ticket: int
    job: str
    environment: dict[str, str]


class Ping(NamedTuple):
    """Whether the zygote takes orders."""

    ticket: int


class Pong(NamedTuple):
    """The answer to a ping."""

    ticket: int


class Ready(NamedTuple):
    """The zygote has imported what it needs."""


class Forked(NamedTuple):
    """The child of an order."""

    ticket: int
    pid: int


class Ended(NamedTuple):
    """How a child ended: its exit status, or the negative signal that killed it."""

    pid: int
    status: int

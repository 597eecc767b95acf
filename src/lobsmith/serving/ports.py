"""Ports of this machine: which are free, and which process holds another."""

import errno
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import psutil

from lobsmith.errors import PortBusyError, ServingError

HOST = "127.0.0.1"
_COMMAND_CHARACTERS = 120


@dataclass(frozen=True)
class Port:
    """A port to listen on, and the parameter that names it; None where only `--port` does."""

    number: int
    parameter: str | None = None
    host: str = HOST

    @property
    def remedy(self) -> str:
        """What to do where it is taken."""
        if self.parameter is None:
            return "free it, or pass another --port"
        option = f"--{self.parameter.rpartition('.')[2].replace('_', '-')}"
        return f"free it, or set {self.parameter} in params.yaml or pass {option}"


def check_free(ports: Sequence[Port]) -> None:
    """Check that each port can be bound.

    Raises:
        PortBusyError: one is taken, named twice or not permitted; names the process that holds it.
        ServingError: the address is none of this machine's.
    """
    named: dict[int, Port] = {}
    for port in ports:
        if (other := named.setdefault(port.number, port)) is not port:
            names = f"{other.parameter} and by {port.parameter}"
            raise PortBusyError(f"port {port.number} is named by {names}; give one of them another")
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            # As the servers do: a port in TIME_WAIT counts as free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((port.host, port.number))
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    raise ServingError(
                        f"serving.host in params.yaml: {port.host} is no address of this machine"
                    ) from error
                if error.errno == errno.EADDRINUSE:
                    reason = f"is taken by {_holder(port.number)}"
                else:
                    reason = f"cannot be used: {error.strerror}"
                raise PortBusyError(f"port {port.number} on {port.host} {reason}; {port.remedy}") from error


def free_ports(count: int, host: str = HOST) -> list[int]:
    """Return ports that are free now."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((host, 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def _holder(number: int) -> str:
    try:
        sockets = [entry for entry in psutil.net_connections("tcp") if entry.laddr and entry.laddr.port == number]
    except psutil.Error:
        sockets = []
    sockets.sort(key=lambda entry: entry.status != psutil.CONN_LISTEN)
    pid = next((entry.pid for entry in sockets if entry.pid is not None), None)
    if pid is None:
        return "a process that this user may not see"
    try:
        command = " ".join(" ".join(psutil.Process(pid).cmdline()).split())
    except psutil.Error:
        command = ""
    short = command if len(command) <= _COMMAND_CHARACTERS else f"{command[:_COMMAND_CHARACTERS]}…"
    return f"process {pid}" + (f" ({short})" if short else "")

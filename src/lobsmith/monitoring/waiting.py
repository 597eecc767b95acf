"""Clients that the active version refuses, and the candidate that they wait for.

A client of an instrument that the active version was not trained on logs no row to compare a candidate on. While it
waits it rewrites a file after each refusal.
"""

import time
from pathlib import Path

import msgspec
from msgspec import Struct

from lobsmith.monitoring.live_evaluation import LIVE
from lobsmith.monitoring.log.sessions import ClientSession, Status, sessions_of
from lobsmith.params import Params
from lobsmith.release.version.manifest import Manifest
from lobsmith.release.version.names import candidate_model
from lobsmith.units import NS_PER_S
from lobsmith.workspace import Workspace

_FRESH_S = 30.0
"""Age of the file from which a client waits no longer, s of the machine's time."""


class Refused(Struct, frozen=True, kw_only=True):
    """Content of a waiting client's file: the production model and the instrument, `venue:symbol`."""

    model: str
    instrument: str


class Uncompared(Struct, frozen=True, kw_only=True):
    """A candidate for which no row can be put to the active version.

    Attributes:
        promote: whether no client would lose its answers by the promotion.
        reason: one line; where not to be promoted, with the way out.
    """

    promote: bool
    reason: str


def note_refusal(workspace: Workspace, model: str, instrument: str) -> None:
    """Write that a client was refused now; a failed write is ignored."""
    path = _folder(workspace) / f"{model}-{instrument.replace(':', '-')}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.encode(Refused(model=model, instrument=instrument)))
    except OSError:
        return


def waiting(workspace: Workspace, model: str) -> list[str]:
    """Return the instruments whose clients are refused by a model and go on asking."""
    instruments = set()
    for path in _folder(workspace).glob("*.json"):
        try:
            refused = msgspec.json.decode(path.read_bytes(), type=Refused)
            fresh = abs(time.time() - path.stat().st_mtime) < _FRESH_S
        except (OSError, msgspec.MsgspecError):
            # Being written; the next read gets it.
            continue
        if fresh and refused.model == model:
            instruments.add(refused.instrument)
    return sorted(instruments)


def uncompared(
    workspace: Workspace, params: Params, active: Manifest, candidate: Manifest, *, now_ns: int
) -> Uncompared | None:
    """Return a candidate's case where clients ask only for what the active version was not trained on and the candidate
    was.

    Returns:
        None where rows can be put to both, or no client asks for the candidate.

    Raises:
        PredictionLogError: the log cannot be read.
    """
    recent_ns = int(params.drift.recent_s * NS_PER_S)
    sessions = sessions_of(workspace, active.model, active.version, LIVE, now_ns=now_ns, recent_ns=recent_ns)
    open_for = {session.instrument for session in sessions if _is_open(session, now_ns - recent_ns)}
    wanted = sorted(
        instrument
        for instrument in open_for | set(waiting(workspace, active.model))
        if candidate.was_trained_on(instrument) and not active.was_trained_on(instrument)
    )
    served = sorted(instrument for instrument in open_for if active.was_trained_on(instrument))
    if not wanted or any(map(candidate.was_trained_on, served)):
        return None
    asked, connected = ", ".join(wanted), ", ".join(served)
    if served:
        deployment, version = candidate_model(active.model), candidate.version
        reason = (
            f"{deployment} {version} was trained on {asked}, which clients ask about and {active.model} "
            f"{active.version} was not, but not on {connected}, which clients are connected for: it serves once they "
            f"have left, or at once by lobsmith models promote {version}"
        )
        return Uncompared(promote=False, reason=reason)
    reason = (
        f"nothing serves that it could be compared with, and its gates have passed: clients ask about {asked}, "
        f"which {active.model} {active.version} was not trained on, and about nothing that it was"
    )
    return Uncompared(promote=True, reason=reason)


def _folder(workspace: Workspace) -> Path:
    return workspace.predictions / "waiting"


def _is_open(session: ClientSession, since_ns: int) -> bool:
    """Return whether a client is connected; from before a reboot, only while rows arrive."""
    return session.status is Status.OPEN and (session.seen or (session.last_ns or 0) >= since_ns)

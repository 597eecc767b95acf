"""Clients that a version has refused, and the candidate that they wait for.

A client whose instrument the active version has not learnt logs no row, so no candidate can be compared for it. It says
that it waits by a file, which it writes anew each time it has asked and was refused.
"""

import time
from collections.abc import Sequence
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
"""A client that has not asked for so long waits no longer, s of the machine's time."""


class Refused(Struct, frozen=True, kw_only=True):
    """What a waiting client writes down: the production model and its own instrument, `venue:symbol`."""

    model: str
    instrument: str


class Unopposed(Struct, frozen=True, kw_only=True):
    """A candidate for which no row can be put to the active version too.

    Attributes:
        promote: no client would lose its answers by its promotion.
        reason: why, or why not and what to do, one line.
    """

    promote: bool
    reason: str


def wait_for_a_model(workspace: Workspace, model: str, instrument: str) -> None:
    """Say that a client was refused just now; where the disk does not take it, nothing happens."""
    path = _folder(workspace) / f"{model}-{instrument.replace(':', '-')}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.encode(Refused(model=model, instrument=instrument)))
    except OSError:
        return


def waiting(workspace: Workspace, model: str) -> list[str]:
    """Return the instruments whose clients a model has refused and that go on asking."""
    found = set()
    for path in _folder(workspace).glob("*.json"):
        try:
            one = msgspec.json.decode(path.read_bytes(), type=Refused)
            fresh = abs(time.time() - path.stat().st_mtime) < _FRESH_S
        except (OSError, msgspec.MsgspecError):
            # It is being written; the next look sees it.
            continue
        if fresh and one.model == model:
            found.add(one.instrument)
    return sorted(found)


def unopposed(
    workspace: Workspace, params: Params, active: Manifest, candidate: Manifest, *, now_ns: int
) -> Unopposed | None:
    """Say whether a candidate has nothing that it could be compared with, although clients ask for it.

    That is so where clients ask about what the candidate has learnt and the active version has not, and no client asks
    about anything that both have learnt.

    Args:
        workspace: of the prediction log.
        params: `drift.recent_s` is used.
        active: the version that serves.
        candidate: the version in the candidate slot.
        now_ns: the time, UTC.

    Returns:
        None where rows can be put to both, or no client asks for the candidate.

    Raises:
        PredictionLogError: the log cannot be read.
    """
    recent_ns = int(params.drift.recent_s * NS_PER_S)
    sessions = sessions_of(workspace, active.model, active.version, LIVE, now_ns=now_ns, recent_ns=recent_ns)
    open_for = {one.instrument for one in sessions if _is_open(one, now_ns - recent_ns)}
    wanted = sorted(
        one
        for one in open_for | set(waiting(workspace, active.model))
        if candidate.has_learnt(one) and not active.has_learnt(one)
    )
    served = sorted(one for one in open_for if active.has_learnt(one))
    if not wanted or any(map(candidate.has_learnt, served)):
        return None
    if served:
        slot, number = candidate_model(active.model), candidate.version
        reason = (
            f"{slot} {number} has learnt {_list(wanted)}, which clients ask about and {active.model} {active.version} "
            f"has not learnt, but not {_list(served)}, which clients are connected for: it serves once they have "
            f"left, or at once by lobsmith models promote {number}"
        )
        return Unopposed(promote=False, reason=reason)
    reason = (
        f"nothing serves that it could be compared with, and its gates have passed: clients ask about {_list(wanted)}, "
        f"which {active.model} {active.version} has not learnt, and about nothing that it has"
    )
    return Unopposed(promote=True, reason=reason)


def _folder(workspace: Workspace) -> Path:
    return workspace.predictions / "waiting"


def _is_open(session: ClientSession, since_ns: int) -> bool:
    """Say whether a client is connected; one from before the machine was started anew only as long as rows come."""
    return session.status is Status.OPEN and (session.seen or (session.last_ns or 0) >= since_ns)


def _list(instruments: Sequence[str]) -> str:
    return ", ".join(instruments)

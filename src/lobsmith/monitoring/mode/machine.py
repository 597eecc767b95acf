"""What drift leads to: a small state machine with hysteresis, which clients keep to.

    normal  -->  conservative  -->  paused      each arrow is one step, and a look for drift takes at most one
    normal  <--  conservative  <--  paused

What a look finds, over all kinds of drift together, is one of

    drift     some kind is at DRIFT
    missing   some kind is at MISSING, or nothing was looked at
    calm      neither of the two, and some kind is at NO_DRIFT
    unknown   all that was looked at has INSUFFICIENT history
    idle      no client is connected, so that there is nothing to look at

    from           to             when
    -------------  -------------  ------------------------------------------------------------------------------------
    (no record)    normal         the first look, then taken like any other: one without history changes nothing
    normal         conservative   `drift_looks` looks in a row with drift, of any kind; or one look with missing data
    conservative   paused         `paused_looks` looks in a row with concept drift
    paused         conservative   `calm_looks` calm looks in a row
    conservative   normal         `calm_looks` calm looks in a row, counted from the last step on
    (no record)    normal         no client is connected
    any            the same       no client is connected, or one has only begun: nothing is counted
    any            any            an operator says so: then no step back is taken until `auto`

"In a row" is counted so that nothing alarming is forgotten for want of data: looks that say nothing of a kind neither
count nor break its row. A look with drift or missing data breaks the row of calm looks, an unknown one does not count.

Another active version starts all counters anew and keeps the mode. A promotion is no proof that the market is again
what the model has learnt, and a rollback none that the older version still fits it: both have to earn the step back by
calm looks of their own. A version promoted in normal mode serves in normal mode.
"""

from enum import StrEnum

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from lobsmith.drift.verdict import DriftCheck, Finding, Kind
from lobsmith.monitoring.mode.hit_rates import HitRates
from lobsmith.monitoring.state import State
from lobsmith.params import ModeParams
from lobsmith.units import NS_PER_S


class Mode(StrEnum):
    """What clients may act on."""

    NORMAL = "normal"
    """Every answer."""
    CONSERVATIVE = "conservative"
    """Answers at a confidence that has come true nearly always."""
    PAUSED = "paused"
    """None. Answers go on, because without them nobody would know when to go back."""

    @property
    def caution(self) -> int:
        """0 of the least cautious; of two modes the one with more of it is to be kept to."""
        return list(Mode).index(self)


class ModeChange(Struct, frozen=True, kw_only=True):
    """One line of the journal: a change of the mode, or an operator's word.

    Attributes:
        time_ns: when, UTC.
        model, version: the model, and its active version then.
        mode_from: None where there was no record before.
        mode_to: the mode from then on.
        reason: why, one line for people.
        findings: what the look that led to it had found, by kind.
        who: a flow or a user.
        held: whether an operator's word holds from then on.
    """

    time_ns: int
    model: str
    version: int
    mode_from: Mode | None
    mode_to: Mode
    reason: str
    findings: dict[Kind, Finding] = {}
    who: str
    held: bool = False


class PublishedMode(Struct, frozen=True, kw_only=True):
    """The mode of a model, rewritten after each look.

    Attributes:
        model, version: the model, and the active version that was looked at last.
        mode: what clients keep to.
        since_ns: when this mode began, UTC.
        looked_ns: when drift was looked for last, UTC: the monitor's heartbeat; 0 before the first look.
        reason: why this mode, one line for people.
        last_look: what the last look found, one line for people.
        findings: what the last look found, by kind.
        drift_looks: looks in a row with drift.
        concept_looks: looks in a row with concept drift.
        calm_looks: calm looks in a row, since the last step.
        held: whether an operator has set the mode and not said `auto` since.
        win_rates: how often confident answers of this version came true; None where they were not counted.
        retrain_asked_ns: when an early retrain was asked for last, UTC.
        unjournaled: changes that were perhaps not journaled when this was written, the oldest first.
        state: of the model at the last look; unset in a record of an older release. No client need heed it.
    """

    model: str
    version: int
    mode: Mode
    since_ns: int
    looked_ns: int = 0
    reason: str
    last_look: str = ""
    findings: dict[Kind, Finding] = {}
    drift_looks: int = 0
    concept_looks: int = 0
    calm_looks: int = 0
    held: bool = False
    win_rates: HitRates | None = None
    retrain_asked_ns: int | None = None
    unjournaled: tuple[ModeChange, ...] = ()
    state: State | UnsetType = UNSET


def transition(record: PublishedMode | None, check: DriftCheck, params: ModeParams, now_ns: int) -> PublishedMode:
    """Return the record after one more look; the table above is all there is to it.

    The look that the record ends with already changes nothing: a run that was started again counts it once.

    Args:
        record: that of the model so far, None where there is none.
        look: what was found.
        params: how many looks in a row each step takes.
        now_ns: the time, UTC.
    """
    if record is not None and (record.looked_ns, record.version) == (check.looked_ns, check.version):
        return record
    if record is None:
        record = PublishedMode(
            model=check.model, version=check.version, mode=Mode.NORMAL, since_ns=now_ns, reason=_beginning(check)
        )
    if record.version != check.version:
        record = counted_anew(record, check.version)
    seen = _counted(record, check)
    mode, reason = _next(seen, check, params)
    if mode is not record.mode:
        seen = replace(seen, mode=mode, reason=reason, since_ns=now_ns, calm_looks=0)
        if mode.caution < record.mode.caution:
            # Else one more look would undo a step back that was made without news of concept drift.
            seen = replace(seen, concept_looks=0)
    return replace(seen, last_look=_in_words(check))


def wait(record: PublishedMode | None, model: str, version: int, state: State, now_ns: int) -> PublishedMode:
    """Return the record after a time at which there was nothing to look at: a heartbeat, and nothing counted.

    Args:
        record: that of the model so far, None where there is none.
        model, version: the active version.
        state: why there was nothing.
        now_ns: the time, UTC.
    """
    if record is None:
        record = PublishedMode(model=model, version=version, mode=Mode.NORMAL, since_ns=now_ns, reason=str(state))
    if record.version != version:
        record = counted_anew(record, version)
    return replace(record, looked_ns=now_ns, last_look=str(state), findings={}, state=state)


def counted_anew(record: PublishedMode, version: int) -> PublishedMode:
    """Return a record in the same mode whose counters start again; win rates are those of one version only."""
    rates = record.win_rates if record.version == version else None
    return replace(record, version=version, drift_looks=0, concept_looks=0, calm_looks=0, win_rates=rates)


def asks_retrain(before: PublishedMode | None, after: PublishedMode, params: ModeParams, now_ns: int) -> bool:
    """Say whether a look asks for a retrain ahead of its schedule.

    Drift does, once it has made the mode cautious, and again every `retrain_every_s` while looks still find it. Missing
    data never does: there would be nothing to learn from.
    """
    looked_again = before is not None and (before.looked_ns, before.version) == (after.looked_ns, after.version)
    if looked_again or after.mode is Mode.NORMAL or Finding.DRIFT not in after.findings.values():
        return False
    if after.retrain_asked_ns is None:
        return True
    # A time that lies ahead is that of a clock which was set back since.
    return not 0 <= now_ns - after.retrain_asked_ns < params.retrain_every_s * NS_PER_S


def kinds_at(check: DriftCheck, finding: Finding) -> list[Kind]:
    """Return the kinds of which a look found this."""
    return [one.kind for one in check.verdicts if one.finding is finding]


def _counted(record: PublishedMode, check: DriftCheck) -> PublishedMode:
    """Return the record with what was found and its counters after it."""
    drift, missing, calm = _drifts(check), _misses(check), _calms(check)
    concept = check.of(Kind.CONCEPT)
    found = None if concept is None else concept.finding
    return replace(
        record,
        looked_ns=check.looked_ns,
        findings={one.kind: one.finding for one in check.verdicts},
        drift_looks=record.drift_looks + 1 if drift else 0 if calm else record.drift_looks,
        concept_looks=record.concept_looks + 1
        if found is Finding.DRIFT
        else 0
        if found is Finding.NO_DRIFT
        else record.concept_looks,
        calm_looks=record.calm_looks + 1 if calm else 0 if drift or missing else record.calm_looks,
    )


def _next(seen: PublishedMode, check: DriftCheck, params: ModeParams) -> tuple[Mode, str]:
    """Return the mode after a look that is counted already, and why."""
    if seen.mode is Mode.NORMAL and _misses(check):
        return Mode.CONSERVATIVE, f"nothing is known: {_why(check, Finding.MISSING) or 'nothing was looked at'}"
    if seen.mode is Mode.NORMAL and _drifts(check) and seen.drift_looks >= params.drift_looks:
        return Mode.CONSERVATIVE, f"drift in {_looks(seen.drift_looks)}: {_why(check, Finding.DRIFT)}"
    concept = check.of(Kind.CONCEPT)
    if seen.mode is Mode.CONSERVATIVE and concept is not None and concept.finding is Finding.DRIFT:
        if seen.concept_looks >= params.paused_looks:
            return Mode.PAUSED, f"concept drift in {_looks(seen.concept_looks)}: {concept.reason}"
    elif seen.mode is not Mode.NORMAL and seen.calm_looks >= params.calm_looks and not seen.held:
        back = Mode.CONSERVATIVE if seen.mode is Mode.PAUSED else Mode.NORMAL
        return back, f"no drift in {_looks(seen.calm_looks)}"
    return seen.mode, seen.reason


def _drifts(check: DriftCheck) -> bool:
    return bool(kinds_at(check, Finding.DRIFT))


def _misses(check: DriftCheck) -> bool:
    return not check.verdicts or bool(kinds_at(check, Finding.MISSING))


def _calms(check: DriftCheck) -> bool:
    return not (_drifts(check) or _misses(check)) and bool(kinds_at(check, Finding.NO_DRIFT))


def _why(check: DriftCheck, finding: Finding) -> str:
    return "; ".join(f"{one.kind}: {one.reason}" for one in check.verdicts if one.finding is finding)


def _beginning(check: DriftCheck) -> str:
    known = kinds_at(check, Finding.NO_DRIFT)
    return "no drift at the first look" if known else "the first look: too little history to know what is usual"


def _in_words(check: DriftCheck) -> str:
    words = (f"{one.kind}: {one.finding}" + (f" ({one.reason})" if one.reason else "") for one in check.verdicts)
    return "; ".join(words) or "nothing was looked at"


def _looks(count: int) -> str:
    return "one look" if count == 1 else f"{count} looks in a row"

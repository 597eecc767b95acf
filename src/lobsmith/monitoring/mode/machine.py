"""The mode of a model: a state machine with hysteresis over drift checks, which clients obey.

    normal  -->  conservative  -->  paused      each arrow is one transition; a drift check makes at most one
    normal  <--  conservative  <--  paused

The result of a check over all kinds of drift is one of

    drift     some kind is at DRIFT
    missing   some kind is at MISSING, or nothing was checked
    calm      neither of the two, and some kind is at NO_DRIFT
    unknown   all kinds checked have INSUFFICIENT history
    idle      no client is connected: nothing to check

    from           to             when
    -------------  -------------  ------------------------------------------------------------------------------------
    (no mode)      normal         the first check, then evaluated like any other: one without history changes nothing
    normal         conservative   `drift_looks` checks in a row with drift, of any kind; or one check with missing data
    conservative   paused         `paused_looks` checks in a row with concept drift
    paused         conservative   `calm_looks` calm checks in a row
    conservative   normal         `calm_looks` calm checks in a row, counted from the last transition on
    (no mode)      normal         no client is connected
    any            the same       no client is connected, or one has just connected: nothing is counted
    any            any            an operator sets it: then no transition back until `auto`

Counters "in a row": a check in which a kind is unknown neither counts for it nor resets it. A check with drift or
missing data resets the calm checks; an unknown one does not count.

Another active version resets all counters and keeps the mode: after a promotion or a rollback the version must earn the
transition back by calm checks of its own. A version promoted in normal mode serves in normal mode.
"""

from enum import StrEnum

from msgspec import UNSET, Struct, UnsetType, field
from msgspec.structs import replace

from lobsmith.drift.verdict import DriftCheck, Finding, Kind
from lobsmith.monitoring.mode.hit_rates import HitRates
from lobsmith.monitoring.state import State
from lobsmith.params import ModeParams
from lobsmith.units import NS_PER_S


class Mode(StrEnum):
    """Which predictions are actionable."""

    NORMAL = "normal"
    """All."""
    CONSERVATIVE = "conservative"
    """Those at a confidence with a high hit rate."""
    PAUSED = "paused"
    """None. Predictions go on, since checks need them."""

    @property
    def caution(self) -> int:
        """0 of the least cautious; of two modes the more cautious one applies."""
        return list(Mode).index(self)


class ModeChange(Struct, frozen=True, kw_only=True):
    """One line of the journal: a change of the mode, or an operator's order.

    Attributes:
        time_ns: UTC.
        version: active then.
        mode_from: None where there was no mode before.
        findings: of the check that led to it.
        actor: a flow or a user.
        held: whether an operator's order holds from then on.
    """

    time_ns: int
    model: str
    version: int
    mode_from: Mode | None
    mode_to: Mode
    reason: str
    findings: dict[Kind, Finding] = {}
    actor: str = field(name="who")
    held: bool = False


class PublishedMode(Struct, frozen=True, kw_only=True):
    """The mode of a model, rewritten after each check.

    Attributes:
        version: the active version checked last.
        since_ns: start of this mode, UTC.
        looked_ns: time of the last check, UTC: the monitor's heartbeat; 0 before the first.
        reason: of this mode, one line for people.
        last_look, findings: of the last check.
        drift_looks, concept_looks: checks in a row with drift, with concept drift.
        calm_looks: calm checks in a row, since the last transition.
        held: whether an operator has set the mode, without `auto` since.
        win_rates: hit rates of this version; None where not counted.
        retrain_asked_ns: last request of an early retrain, UTC.
        unjournaled: changes possibly not journaled yet, the oldest first.
        state: at the last check; unset by an older release. Clients ignore it.
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


def transition(published: PublishedMode | None, check: DriftCheck, params: ModeParams, now_ns: int) -> PublishedMode:
    """Return the mode after one more check, by the table above.

    A check that `published` (None at first) includes already changes nothing: a restarted run counts it once.
    """
    if published is not None and (published.looked_ns, published.version) == (check.looked_ns, check.version):
        return published
    if published is None:
        published = PublishedMode(
            model=check.model, version=check.version, mode=Mode.NORMAL, since_ns=now_ns, reason=_first_reason(check)
        )
    if published.version != check.version:
        published = counted_anew(published, check.version)
    counted = _counted(published, check)
    mode, reason = _next(counted, check, params)
    if mode is not published.mode:
        counted = replace(counted, mode=mode, reason=reason, since_ns=now_ns, calm_looks=0)
        if mode.caution < published.mode.caution:
            # Else one more check would undo a transition back made without news of concept drift.
            counted = replace(counted, concept_looks=0)
    return replace(counted, last_look=_summary(check))


def wait(published: PublishedMode | None, model: str, version: int, state: State, now_ns: int) -> PublishedMode:
    """Return the mode after a time with nothing to check, for the reason in `state`: a heartbeat, nothing counted.

    `now_ns` is UTC.
    """
    if published is None:
        published = PublishedMode(model=model, version=version, mode=Mode.NORMAL, since_ns=now_ns, reason=str(state))
    if published.version != version:
        published = counted_anew(published, version)
    return replace(published, looked_ns=now_ns, last_look=str(state), findings={}, state=state)


def counted_anew(published: PublishedMode, version: int) -> PublishedMode:
    """Return the same mode with counters at 0; hit rates of another version are dropped."""
    rates = published.win_rates if published.version == version else None
    return replace(published, version=version, drift_looks=0, concept_looks=0, calm_looks=0, win_rates=rates)


def asks_retrain(before: PublishedMode | None, after: PublishedMode, params: ModeParams, now_ns: int) -> bool:
    """Return whether a check asks for an early retrain.

    Drift does once the mode is cautious, and again every `retrain_every_s`; missing data does not: there is nothing to
    train on.
    """
    is_repeated = before is not None and (before.looked_ns, before.version) == (after.looked_ns, after.version)
    if is_repeated or after.mode is Mode.NORMAL or Finding.DRIFT not in after.findings.values():
        return False
    if after.retrain_asked_ns is None:
        return True
    # A time ahead is from a clock that was set back since.
    return not 0 <= now_ns - after.retrain_asked_ns < params.retrain_every_s * NS_PER_S


def kinds_at(check: DriftCheck, finding: Finding) -> list[Kind]:
    """Return the kinds with a finding."""
    return [verdict.kind for verdict in check.verdicts if verdict.finding is finding]


def _counted(published: PublishedMode, check: DriftCheck) -> PublishedMode:
    drift, missing, calm = _drifts(check), _misses(check), _calms(check)
    concept = check.of(Kind.CONCEPT)
    finding = None if concept is None else concept.finding
    return replace(
        published,
        looked_ns=check.looked_ns,
        findings={verdict.kind: verdict.finding for verdict in check.verdicts},
        drift_looks=published.drift_looks + 1 if drift else 0 if calm else published.drift_looks,
        concept_looks=published.concept_looks + 1
        if finding is Finding.DRIFT
        else 0
        if finding is Finding.NO_DRIFT
        else published.concept_looks,
        calm_looks=published.calm_looks + 1 if calm else 0 if drift or missing else published.calm_looks,
    )


def _next(counted: PublishedMode, check: DriftCheck, params: ModeParams) -> tuple[Mode, str]:
    """Return the mode after a check that is counted already, and its reason."""
    if counted.mode is Mode.NORMAL and _misses(check):
        return Mode.CONSERVATIVE, f"nothing is known: {_why(check, Finding.MISSING) or 'nothing was checked'}"
    if counted.mode is Mode.NORMAL and _drifts(check) and counted.drift_looks >= params.drift_looks:
        return Mode.CONSERVATIVE, f"drift in {_checks(counted.drift_looks)}: {_why(check, Finding.DRIFT)}"
    concept = check.of(Kind.CONCEPT)
    if counted.mode is Mode.CONSERVATIVE and concept is not None and concept.finding is Finding.DRIFT:
        if counted.concept_looks >= params.paused_looks:
            return Mode.PAUSED, f"concept drift in {_checks(counted.concept_looks)}: {concept.reason}"
    elif counted.mode is not Mode.NORMAL and counted.calm_looks >= params.calm_looks and not counted.held:
        back = Mode.CONSERVATIVE if counted.mode is Mode.PAUSED else Mode.NORMAL
        return back, f"no drift in {_checks(counted.calm_looks)}"
    return counted.mode, counted.reason


def _drifts(check: DriftCheck) -> bool:
    return bool(kinds_at(check, Finding.DRIFT))


def _misses(check: DriftCheck) -> bool:
    return not check.verdicts or bool(kinds_at(check, Finding.MISSING))


def _calms(check: DriftCheck) -> bool:
    return not (_drifts(check) or _misses(check)) and bool(kinds_at(check, Finding.NO_DRIFT))


def _why(check: DriftCheck, finding: Finding) -> str:
    return "; ".join(f"{verdict.kind}: {verdict.reason}" for verdict in check.verdicts if verdict.finding is finding)


def _first_reason(check: DriftCheck) -> str:
    known = kinds_at(check, Finding.NO_DRIFT)
    return "no drift at the first check" if known else "the first check: too little history for a null distribution"


def _summary(check: DriftCheck) -> str:
    findings = (
        f"{verdict.kind}: {verdict.finding}" + (f" ({verdict.reason})" if verdict.reason else "")
        for verdict in check.verdicts
    )
    return "; ".join(findings) or "nothing was checked"


def _checks(count: int) -> str:
    return "one check" if count == 1 else f"{count} checks in a row"

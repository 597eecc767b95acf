"""What serves: each production model's active version, mode, clients and versions."""

from collections.abc import Mapping
from typing import NamedTuple

from lobsmith.drift.verdict import Finding
from lobsmith.errors import LobsmithError
from lobsmith.monitoring.mode.machine import Mode, PublishedMode
from lobsmith.monitoring.mode.store import read_mode
from lobsmith.monitoring.state import State, StateName, connected, state_now
from lobsmith.params import Params
from lobsmith.release.repository.journal import serving_since
from lobsmith.release.repository.repository import Repository
from lobsmith.release.version.manifest import Manifest, read_manifest
from lobsmith.release.version.names import candidate_model, may_produce
from lobsmith.services.landing.content import ModeLine, Serving, Tone, Trouble, VersionLine
from lobsmith.serving.endpoint import is_supervised
from lobsmith.serving.triton.control import served_versions
from lobsmith.units import NS_PER_S
from lobsmith.workspace import Workspace


class Ready(NamedTuple):
    """READY versions by model, or why Triton cannot be asked."""

    versions: Mapping[str, list[int]] | None
    why_not: str = ""


def read_ready(workspace: Workspace) -> Ready:
    """Return the READY versions."""
    try:
        versions = served_versions(workspace)
    except LobsmithError as error:
        return Ready(None, str(error))
    if versions is not None:
        return Ready(versions)
    is_starting = is_supervised(workspace)
    return Ready(None, "Triton is being started" if is_starting else "Triton does not run; lobsmith serve starts it")


def production_models(workspace: Workspace, params: Params) -> list[str]:
    """Return the production models by name, `model.name` first."""
    models = [model for model in Repository.of(workspace).models() if may_produce(model)]
    return sorted(models, key=lambda model: (model != params.model.name, model))


def read_state(workspace: Workspace, params: Params, model: str, now_ns: int) -> State | None:
    """Return whether clients are connected and rows arrive; None where nothing serves.

    Raises:
        LobsmithError: prediction log, journal, mode or manifest cannot be read.
    """
    repository = Repository.of(workspace)
    version = repository.active(model)
    if version is None:
        return None
    active, published = read_manifest(repository.directory(model, version)), read_mode(workspace, model)
    checked = (published.looked_ns, published.state) if published and published.version == version else None
    return state_now(connected(workspace, params, active, now_ns=now_ns), checked, params.modes.stale_s, now_ns)


def read_serving(
    workspace: Workspace,
    params: Params,
    model: str,
    ready: Ready | Trouble,
    fallback: int | None,
    state: State | Trouble | None,
    now_ns: int,
) -> Serving:
    """Return what a production model serves.

    Args:
        params: `modes.stale_s` is used.
        ready: of Triton.
        fallback: target of a rollback.
        state: of its clients.
        now_ns: UTC.

    Raises:
        LobsmithError: the repository or the journal cannot be read.
    """
    repository = Repository.of(workspace)
    listed = repository.listed(model)
    active = max(listed, default=None)
    if active is None:
        return Serving(model=model)
    manifest = read_manifest(repository.directory(model, active))
    is_ready, why = _readiness(ready, model, active)
    answering = ready.versions.get(model, []) if isinstance(ready, Ready) and ready.versions is not None else None
    return Serving(
        model=model,
        version=active,
        since_ns=serving_since(workspace.journal, manifest),
        ready=is_ready,
        why_unready=why,
        fallback=fallback,
        candidate=repository.active(candidate_model(model)),
        instruments=tuple(map(str, manifest.instruments)),
        state="not read yet" if state is None else state.error if isinstance(state, Trouble) else str(state),
        state_tone=_state_tone(state),
        mode=_mode(workspace, params, manifest, now_ns),
        versions=tuple(
            VersionLine(
                version=version,
                role="serves" if version == active else "fallback" if version == fallback else "kept",
                created_ns=_created_ns(repository, model, version),
                ready=None if answering is None else version in answering,
            )
            for version in reversed(listed)
        ),
    )


def _readiness(ready: Ready | Trouble, model: str, version: int) -> tuple[bool | None, str]:
    if isinstance(ready, Trouble):
        return None, ready.error
    if ready.versions is None:
        return None, ready.why_not
    if version in ready.versions.get(model, []):
        return True, ""
    return False, "Triton does not answer with it; see lobsmith status"


def _created_ns(repository: Repository, model: str, version: int) -> int | None:
    try:
        return read_manifest(repository.directory(model, version)).created_ns
    except LobsmithError:
        return None


def _state_tone(state: State | Trouble | None) -> Tone:
    if not isinstance(state, State):
        return Tone.MISSING if state is None else state.tone
    if state.name is StateName.STOPPED:
        return Tone.WRONG
    return Tone.GOOD if state.name is StateName.LIVE and not state.detail else Tone.MISSING


def _mode(workspace: Workspace, params: Params, active: Manifest, now_ns: int) -> ModeLine | None:
    try:
        published = read_mode(workspace, active.model)
    except LobsmithError as error:
        return ModeLine(mode="unknown", since_ns=now_ns, reason=str(error), checked_ns=None, detail="", tone=Tone.WRONG)
    if published is None:
        return None
    detail, tone = _mode_detail(published, active.version, params.modes.stale_s, now_ns)
    return ModeLine(
        mode=published.mode.value,
        since_ns=published.since_ns,
        reason=published.reason,
        checked_ns=published.looked_ns or None,
        detail=detail,
        tone=tone,
    )


def _mode_detail(published: PublishedMode, version: int, stale_s: float, now_ns: int) -> tuple[str, Tone]:
    """Return what readers must know besides the mode, and its tone."""
    if published.mode is Mode.PAUSED or Finding.DRIFT in published.findings.values():
        tone = Tone.WRONG
    else:
        tone = Tone.GOOD if published.mode is Mode.NORMAL else Tone.MISSING
    held = "set by hand until lobsmith mode auto" if published.held else ""
    stale = ""
    if not published.looked_ns:
        stale = "no drift check yet: clients act as in conservative mode"
    elif now_ns - published.looked_ns > stale_s * NS_PER_S:
        stale = "the drift checks have stopped: clients act as in conservative mode"
    elif published.version != version:
        stale = f"found for version {published.version}: the next drift check is about {version}"
    if stale and tone is Tone.GOOD:
        tone = Tone.MISSING
    return "; ".join(filter(None, (held, stale))), tone

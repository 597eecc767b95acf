"""The landing page's content, read anew on request."""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from lobsmith import clock
from lobsmith.monitoring import alerts
from lobsmith.monitoring.state import State
from lobsmith.params import load_params
from lobsmith.release.repository import journal
from lobsmith.release.repository.repository import Repository
from lobsmith.release.version.names import followed_model
from lobsmith.services.flows.schedule import next_runs
from lobsmith.services.landing.accuracy import newest_accuracy
from lobsmith.services.landing.content import (
    AccuracyLine,
    AlertLine,
    HistoryLine,
    ReportLine,
    RunLine,
    ServiceLine,
    Serving,
    Snapshot,
    Tone,
    Trouble,
)
from lobsmith.services.landing.headline import headline
from lobsmith.services.landing.reports import newest_reports
from lobsmith.services.landing.serving import production_models, read_ready, read_serving, read_state
from lobsmith.services.landing.slow import Slow, attempt
from lobsmith.services.run import read_run, running_prefect
from lobsmith.services.service import Phase
from lobsmith.units import NS_PER_S
from lobsmith.workspace import Workspace

_HISTORY = 15
_UNKNOWN_ALERTS = (alerts.NO_ROWS, alerts.NO_CHECK, alerts.NO_SCORE, alerts.RETRAIN_WANTED)
_PAGES = ("prefect", "mlflow", "evidently")
_ACTION_TONES = {
    journal.PROMOTED: Tone.GOOD,
    journal.ROLLED_BACK: Tone.WRONG,
    journal.INTEGRITY_ERROR: Tone.WRONG,
    journal.REFUSED: Tone.MISSING,
    journal.REJECTED: Tone.MISSING,
}


class Reader:
    """Reads a workspace; what may hang or is costly in threads, so that versions and modes are always current."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._params = load_params(workspace.params)
        self._ready = Slow("Triton", lambda: read_ready(workspace), period_s=0.0, late_s=3.0)
        self._logged = Slow("the prediction log", self._read_log, period_s=5.0, late_s=30.0)
        self._next_runs = Slow("Prefect's schedule", self._read_next_runs, period_s=10.0, late_s=30.0)
        self._reports = Slow("the reports", self._read_reports, period_s=2.0, late_s=30.0)
        self._fallbacks: dict[tuple[str, tuple[int, ...]], int | None] = {}
        self._history: tuple[tuple[int, int], tuple[HistoryLine, ...]] | None = None

    def read(self) -> Snapshot:
        """Return the content now."""
        now_ns = clock.now_ns()
        logged = self._logged.get()
        serving = attempt(lambda: self._read_serving(logged, now_ns))
        firing = attempt(self._read_alerts)
        text, tone = headline(serving, firing, now_ns)
        return Snapshot(
            now_ns=now_ns,
            machine_ns=time.time_ns(),
            headline=text,
            tone=tone,
            serving=serving,
            alerts=firing,
            accuracy=logged if isinstance(logged, Trouble) else logged[1],
            history=attempt(self._read_history),
            reports=self._reports.get(),
            next_runs=self._next_runs.get(),
            services=attempt(self._read_services),
        )

    def _models(self) -> list[str]:
        return production_models(self._workspace, self._params)

    def _read_serving(
        self, logged: "tuple[dict[str, State | None], tuple[AccuracyLine, ...]] | Trouble", now_ns: int
    ) -> tuple[Serving, ...]:
        ready = self._ready.get()
        states = logged if isinstance(logged, Trouble) else logged[0]

        def read(model: str) -> Serving:
            state = states if isinstance(states, Trouble) else states.get(model)
            return read_serving(self._workspace, self._params, model, ready, self._fallback(model), state, now_ns)

        lines = [(model, attempt(partial(read, model))) for model in self._models()]
        return tuple(
            Serving(model=model, why_unready=line.error) if isinstance(line, Trouble) else line for model, line in lines
        )

    def _fallback(self, model: str) -> int | None:
        """Return the fallback, whose files are checked once for each list of versions."""
        repository = Repository.of(self._workspace)
        key = model, tuple(repository.listed(model))
        if key not in self._fallbacks:
            self._fallbacks[key] = repository.fallback(model)
        return self._fallbacks[key]

    def _read_alerts(self) -> tuple[AlertLine, ...]:
        return tuple(
            AlertLine(
                since_ns=alert.time_ns,
                name=alert.name,
                about=alert.about,
                message=alert.message,
                tone=Tone.MISSING if alert.name in _UNKNOWN_ALERTS else Tone.WRONG,
            )
            for alert in alerts.firing(self._workspace)
        )

    def _read_log(self) -> tuple[dict[str, State | None], tuple[AccuracyLine, ...]]:
        states, lines, now_ns = {}, [], clock.now_ns()
        repository = Repository.of(self._workspace)
        for model in self._models():
            states[model] = read_state(self._workspace, self._params, model, now_ns)
            version = repository.active(model)
            if version is not None:
                lines += newest_accuracy(self._workspace, model, version)
        return states, tuple(lines)

    def _read_history(self) -> tuple[HistoryLine, ...]:
        path = self._workspace.journal
        stamp = _stamp(path)
        if self._history is None or self._history[0] != stamp:
            self._history = stamp, _history(journal.read(path))
        return self._history[1]

    def _read_reports(self) -> tuple[ReportLine, ...]:
        return tuple(newest_reports(self._workspace, self._models()))

    def _read_next_runs(self) -> tuple[RunLine, ...] | Trouble:
        api = running_prefect(self._workspace)
        if api is None:
            return Trouble("Prefect's server does not run; lobsmith up starts it, with its schedules", Tone.MISSING)
        return tuple(
            RunLine(
                deployment=run.deployment,
                due_ns=None if run.due is None else int(run.due.timestamp() * NS_PER_S),
                last=run.last,
            )
            for run in next_runs(api)
        )

    def _read_services(self) -> tuple[ServiceLine, ...]:
        run = read_run(self._workspace)
        known = {} if run is None else {service.name: service for service in run.services}
        lines = []
        for name in _PAGES:
            service = known.get(name)
            if service is None:
                lines.append(ServiceLine(name=name, address=None, state="lobsmith up starts it", tone=Tone.MISSING))
                continue
            usable = service.state in (Phase.READY, Phase.ELSEWHERE)
            lines.append(
                ServiceLine(
                    name=name,
                    address=service.address if usable else None,
                    state=f"{service.state.value}: {service.why}" if service.why else service.state.value,
                    tone=Tone.GOOD if usable else Tone.MISSING,
                )
            )
        return tuple(lines)


def _history(entries: Sequence[journal.Entry]) -> tuple[HistoryLine, ...]:
    own = [entry for entry in entries if followed_model(entry.model) == entry.model]
    return tuple(
        HistoryLine(
            time_ns=entry.time_ns,
            action=entry.action,
            model=entry.model,
            version=entry.version_to,
            version_from=entry.version_from,
            actor=entry.actor,
            reason=entry.reason,
            tone=_ACTION_TONES.get(entry.action),
        )
        for entry in reversed(own[-_HISTORY:])
    )


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except FileNotFoundError:
        return 0, 0
    return status.st_mtime_ns, status.st_size

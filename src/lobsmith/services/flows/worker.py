"""Prefect's `process` worker with a fork of the zygote in place of a new interpreter."""

import asyncio
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

import anyio
import httpx
import yaml
from anyio.abc import TaskGroup, TaskStatus
from prefect.client.schemas.responses import SetStateStatus
from prefect.runner._flow_run_executor import FlowRunExecutorContext
from prefect.runner._process_manager import ProcessHandle
from prefect.states import Cancelled
from prefect.workers.base import BaseWorker
from prefect.workers.process import ProcessJobConfiguration, ProcessVariables, ProcessWorkerResult

from lobsmith.errors import FlowsError
from lobsmith.process import Heartbeat
from lobsmith.services.flows.forks import Zygote, print_line
from lobsmith.services.flows.register import FILE, unregistered
from lobsmith.services.flows.schedule import POOL

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, State
    from prefect.client.schemas.responses import WorkerFlowRunResponse
    from prefect.runner._control_channel import ControlChannel

NAME = "lobsmith"
_SUPERSEDED = "superseded: a later run of this deployment is due"
_AGAIN_S = 10.0
_BEAT_S = 2.0


class ForkWorker(BaseWorker[ProcessJobConfiguration, ProcessVariables, ProcessWorkerResult]):
    """Runs the flow runs of a `process` work pool in children forked from the zygote.

    It registers the deployments. A deployment has one run at a time; of its due scheduled runs, only the newest is run,
    the others are cancelled.
    """

    type = "process"
    job_configuration = ProcessJobConfiguration
    job_configuration_variables = ProcessVariables

    def __init__(self, zygote: Zygote, heartbeat: Heartbeat) -> None:
        # A prefetched run would wait in a process of its own.
        super().__init__(POOL, name=NAME, prefetch_seconds=0)
        self._zygote = zygote
        self._heartbeat = heartbeat
        self._executors = FlowRunExecutorContext()
        self._submitting = asyncio.Lock()
        self._running: set[UUID | None] = set()

    @classmethod
    def __dispatch_key__(cls) -> str:
        return "lobsmith"  # `process` is Prefect's own worker

    async def __aenter__(self) -> "ForkWorker":
        await self._executors.__aenter__()
        await super().__aenter__()
        cast(TaskGroup, self._runs_task_group).start_soon(self._report)
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        try:
            await super().__aexit__(*exc_info)
        finally:
            await self._executors.__aexit__(*exc_info)

    async def run(
        self,
        flow_run: "FlowRun",
        configuration: ProcessJobConfiguration,
        task_status: TaskStatus[int] | None = None,
    ) -> ProcessWorkerResult:
        """Run a flow run in a child, as `ProcessWorker.run` does in a new process."""
        executor = self._executors.create_executor(
            flow_run,
            _ForkStarter(self._zygote, configuration, self._executors.control_channel),
            propose_submitting=False,
            hook_runner=_NoHooks(),
        )
        execution = None

        async def execute(*, task_status: TaskStatus[ProcessHandle] = anyio.TASK_STATUS_IGNORED) -> None:
            nonlocal execution
            execution = await executor.submit(task_status=task_status)

        self._running.add(flow_run.deployment_id)
        try:
            async with anyio.create_task_group() as group:
                handle = await group.start(execute)
                if task_status is not None:
                    task_status.started(handle.pid)
        finally:
            self._running.remove(flow_run.deployment_id)
        if execution is None or execution.status_code is None:
            raise RuntimeError("the flow run's process could not be started")
        return ProcessWorkerResult(status_code=execution.status_code, identifier=str(execution.handle.pid))

    async def _submit_run(self, flow_run: "FlowRun") -> None:
        # In turn, as SQLite has one writer.
        async with self._submitting:
            if flow_run.deployment_id in self._running:
                # It stays due until the running one has ended or it is superseded.
                self._submitting_flow_run_ids.remove(flow_run.id)
                if self._cancelling_observer is not None:
                    self._cancelling_observer.remove_in_flight_flow_run_id(flow_run.id)
                return
            await super()._submit_run(flow_run)

    async def _get_scheduled_flow_runs(self) -> list["WorkerFlowRunResponse"]:
        while True:
            due = await super()._get_scheduled_flow_runs()
            # A run being submitted stays: a busy worker would never start one.
            waiting = [entry.flow_run for entry in due if entry.flow_run.id not in self._submitting_flow_run_ids]
            missed = superseded(waiting)
            if not missed:
                return due
            # The server returns at most a thousand, oldest first.
            cancelled: State = Cancelled(message=_SUPERSEDED)
            statuses = [(await self.client.set_flow_run_state(run.id, cancelled)).status for run in missed]
            if SetStateStatus.ACCEPT not in statuses:
                return [entry for entry in due if entry.flow_run not in missed]

    async def _report(self) -> None:
        """Register the deployments, then beat while runs can be forked."""
        await self._register_deployments()
        while True:
            try:
                await self._zygote.ping()
            except FlowsError as error:
                print_line(str(error))
                await anyio.sleep(_AGAIN_S)
            else:
                self._heartbeat.beat()
                await anyio.sleep(_BEAT_S)

    async def _register_deployments(self) -> None:
        while True:
            try:
                if await self._registered() or await (await self._zygote.fork("register", {})).wait() == 0:
                    await self._zygote.ready()
                    print_line(f"the deployments of {FILE} are registered in the work pool {POOL}")
                    return
                why = "see above"
            except (FlowsError, httpx.HTTPError) as error:
                why = str(error)
            print_line(f"the deployments of {FILE} are not registered yet, {why}; tried again in {_AGAIN_S:g} s")
            await anyio.sleep(_AGAIN_S)

    async def _registered(self) -> bool:
        """Return whether the server has all deployments, without imports of flows."""
        try:
            table = yaml.safe_load(Path(FILE).read_text())
            return not unregistered(table, await self.client.read_deployments())
        except (FlowsError, OSError, AttributeError, LookupError, TypeError, ValueError, yaml.YAMLError):
            return False  # the job reports the error


def superseded(due: "list[FlowRun]") -> "list[FlowRun]":
    """Return the scheduled runs with a later one of the same deployment."""
    scheduled: Any = sorted((run for run in due if run.auto_scheduled), key=attrgetter("expected_start_time"))
    newest = {run.deployment_id: run for run in scheduled}
    return [run for run in scheduled if run is not newest[run.deployment_id]]


class _ForkStarter:
    """The `ProcessStarter` of Prefect's executor."""

    def __init__(self, zygote: Zygote, configuration: ProcessJobConfiguration, control: "ControlChannel") -> None:
        self._zygote = zygote
        self._configuration = configuration
        self._control = control

    async def start(
        self, flow_run: "FlowRun", task_status: TaskStatus[ProcessHandle] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        port, token = self._control.register(flow_run.id)
        environment = {
            **{name: value for name, value in self._configuration.env.items() if value is not None},
            "PREFECT__FLOW_RUN_ID": str(flow_run.id),
            "PREFECT__FLOW_ENTRYPOINT": self._configuration._related_objects["deployment"].entrypoint,
            "PREFECT__CONTROL_PORT": str(port),
            "PREFECT__CONTROL_TOKEN": token,
            "PREFECT__ENABLE_CANCELLATION_AND_CRASHED_HOOKS": "false",
        }
        try:
            child = await self._zygote.fork("run", environment)
        except BaseException:
            self._control.unregister(flow_run.id)
            raise
        # Prefect reads `pid` and `returncode` only.
        task_status.started(ProcessHandle(cast(Any, child)))
        await child.wait()


class _NoHooks:
    """For flows without hooks, so that Prefect does not import them into the worker."""

    async def run_cancellation_hooks(self, flow_run: "FlowRun", state: "State") -> None: ...

    async def run_crashed_hooks(self, flow_run: "FlowRun", state: "State") -> None: ...

"""The embedded Triton as a child process that never outlives its parent."""

import hashlib
import http.client
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from lobsmith.errors import ServingError, TritonMissingError
from lobsmith.params import ServingParams
from lobsmith.process import start_ticks
from lobsmith.release.version.triton_config import PLANS_BACKEND
from lobsmith.serving import backends, launcher
from lobsmith.serving.endpoint import Endpoint
from lobsmith.serving.ports import Port, check_free
from lobsmith.serving.triton.installation import Installation, find_triton
from lobsmith.workspace import Workspace

KEY_HEADER = "lobsmith-key"
GRPC_KEY_HEADER = f"triton-grpc-protocol-{KEY_HEADER}"
"""Headers of the control key, over HTTP and gRPC."""
LOCKED = ("model-repository", "shared-memory", "trace", "logging")
"""Calls that need the key; trace and logging write files of any name."""

TRITON_PORTS = ("http_port", "grpc_port", "metrics_port")
PORTS = (*TRITON_PORTS, "modes_port")
"""Of `serving`: Triton's own, and all."""

_LAUNCHER = Path(launcher.__file__)
_BACKEND = Path(backends.__file__).parent / "onnxruntime" / "model.py"
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Triton's Python backend puts its regions
_STUB = "triton_python_backend_stub"
_POLL_S = 0.05
_DRAIN_S = 3
"""For open requests; Triton waits as long for every idle HTTP connection."""
_LOG_TAIL_BYTES = 16_384


def backends_folder(workspace: Workspace) -> Path:
    """Return the folder of the server's backends, made at each start."""
    return workspace.serving / "backends"


class Triton:
    """One run of the server: `start` once, then `exit_code` and at last `stop`.

    The kernel kills the child when the thread that called `start` ends.
    """

    def __init__(self, workspace: Workspace, params: ServingParams) -> None:
        self._workspace = workspace
        self._params = params
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """Output of this run; of the last run in `triton.log.1`."""
        return self._workspace.serving / "triton.log"

    def start(self, stop: threading.Event) -> Endpoint | None:
        """Start without models and wait until ready.

        Returns:
            The endpoint, or None where `stop` was set; the caller still calls `Triton.stop`.

        Raises:
            TritonMissingError: this machine cannot run it.
            PortBusyError: one of its ports is taken.
            ServingError: it exited or is not ready within `start_deadline_s`; no child is left.
        """
        installation = find_triton()
        host = ipv4(self._params.host)
        check_free(ports_of(self._params, TRITON_PORTS))
        self._end_orphans()
        self._remove_shared_memory()
        key = secrets.token_urlsafe(24)
        command = [str(installation.server), *self._options(self._assemble(installation), host, key)]
        self._child = self._launch(command, installation)
        endpoint = Endpoint(
            pid=os.getpid(),
            started_ticks=start_ticks(os.getpid()) or 0,
            triton_pid=self._child.pid,
            host="127.0.0.1" if host == "0.0.0.0" else host,  # noqa: S104 - a comparison
            http_port=self._params.http_port,
            grpc_port=self._params.grpc_port,
            metrics_port=self._params.metrics_port,
            modes_port=self._params.modes_port,
            key=key,
        )
        try:
            return endpoint if self._wait_ready(endpoint, stop) else None
        except BaseException:
            self.stop()
            raise

    def exit_code(self) -> int | None:
        """Return the child's exit status, negative for a signal; None while it runs."""
        return None if self._child is None else self._child.poll()

    def last_error(self) -> str:
        """Return the last error of the log in one line, or an empty text."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - _LOG_TAIL_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        return error_line(lines)

    def stop(self) -> None:
        """End the child and its processes: SIGTERM, after `stop_deadline_s` SIGKILL. Idempotent."""
        child, self._child = self._child, None
        if child is None:
            return
        try:
            if child.poll() is None:
                child.terminate()
                with suppress(subprocess.TimeoutExpired):
                    child.wait(self._params.stop_deadline_s)
        finally:
            # The stubs are in the child's process group and may outlive a crashed server.
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            self._remove_shared_memory()

    def _assemble(self, installation: Installation) -> Path:
        """Make the backend folder: the wheel's Python backend with our Python's stub, our `onnxruntime`, and `tensorrt`
        if the wheel's folder has it.
        """
        backends = backends_folder(self._workspace)
        shutil.rmtree(backends, ignore_errors=True)
        python = backends / "python"
        python.mkdir(parents=True)
        for name in ("libtriton_python.so", "triton_python_backend_utils.py"):
            # Triton refuses a library whose real path is outside the backend folder.
            shutil.copy2(installation.python_backend / name, python / name)
        shutil.copy2(installation.stub, python / _STUB)
        onnxruntime = backends / "onnxruntime"
        onnxruntime.mkdir()
        shutil.copy2(_BACKEND, onnxruntime / "model.py")
        tensorrt = installation.python_backend.with_name(PLANS_BACKEND)
        if tensorrt.is_dir():
            shutil.copytree(tensorrt, backends / PLANS_BACKEND)
        return backends.absolute()

    def _options(self, backends: Path, host: str, key: str) -> list[str]:
        params = self._params
        restricted = f"{','.join(LOCKED)}:{KEY_HEADER}={key}"
        return [
            f"--model-repository={self._workspace.repository.absolute()}",
            f"--backend-directory={backends}",
            f"--backend-config=python,shm-region-prefix-name={self._shared_memory_prefix()}",
            "--model-control-mode=explicit",
            "--strict-readiness=false",
            "--disable-auto-complete-config",
            f"--http-address={host}",
            f"--http-port={params.http_port}",
            f"--http-restricted-api={restricted}",
            f"--grpc-address={host}",
            f"--grpc-port={params.grpc_port}",
            f"--grpc-restricted-protocol={restricted}",
            f"--metrics-address={host}",
            f"--metrics-port={params.metrics_port}",
            "--metrics-config=summary_latencies=true",
            "--allow-gpu-metrics=false",
            f"--exit-timeout-secs={max(1, min(_DRAIN_S, int(params.stop_deadline_s)))}",
            "--log-format=ISO8601",
        ]

    def _launch(self, command: list[str], installation: Installation) -> subprocess.Popen[bytes]:
        # A model.py in the working directory would shadow the backend's.
        directory = self._workspace.serving / "empty"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        self._workspace.repository.mkdir(parents=True, exist_ok=True)
        if self.log.exists():
            self.log.replace(self.log.with_name("triton.log.1"))
        environment = {**os.environ, **installation.environment()}
        # Cloud platforms set AIP_* variables, which make Triton open another port.
        environment = {name: value for name, value in environment.items() if not name.startswith("AIP_")}
        with self.log.open("wb") as log:
            try:
                return subprocess.Popen(
                    [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid()), *command],
                    cwd=directory,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    # Ctrl-C in the terminal must reach the supervisor only.
                    start_new_session=True,
                )
            except OSError as error:
                raise TritonMissingError(f"{sys.executable}: cannot start Triton: {error.strerror}") from error

    def _wait_ready(self, endpoint: Endpoint, stop: threading.Event) -> bool:
        deadline = time.monotonic() + self._params.start_deadline_s
        while not stop.wait(_POLL_S):
            code = self.exit_code()
            if code is not None:
                raise ServingError(
                    f"Triton exited at start ({describe_exit(code)}): {self.last_error() or 'no output'}; "
                    f"see {self.log}; `lobsmith replay --transport inprocess` works without it"
                )
            if is_ready(endpoint):
                return True
            if time.monotonic() > deadline:
                raise ServingError(
                    f"Triton is not ready after {self._params.start_deadline_s:g} s: "
                    f"{self.last_error() or 'no error'}; see {self.log}, or raise serving.start_deadline_s"
                )
        return False

    def _shared_memory_prefix(self) -> str:
        digest = hashlib.sha256(str(self._workspace.root.absolute()).encode()).hexdigest()[:12]
        return f"lobsmith_{digest}_"

    def _end_orphans(self) -> None:
        """Kill the stubs of a killed server of this workspace."""
        stub = str((backends_folder(self._workspace) / "python" / _STUB).absolute())
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.cmdline()[:1] == [stub]:
                    process.kill()

    def _remove_shared_memory(self) -> None:
        """Free the regions of a killed server of this workspace."""
        for path in _SHARED_MEMORY.glob(f"{self._shared_memory_prefix()}*"):
            path.unlink(missing_ok=True)


def ipv4(host: str) -> str:
    """Return the IPv4 address of `serving.host`.

    Raises:
        ServingError: it has none.
    """
    try:
        return str(socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        raise ServingError(f"serving.host in params.yaml: {host} has no IPv4 address ({error})") from error


def ports_of(params: ServingParams, names: Sequence[str] = PORTS) -> list[Port]:
    """Return ports of `serving`, by default all.

    Raises:
        ServingError: `serving.host` has no address.
    """
    host = ipv4(params.host)
    return [Port(getattr(params, name), f"serving.{name}", host) for name in names]


def is_ready(endpoint: Endpoint, *, deadline_s: float = 2.0) -> bool:
    """Whether the server reports ready."""
    connection = http.client.HTTPConnection(endpoint.host, endpoint.http_port, timeout=deadline_s)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def describe_exit(code: int) -> str:
    """Describe how a child ended."""
    if code >= 0:
        return f"exit status {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def error_line(lines: list[str]) -> str:
    """Return a log's last error line without its time stamp, at most 300 characters."""
    marks = re.compile(r"^E\d{4} |^\S+Z E |error|failed|cannot|not found", re.IGNORECASE)
    line = next((entry for entry in reversed(lines) if marks.search(entry)), lines[-1] if lines else "")
    line = re.sub(r"^(\S+Z [A-Z] \d+ |[EWI]\d{4} \S+ \d+ )", "", line)
    return " ".join(line.split())[:300]

"""TensorRT and TensorRT-RTX engines of an exported network, built in a child process, atomically."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

import msgspec

from lobsmith.compress.tensorrt.child import BuildRequest, BuildResult
from lobsmith.compress.tensorrt.gpu import this_gpu
from lobsmith.compress.tensorrt.plan import ENGINE, EngineBuild, Profile, read_build
from lobsmith.errors import EngineError
from lobsmith.files import fsync_directory, sha256_file, write_atomic
from lobsmith.params import EngineParams
from lobsmith.process import peak_bytes

_USUAL_CHUNK = 32
_POLL_S = 0.02
_MESSAGE_CHARACTERS = 600
"""Characters of a builder's message in an error."""


def available_builder(settings: EngineParams) -> str | None:
    """Return the package that builds engines here, None for no engines.

    Raises:
        EngineError: `engine.builder` is not installed.
    """
    if settings.builder == "none":
        return None
    if settings.builder == "auto":
        return "tensorrt" if importlib.util.find_spec("tensorrt") and this_gpu() else None
    if importlib.util.find_spec(settings.builder) is None:
        extra = settings.builder.replace("_", "-")
        raise EngineError(f'{settings.builder} is not installed; pip install "lobsmith[{extra}]" or set engine.builder')
    return settings.builder


def profiles_for(settings: EngineParams) -> tuple[Profile, ...]:
    """Return the profiles of an engine: single rows, and chunks of rows."""
    batch = (1, 1, settings.largest_batch)
    most = settings.largest_chunk
    return (
        Profile(name="step", batch=batch, rows=(1, 1, 1)),
        Profile(name="chunk", batch=batch, rows=(1, min(_USUAL_CHUNK, most), most)),
    )


def build_engine(
    source: Path,
    directory: Path,
    settings: EngineParams,
    *,
    precision: str,
    cache: Path | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> EngineBuild:
    """Build plans of an ONNX file, one per compute capability, in a child process.

    Args:
        source: inputs `features` [B, T, F] and `state` [B, S], in the precision to run in.
        directory: is made, or replaced if it holds an earlier build.
        settings: builder, capabilities, largest shapes and bounds.
        precision: the source's; stored only.
        cache: folder of TensorRT's timing caches; None for none.
        on_progress: called with the number of plans.

    Raises:
        EngineError: the build failed and left nothing; with the builder's message.
    """
    builder = available_builder(settings)
    if builder is None:
        raise EngineError(f"{source}: engine.builder is {settings.builder} and finds no TensorRT with a GPU here")
    try:
        return _build(source, directory, settings, builder, precision, cache, on_progress)
    except OSError as error:
        raise EngineError(f"{source}: its engine could not be written: {error}") from error


def load_build(directory: Path) -> EngineBuild:
    """Read the description of an engine and check its plans' hashes.

    Raises:
        EngineError: the description or a plan is missing or changed.
    """
    build = read_build(directory)
    for name in build.plans.values():
        try:
            sha256 = sha256_file(directory / name)
        except OSError as error:
            raise EngineError(f"{directory / name}: {error.strerror}; build it again") from error
        if sha256 != build.sha256.get(name):
            raise EngineError(f"{directory / name}: its hash is not that of {ENGINE}; build it again")
    return build


def _sweep(directory: Path, deadline_s: float) -> None:
    """Remove the remains of killed builds; a running build is younger than its deadline."""
    for staging in directory.parent.glob(f".{directory.name}.*"):
        with suppress(OSError):
            if time.time() - staging.stat().st_mtime > 2 * deadline_s:
                shutil.rmtree(staging, ignore_errors=True)


def _build(
    source: Path,
    directory: Path,
    settings: EngineParams,
    builder: str,
    precision: str,
    cache: Path | None,
    on_progress: Callable[[str], None] | None,
) -> EngineBuild:
    if not source.is_file() or not source.stat().st_size:
        raise EngineError(f"{source}: {'is empty' if source.is_file() else 'no such file'}; export the network again")
    if directory.exists() and not (directory / ENGINE).is_file():
        raise EngineError(f"{directory}: is there and is no engine; name another folder")
    directory.parent.mkdir(parents=True, exist_ok=True)
    _sweep(directory, settings.deadline_s)
    staging = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        # A copy: the hashed bytes are the built ones.
        copy = staging / "source.onnx"
        shutil.copyfile(source, copy)
        request = BuildRequest(
            parent=os.getpid(),
            source=str(copy),
            directory=str(staging),
            builder=builder,
            capabilities=settings.capabilities,
            profiles=profiles_for(settings),
            workspace_mib=max(1, settings.memory_mib // 4),
            cache=None if cache is None else str(cache.absolute()),
        )
        result = _run_child(source, request, settings, on_progress)
        build = EngineBuild(
            builder=builder,
            builder_version=result.builder_version,
            cuda_version=result.cuda_version,
            gpu=result.gpu,
            precision=precision,
            source_sha256=sha256_file(copy),
            profiles=result.profiles,
            plans=result.plans,
            sha256={name: sha256_file(staging / name) for name in result.plans.values()},
            build_s=round(result.build_s, 3),
        )
        copy.unlink()
        write_atomic(staging / ENGINE, msgspec.json.format(msgspec.json.encode(build)) + b"\n")
        staging.chmod(0o755)
        if directory.exists():
            shutil.rmtree(directory)
        staging.rename(directory)
        fsync_directory(directory.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return build


def _run_child(
    source: Path, request: BuildRequest, settings: EngineParams, on_progress: Callable[[str], None] | None
) -> BuildResult:
    # -P: a local file must not shadow a package.
    command = [sys.executable, "-P", "-m", f"{__package__}.child", msgspec.json.encode(request).decode()]
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, start_new_session=True
        )
        try:
            excess = _watch(child, Path(request.directory), settings, on_progress)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            status = child.wait()
        if excess:
            raise EngineError(f"{source}: {request.builder} {excess}")
        lines, error_lines = _lines(output), _lines(errors)
    try:
        result = msgspec.json.decode(lines[-1], type=BuildResult)
    except (IndexError, msgspec.DecodeError) as error:
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        last = textwrap.shorten(error_lines[-1], _MESSAGE_CHARACTERS) if error_lines else "no message"
        raise EngineError(f"{source}: {request.builder} crashed ({how}): {last}") from error
    if result.reason or status:
        reason = textwrap.shorten(result.reason, _MESSAGE_CHARACTERS) or f"its process ended with status {status}"
        raise EngineError(f"{source}: {request.builder} built no engine: {reason}")
    return result


def _watch(
    child: subprocess.Popen[bytes], staging: Path, settings: EngineParams, on_progress: Callable[[str], None] | None
) -> str:
    """Wait for the child; return the bound that it exceeded, or an empty text.

    Memory is peak resident: CUDA reserves far more address space.
    """
    end = time.monotonic() + settings.deadline_s
    reported = 0
    while True:
        try:
            child.wait(_POLL_S)
            return ""
        except subprocess.TimeoutExpired:
            pass
        if time.monotonic() > end:
            return f"took longer than engine.deadline_s, {settings.deadline_s:g} s; it was stopped"
        if peak_bytes(child.pid) > settings.memory_mib * 2**20:
            return f"took more memory than engine.memory_mib, {settings.memory_mib} MiB; it was stopped"
        plans = len(list(staging.glob("*.plan")))
        if on_progress and plans > reported:
            reported = plans
            on_progress(f"{plans} plans")


def _lines(file: IO[bytes]) -> list[str]:
    file.seek(0)
    return file.read().decode(errors="replace").strip().splitlines()

"""`lobsmith doctor`: checks of this machine, installation and services."""

import importlib.util
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import click
from rich.markup import escape
from rich.table import Table

from lobsmith.cli.doctor_service import Check, service_checks
from lobsmith.cli.options import json_option, print_json, results
from lobsmith.compress.tensorrt.gpu import this_gpu
from lobsmith.errors import LobsmithError, ParamsError
from lobsmith.params import load_params
from lobsmith.project.project import SHIPPED, params_file
from lobsmith.workspace import Workspace

_ENOUGH_MEMORY_GIB = 4
_ENOUGH_DISK_GIB = 5


@click.command()
@json_option
@click.pass_obj
def doctor(workspace: Workspace, as_json: bool) -> None:
    """Check this machine, installation and services, with remedies; exit 1 if a needed part is missing."""
    checks = [
        _python(),
        _versions(),
        _memory(),
        _disk(workspace.root),
        _params(workspace),
        _triton(),
        _ports(workspace),
        _module("torch", "trains; pip install torch", needed=True),
        _module("onnxruntime", "runs exported models; pip install onnxruntime", needed=True),
        _module("mlflow", "tracks and registers; pip install mlflow", needed=True),
        _module("prefect", "runs the flows; pip install prefect", needed=True),
        _gpu(),
        _tensorrt(),
    ]
    with suppress(ParamsError):  # reported as a check of its own
        checks += service_checks(workspace, load_params(workspace.params))
    if as_json:
        print_json({"checks": checks})
    else:
        table = Table()
        for heading in ("", "part", "found"):
            table.add_column(heading, overflow="fold")
        for check in checks:
            mark = "[green]✓" if check.found else ("[red]✗" if check.needed else "[yellow]–")
            table.add_row(mark, check.name, escape(check.detail))
        results.print(table)
    if any(check.needed and not check.found for check in checks):
        sys.exit(1)


def _attempt(name: str, check: Callable[[], str], *, needed: bool = True) -> Check:
    try:
        return Check(name=name, found=True, needed=needed, detail=check())
    except LobsmithError as error:
        return Check(name=name, found=False, needed=needed, detail=str(error))


def _python() -> Check:
    linux = platform.system() == "Linux" and platform.machine() == "x86_64"
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Check(
        name="Python", found=linux, needed=False, detail=detail if linux else f"{detail}; Triton needs Linux x86-64"
    )


def _versions() -> Check:
    """Compare the direct dependencies with the versions that were tested together."""
    constraints = SHIPPED / "constraints.txt"
    tested = dict(re.findall(r"^([\w.-]+)==(\S+)", constraints.read_text(), re.MULTILINE))
    needed = {re.split(r"[^\w.-]", line)[0] for line in requires("lobsmith") or () if "extra ==" not in line}
    others = []
    for name in sorted(needed & tested.keys()):
        with suppress(PackageNotFoundError):
            if (found := version(name)).partition("+")[0] != tested[name]:
                others.append(f"{name} {found} ({tested[name]})")
    detail = "those tested together"
    if others:
        detail = f"other than tested: {', '.join(others)}; pip install -c {constraints} lobsmith"
    return Check(name="versions", found=not others, needed=False, detail=detail)


def _memory() -> Check:
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    enough = gib >= _ENOUGH_MEMORY_GIB * 0.9
    detail = f"{gib:.0f} GiB, {os.cpu_count()} cores" + ("" if enough else f"; {_ENOUGH_MEMORY_GIB} GiB are needed")
    return Check(name="memory", found=enough, needed=True, detail=detail)


def _disk(root: Path) -> Check:
    gib = shutil.disk_usage(root).free / 2**30
    enough = gib >= _ENOUGH_DISK_GIB
    return Check(
        name="disk",
        found=enough,
        needed=False,
        detail=f"{gib:.0f} GiB free at {root}" + ("" if enough else f"; {_ENOUGH_DISK_GIB} GiB are better"),
    )


def _params(workspace: Workspace) -> Check:
    def check() -> str:
        load_params(workspace.params)
        return str(workspace.params)

    return _attempt("parameters", check, needed=workspace.params.exists())


def _triton() -> Check:
    def check() -> str:
        from lobsmith.serving.triton.installation import check_installation, find_triton

        installation = find_triton()
        check_installation(installation)
        return str(installation.server)

    return _attempt("Triton", check)


def _ports(workspace: Workspace) -> Check:
    def check() -> str:
        from lobsmith.services.run import read_run
        from lobsmith.serving.ports import Port, check_free
        from lobsmith.serving.triton.control import connect
        from lobsmith.serving.triton.embedded import ports_of

        if (run := read_run(workspace)) is not None:
            return f"in use by `lobsmith up` of this workspace, process {run.process.pid}"
        params = load_params(params_file(workspace))
        ports = [Port(getattr(params.services, name), f"services.{name}") for name in params.services.__struct_fields__]
        if connect(workspace) is None:
            ports += ports_of(params.serving)
        check_free(ports)
        return f"{', '.join(str(port.number) for port in ports)} are free"

    return _attempt("ports", check, needed=False)


def _gpu() -> Check:
    found = shutil.which("nvidia-smi") is not None
    detail = "nvidia-smi is there" if found else "none; everything runs on the CPU"
    return Check(name="GPU", found=found, needed=False, detail=detail)


def _tensorrt() -> Check:
    builders = []
    for name in ("tensorrt", "tensorrt_rtx"):
        if importlib.util.find_spec(name):
            with suppress(PackageNotFoundError):
                builders.append(f"{name} {version(name)}")
    detail = ", ".join(builders) or 'not installed: builds engines; optional, pip install "lobsmith[tensorrt-rtx]"'
    gpu = this_gpu()
    where = f"{gpu.name}, compute capability {gpu.capability}" if gpu else "no GPU to run engines on"
    return Check(name="TensorRT", found=bool(builders), needed=False, detail=f"{detail}; {where}")


def _module(name: str, purpose: str, *, needed: bool) -> Check:
    found = importlib.util.find_spec(name) is not None
    return Check(name=name, found=found, needed=needed, detail="installed" if found else f"not installed: {purpose}")

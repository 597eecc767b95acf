"""Finds the Triton of the `nvidia-pytriton` wheel, and reports what is missing."""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from lobsmith.errors import TritonMissingError

_INSTALL = "pip install nvidia-pytriton"
_OTHERWISE = "`lobsmith replay --transport inprocess` works without Triton"
_ELF_MACHINES = {62: "x86_64", 183: "aarch64"}
_DEBIAN_PACKAGES = {
    "libc.so.6": "libc6",
    "libdl.so.2": "libc6",
    "libexpat.so.1": "libexpat1",
    "libgcc_s.so.1": "libgcc-s1",
    "libm.so.6": "libc6",
    "libpthread.so.0": "libc6",
    "libresolv.so.2": "libc6",
    "librt.so.1": "libc6",
    "libstdc++.so.6": "libstdc++6",
    "libz.so.1": "zlib1g",
}


@dataclass(frozen=True)
class Installation:
    """Parts of an installed wheel, and the package folders of the stub's Python."""

    server: Path
    python_backend: Path
    stub: Path
    library_path: tuple[Path, ...]
    packages: tuple[Path, ...]

    def environment(self) -> dict[str, str]:
        """Return the environment variables that Triton and its stub need beyond ours."""
        inherited = os.environ.get("LD_LIBRARY_PATH", "")
        paths = [str(path) for path in self.library_path] + ([inherited] if inherited else [])
        return {
            "LD_LIBRARY_PATH": ":".join(paths),
            # The stub would search a standard library beside itself or on PATH.
            "PYTHONHOME": sys.base_prefix,
            "LOBSMITH_PACKAGES": os.pathsep.join(str(path) for path in self.packages),
        }


def find_triton() -> Installation:
    """Find the installed Triton and check that this machine can run it; imports no pytriton.

    Raises:
        TritonMissingError: not installed or executable, another architecture or Python, or a library is missing; names
            the remedy.
    """
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise _missing(
            f"the embedded Triton runs on Linux x86_64, this is {platform.system()} {platform.machine()}",
            "use a Triton container",
        )
    try:
        spec = importlib.util.find_spec("pytriton")
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise _missing("Triton is not installed", _INSTALL)
    installation = describe_wheel(Path(next(iter(spec.submodule_search_locations))))
    check_installation(installation)
    return installation


def describe_wheel(package: Path) -> Installation:
    """Return where the parts of a `pytriton` package are; they need not exist."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    root = package / "tritonserver"
    libpython = [sysconfig.get_config_var("LIBDIR"), f"{sys.base_prefix}/lib"]
    packages = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    # User and distribution installations keep packages elsewhere.
    for name in ("numpy", "onnxruntime"):
        module = importlib.util.find_spec(name)
        if module is not None and module.origin is not None:
            packages.append(str(Path(module.origin).parent.parent))
    return Installation(
        server=root / "bin" / "tritonserver",
        python_backend=root / "backends" / "python",
        stub=root / "python_backend_stubs" / version / "triton_python_backend_stub",
        library_path=(
            package.parent / "nvidia_pytriton.libs",
            *(Path(path) for path in dict.fromkeys(libpython) if path and Path(path).is_dir()),
        ),
        packages=tuple(Path(path) for path in dict.fromkeys(packages)),
    )


def check_installation(installation: Installation) -> None:
    """Check that every program of an installation can run here.

    Raises:
        TritonMissingError: it names the remedy.
    """
    backend = installation.python_backend / "libtriton_python.so"
    if not installation.stub.is_file() and installation.server.is_file():
        stubs = sorted(
            path.parent.name for path in installation.stub.parent.parent.glob("*/triton_python_backend_stub")
        )
        raise _missing(
            f"Triton's Python backend has no stub for Python {installation.stub.parent.name}",
            f"use one of Python {', '.join(stubs) or 'another version'}, or {_INSTALL}",
        )
    for path in (installation.server, installation.stub, backend):
        if not path.is_file():
            raise _missing(f"{path} is missing", f"{_INSTALL} --force-reinstall")
        machine = _machine(path)
        if machine != platform.machine():
            raise _missing(
                f"{path} is built for {machine}, this machine is {platform.machine()}", f"{_INSTALL} --force-reinstall"
            )
        if path != backend and not os.access(path, os.X_OK):
            raise _missing(f"{path} is not executable", f"chmod +x {path}")
    libraries = {
        name for path in (installation.server, installation.stub, backend) for name in _unresolved(path, installation)
    }
    if libraries:
        raise missing_libraries(libraries)


def missing_libraries(names: set[str]) -> TritonMissingError:
    """Return an error that names the Debian packages of missing shared libraries."""
    packages = sorted({package for name in names if (package := _debian_package(name)) is not None})
    unknown = sorted(name for name in names if _debian_package(name) is None)
    remedies = []
    if packages:
        remedies.append(f"apt-get install {' '.join(packages)}")
    if unknown:
        remedies.append(f"install what holds {', '.join(unknown)}")
    return _missing(f"Triton's shared libraries are missing: {', '.join(sorted(names))}", "; ".join(remedies))


def _debian_package(library: str) -> str | None:
    if library.startswith("libpython3."):
        return library.split(".so")[0]
    return _DEBIAN_PACKAGES.get(library)


def _machine(path: Path) -> str:
    with path.open("rb") as file:
        header = file.read(20)
    if header[:4] != b"\x7fELF" or len(header) < 20:
        return "something else (not an ELF file)"
    code = int.from_bytes(header[18:20], "little")
    return _ELF_MACHINES.get(code, f"machine {code}")


def _unresolved(path: Path, installation: Installation) -> list[str]:
    """Return a program's libraries that the dynamic loader does not find."""
    ldd = shutil.which("ldd")
    if ldd is None:
        return []
    environment = {**os.environ, **installation.environment()}
    try:
        output = subprocess.run(
            [ldd, str(path)], capture_output=True, text=True, env=environment, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [
        line.split("=>")[0].strip() for line in output.stdout.splitlines() if line.rstrip().endswith("=> not found")
    ]


def _missing(problem: str, remedy: str) -> TritonMissingError:
    return TritonMissingError(f"{problem}: {remedy}; {_OTHERWISE}")

"""Where Triton cannot run, one line names the remedy."""

import os
from pathlib import Path

import pytest

from lobsmith.errors import TritonMissingError
from lobsmith.serving.triton import installation
from lobsmith.serving.triton.installation import (
    Installation,
    check_installation,
    describe_wheel,
    find_triton,
    missing_libraries,
)

ELF = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00"
X86_64 = ELF + (62).to_bytes(2, "little") + bytes(44)
AARCH64 = ELF + (183).to_bytes(2, "little") + bytes(44)


def wheel(package: Path, content: bytes = X86_64, mode: int = 0o755) -> Installation:
    """Lay out a wheel whose programs are headers only."""
    parts = describe_wheel(package)
    for path in (parts.server, parts.stub, parts.python_backend / "libtriton_python.so"):
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        path.chmod(mode)
    return parts


def test_the_installed_wheel_is_found_and_complete() -> None:
    installed = find_triton()
    assert installed.server.is_file()
    assert installed.environment()["LD_LIBRARY_PATH"].startswith(str(installed.library_path[0]))


def test_an_absent_wheel_names_it_and_the_way_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TritonMissingError, match=r"pip install nvidia-pytriton;.*--transport inprocess"):
        find_triton()


def test_another_system_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation.platform, "machine", lambda: "aarch64")
    with pytest.raises(TritonMissingError, match="aarch64: use a Triton container"):
        find_triton()


def test_each_missing_part_is_named(tmp_path: Path) -> None:
    parts = wheel(tmp_path / "pytriton")
    parts.server.unlink()
    with pytest.raises(TritonMissingError, match="bin/tritonserver is missing: pip install"):
        check_installation(parts)


def test_a_python_without_a_stub_names_those_with_a_stub(tmp_path: Path) -> None:
    parts = wheel(tmp_path / "pytriton")
    parts.stub.parent.rename(parts.stub.parent.with_name("3.99"))
    with pytest.raises(TritonMissingError, match=r"no stub for Python.*use one of Python 3\.99"):
        check_installation(parts)


def test_a_wheel_of_another_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TritonMissingError, match="built for aarch64, this machine is x86_64"):
        check_installation(wheel(tmp_path / "pytriton", AARCH64))


def test_a_file_that_is_no_program_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TritonMissingError, match="not an ELF file"):
        check_installation(wheel(tmp_path / "pytriton", b"<html>"))


def test_a_program_that_may_not_be_run_is_refused(tmp_path: Path) -> None:
    parts = wheel(tmp_path / "pytriton", mode=0o644)
    with pytest.raises(TritonMissingError, match=r"not executable: chmod \+x"):
        check_installation(parts)
    assert not os.access(parts.server, os.X_OK)


def test_missing_libraries_name_their_debian_packages() -> None:
    message = str(missing_libraries({"libpython3.11.so.1.0", "libexpat.so.1", "libodd.so.2"}))
    assert "apt-get install libexpat1 libpython3.11" in message
    assert "install what holds libodd.so.2" in message
    assert "\n" not in message

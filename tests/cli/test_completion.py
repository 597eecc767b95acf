"""Shell completion, as a shell asks for it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(sys.executable).parent
HEAVY = ("numpy", "torch", "onnxruntime", "mlflow", "prefect", "grpc", "polars", "pandas", "numba")


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("lobsmith", "mod"), {"mode", "models"}),
        (("lobsmith", "models", "ro"), {"rollback"}),
        (("lobsmith", "status", "--mo"), {"--model"}),
        (("lobsmith", "stage", "com"), {"compress"}),
    ],
)
def test_bash_completes_commands_options_and_choices(words: tuple[str, ...], offered: set[str]) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    asked = """
        eval "$(_LOBSMITH_COMPLETE=bash_source lobsmith)"
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        _lobsmith_completion lobsmith
        printf '%s\n' "${COMPREPLY[@]}"
    """
    environment = {**os.environ, "PATH": f"{SCRIPT}:{os.environ['PATH']}"}
    completed = subprocess.run(
        [bash, "-c", asked, "bash", *words], env=environment, capture_output=True, text=True, check=True
    )
    assert set(completed.stdout.split()) == offered


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_a_script(shell: str) -> None:
    environment = {**os.environ, "_LOBSMITH_COMPLETE": f"{shell}_source"}
    completed = subprocess.run([SCRIPT / "lobsmith"], env=environment, capture_output=True, text=True, check=True)
    assert f"_LOBSMITH_COMPLETE={shell}_complete" in completed.stdout


def test_a_completion_imports_nothing_heavy() -> None:
    code = f"import sys, lobsmith.cli.main; print([name for name in {HEAVY!r} if name in sys.modules])"
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert completed.stdout == "[]\n"

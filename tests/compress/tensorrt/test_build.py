"""Engines as a user meets them: the real builder in its child process, on a machine without a GPU."""

import os
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from msgspec import structs
from onnx import TensorProto, helper

from lobsmith.compress.export import export_onnx
from lobsmith.compress.graph.specialise import specialise
from lobsmith.compress.quantise.quantise import quantise
from lobsmith.compress.runtime import OnnxModel
from lobsmith.compress.tensorrt.build import available_builder, build_engine, load_build, profiles_for
from lobsmith.compress.tensorrt.gpu import this_gpu
from lobsmith.compress.tensorrt.plan import ENGINE, EngineBuild, check_engine
from lobsmith.compress.tensorrt.run import EngineModel
from lobsmith.errors import EngineError
from lobsmith.features.definitions import COUNT
from lobsmith.files import sha256_file
from lobsmith.models.networks import registry
from lobsmith.params import EngineParams, load_params
from tests.compress.test_export import HORIZONS, PARAMS, make_network
from tests.small import params_file

CAPABILITIES = ("8.0", "8.6", "8.9", "12.0")


@pytest.fixture(scope="module", autouse=True)
def builder() -> Any:
    return pytest.importorskip("tensorrt_rtx", reason="the extra tensorrt-rtx is not installed")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fp32") / "model.onnx"
    export_onnx(make_network(), path)
    return path


@pytest.fixture(scope="module")
def built(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EngineBuild]:
    directory = tmp_path_factory.mktemp("built") / "engine"
    return directory, build_engine(source, directory, settings(capabilities=("8.9",)), precision="fp32")


def settings(**changes: Any) -> EngineParams:
    defaults = {"builder": "tensorrt_rtx", "capabilities": CAPABILITIES, "memory_mib": 4096, "deadline_s": 120.0}
    return structs.replace(load_params(params_file()).engine, **{**defaults, **changes})


def quantised(source: Path, destination: Path) -> Path:
    """Static INT8 with explicit Q/DQ, as the candidate of that name."""
    rows = np.random.default_rng(0).normal(size=(512, OnnxModel(source).feature_count)).astype(np.float32)
    quantise(source, destination, "int8_static", [rows], load_params(params_file()).compress)
    return destination


def save_graph(path: Path, *nodes: onnx.NodeProto, inputs: tuple[str, ...] = ("features", "state")) -> None:
    """Write a graph over the wire's two inputs that no checker has seen."""
    shapes = {"features": ["batch", "time", 4], "state": ["batch", 4]}
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in inputs],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, None)],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def listing(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def refused(source: Path, params: EngineParams, *parts: str) -> None:
    """Expect a one-line error with these parts, and no files."""
    directory = source.parent / "engine"
    before = listing(source.parent)
    with pytest.raises(EngineError) as caught:
        build_engine(source, directory, params, precision="fp32")
    message = str(caught.value)
    assert message.count("\n") == 0
    assert len(message) < 1200
    for part in parts:
        assert part in message, message
    assert listing(source.parent) == before


@pytest.mark.parametrize(
    "kind", ["int8", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("fp32", "int8, one row"))]
)
def test_plans_for_every_target_without_a_gpu(source: Path, kind: str, tmp_path: Path) -> None:
    model, precision, profiles = source, kind.split(",")[0], profiles_for(settings())
    if precision == "int8":
        model = quantised(source, tmp_path / "int8.onnx")
        operators = {node.op_type for node in onnx.load(model).graph.node}
        assert {"QuantizeLinear", "DequantizeLinear", "LSTM"} <= operators
    if kind.endswith("one row"):
        specialise(model, tmp_path / "step.onnx")
        model, profiles = tmp_path / "step.onnx", profiles[:1]
    messages: list[str] = []
    build = build_engine(model, tmp_path / "engine", settings(), precision=precision, on_progress=messages.append)
    assert tuple(build.plans) == CAPABILITIES
    assert build.builder == "tensorrt_rtx"
    assert build.precision == precision
    assert build.gpu is None
    assert [profile.name for profile in build.profiles] == [profile.name for profile in profiles]
    assert build.source_sha256 == sha256_file(model)
    assert len(set(build.sha256.values())) == len(CAPABILITIES)
    assert build == load_build(tmp_path / "engine")
    assert {file.name for file in (tmp_path / "engine").iterdir()} == {ENGINE, *build.plans.values()}
    assert messages


def test_a_build_names_what_it_was_made_with(built: tuple[Path, EngineBuild], builder: Any) -> None:
    directory, build = built
    assert build.builder_version == builder.__version__
    assert version(f"tensorrt_rtx_cu{build.cuda_version}") == builder.__version__
    assert msgspec.json.decode((directory / ENGINE).read_bytes(), type=EngineBuild) == build
    assert {name: sha256_file(directory / name) for name in build.plans.values()} == build.sha256
    assert build.build_s > 0


@pytest.mark.parametrize(
    ("content", "word"), [(b"", "empty"), (b"not onnx", "parse"), (None, "no such file")], ids=["empty", "bad", "none"]
)
def test_a_file_that_is_no_network(content: bytes | None, word: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "model.onnx").write_bytes(content)
    refused(tmp_path / "model.onnx", settings(), "model.onnx", word)


def test_a_truncated_network(source: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(source.read_bytes()[:-1000])
    refused(tmp_path / "model.onnx", settings(), "model.onnx", "parse")


@pytest.mark.parametrize(
    ("node", "parts"),
    [
        (helper.make_node("MatMul", ["features", "nowhere"], ["probabilities"], name="broken"), ["broken", "MatMul"]),
        (helper.make_node("Unique", ["features"], ["probabilities"], name="odd"), ["odd", "Unique", "UNSUPPORTED"]),
        (
            helper.make_node("Frobnicate", ["features"], ["probabilities"], name="mine", domain="com.example"),
            ["mine", "Frobnicate", "Plugin not found"],
        ),
    ],
    ids=["broken", "unsupported", "unknown"],
)
def test_a_graph_that_the_parser_refuses(node: onnx.NodeProto, parts: list[str], tmp_path: Path) -> None:
    save_graph(tmp_path / "model.onnx", node)
    refused(tmp_path / "model.onnx", settings(), "tensorrt_rtx", *parts)


def test_other_inputs_than_those_of_the_wire(tmp_path: Path) -> None:
    save_graph(tmp_path / "model.onnx", helper.make_node("Relu", ["features"], ["probabilities"]), inputs=("features",))
    refused(tmp_path / "model.onnx", settings(), "inputs are ['features']")


@pytest.mark.parametrize("capability", ["9.9", "9.0"])
def test_a_capability_that_is_not_offered(source: Path, capability: str, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(source.read_bytes())
    refused(tmp_path / "model.onnx", settings(capabilities=("8.9", capability)), capability, "8.0, 8.6, 8.9, 12.0")


@pytest.mark.skipif(this_gpu() is not None, reason="this machine has a GPU to build for")
def test_no_capability_where_there_is_no_gpu(source: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(source.read_bytes())
    refused(tmp_path / "model.onnx", settings(capabilities=()), "engine.capabilities")


@pytest.mark.parametrize("changes", [{"deadline_s": 0.05}, {"memory_mib": 48}], ids=["deadline", "memory"])
def test_a_build_over_its_bounds_is_stopped(source: Path, changes: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(source.read_bytes())
    refused(tmp_path / "model.onnx", settings(**changes), f"engine.{next(iter(changes))}", "was stopped")
    assert children(tmp_path) == []


def test_shapes_too_large_for_the_workspace(tmp_path: Path) -> None:
    network = registry.build(structs.replace(PARAMS, network="deeplob"), COUNT, HORIZONS).eval()
    export_onnx(network, tmp_path / "model.onnx")
    bounded = settings(capabilities=("8.9",), memory_mib=2048)
    refused(tmp_path / "model.onnx", bounded, "OutOfMemory", "engine.largest_batch")


def children(folder: Path) -> list[int]:
    """Return the process ids of builds into a folder."""
    pids = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if b"tensorrt.child" in line and os.fsencode(folder) in line:
            pids.append(int(path.parent.name))
    return pids


def test_a_child_that_is_killed(source: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(source.read_bytes())

    def kill() -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            for pid in children(tmp_path):
                os.kill(pid, signal.SIGKILL)
                return
            time.sleep(0.005)

    killer = threading.Thread(target=kill)
    killer.start()
    refused(tmp_path / "model.onnx", settings(), "SIGKILL")
    killer.join()


@pytest.mark.parametrize(
    ("code", "parts"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", ["SIGSEGV"]),
        ("raise ImportError('libnvinfer.so.10: no such file')", ["cannot be imported", "libnvinfer.so.10"]),
        ("raise RuntimeError('out of luck')", ["status 1", "out of luck"]),
    ],
    ids=["crash", "import", "error"],
)
def test_a_builder_that_is_broken(
    code: str, parts: list[str], source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = tmp_path / "hide"
    (hidden / "tensorrt_rtx").mkdir(parents=True)
    (hidden / "tensorrt_rtx" / "__init__.py").write_text(code)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(hidden), os.environ.get("PYTHONPATH", "")]))
    (tmp_path / "model.onnx").write_bytes(source.read_bytes())
    refused(tmp_path / "model.onnx", settings(), "tensorrt_rtx", *parts)


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt_rtx"])
def test_a_builder_that_is_not_installed(
    name: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "model.onnx").write_bytes(source.read_bytes())
    refused(tmp_path / "model.onnx", settings(builder=name), name, f"lobsmith[{name.replace('_', '-')}]")


def test_which_builder_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert available_builder(settings()) == "tensorrt_rtx"
    assert available_builder(settings(builder="none")) is None
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert available_builder(settings(builder="auto")) is None


@pytest.fixture
def small_disk() -> Iterator[None]:
    """Files of this process and its children may not grow beyond 1 MB; a plan has more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_takes_no_plan(source: Path, tmp_path: Path, small_disk: None) -> None:
    (tmp_path / "model.onnx").write_bytes(source.read_bytes())
    refused(tmp_path / "model.onnx", settings(), "File too large")


def test_a_folder_of_something_else_is_not_replaced(source: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(source.read_bytes())
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "notes.txt").write_text("mine")
    refused(tmp_path / "model.onnx", settings(), "is no engine")
    assert (tmp_path / "engine" / "notes.txt").read_text() == "mine"


def test_a_failed_build_leaves_the_last_engine_and_a_good_one_replaces_it(source: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(source.read_bytes())
    first = build_engine(model, tmp_path / "engine", settings(capabilities=("8.9",)), precision="fp32")
    refused(model, settings(capabilities=("9.9",)), "9.9")
    assert load_build(tmp_path / "engine") == first
    second = build_engine(model, tmp_path / "engine", settings(capabilities=("8.6",)), precision="fp32")
    assert load_build(tmp_path / "engine") == second
    assert {file.name for file in (tmp_path / "engine").iterdir()} == {ENGINE, *second.plans.values()}


def test_two_builds_at_once(source: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        jobs = [
            pool.submit(
                build_engine, source, tmp_path / capability, settings(capabilities=(capability,)), precision="fp32"
            )
            for capability in ("8.0", "12.0")
        ]
        builds = [job.result() for job in jobs]
    assert [list(build.plans) for build in builds] == [["8.0"], ["12.0"]]
    assert [load_build(tmp_path / capability) for capability in ("8.0", "12.0")] == builds
    assert sorted(file.name for file in tmp_path.iterdir()) == ["12.0", "8.0"]


def test_an_engine_that_fits(built: tuple[Path, EngineBuild]) -> None:
    build = built[1]
    check_engine(build, builder="tensorrt_rtx", builder_version=build.builder_version, capability="8.9")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"builder": "tensorrt"}, "tensorrt "),
        ({"builder_version": "1.7.1.117"}, "1.7.1.117"),
        ({"capability": "8.6"}, "8.6"),
    ],
    ids=["builder", "version", "capability"],
)
def test_an_engine_that_does_not_fit(changes: dict[str, str], word: str, built: tuple[Path, EngineBuild]) -> None:
    build = structs.replace(built[1], builder_version="1.7.1.116")
    here = {"builder": "tensorrt_rtx", "builder_version": "1.7.1.116", "capability": "8.9", **changes}
    with pytest.raises(EngineError) as caught:
        check_engine(build, **here)
    assert word in str(caught.value)
    assert ("8.9" if "capability" in changes else "tensorrt_rtx 1.7.1.116") in str(caught.value)


def test_what_a_killed_build_has_left_is_swept_once_it_is_old(source: Path, tmp_path: Path) -> None:
    old, young = tmp_path / ".engine.old", tmp_path / ".engine.young"
    for folder in (old, young):
        folder.mkdir()
    os.utime(old, (time.time() - 1000, time.time() - 1000))
    build_engine(source, tmp_path / "engine", settings(capabilities=("8.9",)), precision="fp32")
    assert sorted(path.name for path in tmp_path.iterdir()) == [young.name, "engine"]


@pytest.mark.parametrize("kind", ["changed", "missing", "no record"])
def test_plans_that_are_not_those_that_were_built(kind: str, built: tuple[Path, EngineBuild], tmp_path: Path) -> None:
    directory, build = shutil.copytree(built[0], tmp_path / "engine"), built[1]
    plan = directory / build.plans["8.9"]
    if kind == "changed":
        plan.write_bytes(plan.read_bytes()[:-1] + b"?")
    else:
        (plan if kind == "missing" else directory / ENGINE).unlink()
    with pytest.raises(EngineError, match="build it again"):
        load_build(directory)


@pytest.mark.skipif(this_gpu() is not None, reason="this machine has a GPU")
def test_an_engine_is_not_run_without_a_gpu(built: tuple[Path, EngineBuild]) -> None:
    with pytest.raises(EngineError, match="GPU"):
        EngineModel(built[0])

from pathlib import Path

import msgspec
import pytest
import torch

from lobsmith.compress.tensorrt.gpu import this_gpu
from lobsmith.compress.tensorrt.plan import EngineBuild, fits, read_build
from lobsmith.errors import EngineError

BUILD = EngineBuild(
    builder="tensorrt",
    builder_version="10.13.2.6",
    cuda_version="12.9",
    gpu="NVIDIA L4",
    precision="fp16",
    source_sha256="0" * 64,
    profiles=(),
    plans={"8.6": "model_sm86.plan", "8.9": "model_sm89.plan"},
    sha256={},
    build_s=3.0,
)


@pytest.mark.parametrize(
    ("capability", "tensorrt", "reason"),
    [
        ("8.9", "10.13.2.6", None),
        ("8.6", "10.13.2", None),
        ("8.9", None, "no TensorRT here"),
        (None, "10.13.2", "no GPU here; the plans are for capability 8.6, 8.9"),
        ("9.0", "10.13.2", "of capability 8.6, 8.9, the one here has 9.0"),
        ("8.9", "10.13.3", "built with TensorRT 10.13.2.6, here is 10.13.3"),
        ("8.9", "1.10.13", "built with TensorRT 10.13.2.6, here is 1.10.13"),
    ],
)
def test_plans_fit_their_own_capabilities_and_version_only(capability, tensorrt, reason):
    message = fits(BUILD, capability, tensorrt)
    assert (message is None) if reason is None else (reason in message)


def test_the_driver_reports_what_pytorch_reports():
    if torch.cuda.is_available():
        assert this_gpu().capability == ".".join(map(str, torch.cuda.get_device_capability(0)))
    elif not Path("/proc/driver/nvidia").exists():
        assert this_gpu() is None


def test_a_description_of_a_build_is_read_or_named(tmp_path):
    with pytest.raises(EngineError, match=r"engine.json: No such file"):
        read_build(tmp_path)
    (tmp_path / "engine.json").write_bytes(msgspec.json.encode(BUILD))
    assert read_build(tmp_path) == BUILD
    (tmp_path / "engine.json").write_text('{"builder": "tensorrt"}')
    with pytest.raises(EngineError, match=r"engine.json: not the description of a build"):
        read_build(tmp_path)

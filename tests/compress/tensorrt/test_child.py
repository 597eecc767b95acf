"""Parts of the child process, in this one."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lobsmith.compress.tensorrt.child import BuildRequest, TimingCache, fit_profiles
from lobsmith.compress.tensorrt.gpu import Gpu
from lobsmith.compress.tensorrt.plan import Profile
from lobsmith.errors import EngineError

STEP = Profile(name="step", batch=(1, 1, 64), rows=(1, 1, 1))
CHUNK = Profile(name="chunk", batch=(1, 1, 64), rows=(1, 32, 256))


def build_request(builder: str, cache: Path | None) -> BuildRequest:
    return BuildRequest(
        parent=os.getpid(),
        source="model.onnx",
        directory="engine",
        builder=builder,
        capabilities=(),
        profiles=(STEP, CHUNK),
        workspace_mib=64,
        cache=None if cache is None else str(cache),
    )


def test_a_dynamic_network_takes_every_profile() -> None:
    assert fit_profiles((STEP, CHUNK), {"features": (-1, -1, 5)}) == (STEP, CHUNK)


def test_a_network_of_single_rows_takes_the_step_profile_only() -> None:
    assert fit_profiles((STEP, CHUNK), {"features": (-1, 1, 5)}) == (STEP,)


def test_dimensions_that_no_profile_covers_are_refused() -> None:
    with pytest.raises(EngineError, match="257"):
        fit_profiles((STEP, CHUNK), {"features": (-1, 257, 5)})


@given(st.integers(1, 64) | st.just(-1), st.integers(1, 256) | st.just(-1))
def test_profiles_are_ordered_spans_that_hold_what_the_network_fixes(batch: int, rows: int) -> None:
    fitted = fit_profiles((STEP, CHUNK), {"features": (batch, rows, 5)})
    assert len({(profile.batch, profile.rows) for profile in fitted}) == len(fitted) >= 1
    for profile in fitted:
        for span, size in ((profile.batch, batch), (profile.rows, rows)):
            assert span == tuple(sorted(span))
            assert size == -1 or span == (size, size, size)


@pytest.mark.parametrize("content", [None, b"", b"no timing cache"])
def test_a_timing_cache_is_kept_and_a_corrupt_one_is_ignored(content: bytes | None, tmp_path: Path) -> None:
    """TensorRT-RTX still takes caches and leaves them empty; that is enough to go through the motions."""
    trt = pytest.importorskip("tensorrt_rtx")
    builder = trt.Builder(trt.Logger(trt.Logger.INTERNAL_ERROR))
    config = builder.create_builder_config()
    gpu = Gpu(name="NVIDIA L4 / 24 GB", capability="8.9")
    for _ in range(2):
        cache = TimingCache(build_request("tensorrt", tmp_path), "10.3.0", "12", gpu)
        cache.attach(config)
        cache.keep(config)
        (file,) = tmp_path.iterdir()
        assert file.name == "tensorrt-10.3.0-cuda12-NVIDIA-L4-24-GB-sm8.9.timing"
        assert file.stat().st_size > 0
        if content is not None:
            file.write_bytes(content)


def test_a_cache_folder_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    builder = trt.Builder(trt.Logger(trt.Logger.INTERNAL_ERROR))
    config = builder.create_builder_config()
    (tmp_path / "cache").write_text("a file, no folder")
    cache = TimingCache(build_request("tensorrt", tmp_path / "cache"), "10.3.0", "12", Gpu(name="L4", capability="8.9"))
    cache.attach(config)
    cache.keep(config)
    assert [file.name for file in tmp_path.iterdir()] == ["cache"]

"""From a published version to TensorRT plans beside it, where this machine can build and prove them."""

from pathlib import Path

from lobsmith.errors import LobsmithError
from lobsmith.gates.compression import Compressed, load_summary
from lobsmith.gates.engine import ENGINE_DIRECTORY, build_plans, judge_plans, open_engine
from lobsmith.params import Params
from lobsmith.progress import Note
from lobsmith.release.manifest import Manifest
from lobsmith.release.publish_engine import publish_engine
from lobsmith.release.server import Server
from lobsmith.workspace import Workspace

_SERVED = "tensorrt"
"""The builder whose plans Triton runs; those of TensorRT-RTX show that the graph builds."""


def plans_of(
    workspace: Workspace,
    params: Params,
    manifest: Manifest,
    *,
    server: Server | None = None,
    on_progress: Note | None = None,
) -> str:
    """Build and publish the plans of a promoted version from the folder of the run that made it; say what came of it.

    Arguments are those of `build_and_publish`.
    """
    directory = workspace.runs / (manifest.run or "")
    if manifest.run is None or not directory.is_dir():
        return f"no plans: the folder of the run that made {manifest.model} {manifest.version} is gone"
    try:
        summary = load_summary(directory)
    except LobsmithError as error:
        return f"no plans: {error}"
    return build_and_publish(workspace, params, summary, manifest, directory, server=server, on_progress=on_progress)


def build_and_publish(
    workspace: Workspace,
    params: Params,
    summary: Compressed,
    manifest: Manifest,
    directory: Path,
    *,
    server: Server | None = None,
    on_progress: Note | None = None,
) -> str:
    """Build plans of a version, hold them against PyTorch and publish them; say what came of it.

    Nothing of it fails a retrain: the version is published already, and its ONNX model answers.

    Args:
        workspace: where the repository lies.
        params: all of `params.yaml`.
        summary: what the compress stage found out.
        manifest: of the published ONNX version.
        directory: the run's folder.
        server: the running server, None where none runs.
        on_progress: told what is built next.
    """
    try:
        build = build_plans(params, directory, summary, cache=workspace.timing_cache, on_progress=on_progress)
        if build is None:
            return "no plans: no TensorRT with a GPU here, or engine.builder is none"
        built = f"{build.builder} {build.builder_version}, {build.precision}, for {', '.join(build.plans)}"
        if build.builder != _SERVED:
            return f"{built}: shown to build, not served"
        refusals = [one for one in judge_plans(params, directory, summary, open_engine(directory)) if not one.passed]
        if refusals:
            return f"no plans: {'; '.join(map(str, refusals))}"
        published = publish_engine(workspace, params, directory / ENGINE_DIRECTORY, manifest, server=server)
    except (LobsmithError, OSError, RuntimeError) as error:
        # PyTorch and CUDA raise RuntimeError.
        return f"no plans: {' '.join(str(error).split())}"
    return f"{built}: {published.model} {published.version}"

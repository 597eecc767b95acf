"""Build, check and publish TensorRT plans for a published version, where this machine can.

Apart from `publish/plans.py`: building imports PyTorch, publishing does not.
"""

from pathlib import Path

from lobsmith.errors import LobsmithError
from lobsmith.gates.compression import Compressed
from lobsmith.progress import Note
from lobsmith.release.context import Release
from lobsmith.release.publish.plans import publish_engine
from lobsmith.release.version.manifest import Manifest
from lobsmith.stages.compress import load_summary
from lobsmith.stages.engines import ENGINE_DIRECTORY, build_plans, open_engine, plan_verdicts

_SERVED = "tensorrt"
"""The builder whose plans Triton runs; TensorRT-RTX only shows that the graph builds."""


def plans_of(release: Release, manifest: Manifest, *, on_progress: Note | None = None) -> str:
    """Build and publish a promoted version's plans from the folder of its run; return the outcome in one line.

    Arguments are those of `build_and_publish`.
    """
    directory = release.workspace.runs / (manifest.run or "")
    if manifest.run is None or not directory.is_dir():
        return f"no plans: the folder of the run that made {manifest.model} {manifest.version} is gone"
    try:
        summary = load_summary(directory)
    except LobsmithError as error:
        return f"no plans: {error}"
    return build_and_publish(release, summary, manifest, directory, on_progress=on_progress)


def build_and_publish(
    release: Release, summary: Compressed, manifest: Manifest, directory: Path, *, on_progress: Note | None = None
) -> str:
    """Build plans of a published ONNX version, compare them with PyTorch and publish them; return the outcome in one
    line.

    Failures are returned, not raised. `directory` is the run's folder, `summary` of its compress stage.
    """
    params, cache = release.params, release.workspace.timing_cache
    try:
        build = build_plans(params, directory, summary, cache=cache, on_progress=on_progress)
        if build is None:
            return "no plans: no TensorRT with a GPU here, or engine.builder is none"
        built = f"{build.builder} {build.builder_version}, {build.precision}, for {', '.join(build.plans)}"
        if build.builder != _SERVED:
            return f"{built}: shown to build, not served"
        verdicts = plan_verdicts(params, directory, summary, open_engine(directory))
        refusals = [verdict for verdict in verdicts if not verdict.passed]
        if refusals:
            return f"no plans: {'; '.join(map(str, refusals))}"
        published = publish_engine(release, directory / ENGINE_DIRECTORY, manifest)
    except (LobsmithError, OSError, RuntimeError) as error:
        # PyTorch and CUDA raise RuntimeError.
        return f"no plans: {' '.join(str(error).split())}"
    return f"{built}: {published.model} {published.version}"

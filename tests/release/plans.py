"""Plans as a build leaves them, with arbitrary bytes."""

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from lobsmith.compress.tensorrt.plan import EngineBuild, Profile
from lobsmith.release.version.manifest import Manifest

STEP = Profile(name="step", batch=(1, 1, 64), rows=(1, 1, 1))
CHUNK = Profile(name="chunk", batch=(1, 1, 8), rows=(1, 32, 256))


def build(folder: Path, of: Manifest, capabilities: tuple[str, ...] = ("8.9",), **changes: Any) -> EngineBuild:
    """Write plans and `engine.json` into a folder; `changes` replace fields of the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    plans = {capability: f"model_sm{capability.replace('.', '')}.plan" for capability in capabilities}
    for name in plans.values():
        (folder / name).write_bytes(f"{name} of {of.version}".encode())
    fields = {
        "builder": "tensorrt",
        "builder_version": "10.13.2.6",
        "cuda_version": "12.9",
        "gpu": "NVIDIA L4",
        "precision": "fp32",
        "source_sha256": of.artifact_id,
        "profiles": (STEP, CHUNK),
        "plans": plans,
        "sha256": {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in plans.values()},
        "build_s": 12.5,
    }
    engine = EngineBuild(**{**fields, **changes})
    (folder / "engine.json").write_bytes(msgspec.json.encode(engine))
    return engine

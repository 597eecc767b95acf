"""Publishing TensorRT plans: the Triton model `<model>_trt` beside the ONNX model `<model>`.

Plans have number and manifest of the ONNX version with the same network, but for files, precision and `EngineBuild`; a
client may change between the two at any row. `config.pbtxt` names plans and profiles per model, so only versions that
share both with the newest are listed; others are answered by ONNX.
"""

from dataclasses import dataclass
from pathlib import Path

from msgspec import structs

from lobsmith import clock
from lobsmith.compress import GOLDEN
from lobsmith.compress.tensorrt.plan import ENGINE, EngineBuild, read_build
from lobsmith.errors import ReleaseError
from lobsmith.files import copy_durably, sha256_file
from lobsmith.release.checks.validation import validate
from lobsmith.release.context import Release
from lobsmith.release.publish.publication import Publication, Validate
from lobsmith.release.repository.writer import sole_writer
from lobsmith.release.version.contract import MAX_ROWS
from lobsmith.release.version.manifest import Manifest
from lobsmith.release.version.names import plans_model
from lobsmith.release.version.signing import Trust
from lobsmith.release.version.triton_config import PLANS_BACKEND, config_text, prime_rows_for
from lobsmith.verdict import Verdict

VALIDATION_DEADLINE_S = 300.0


def _validate_in_child(directory: Path, trust: Trust) -> None:
    validate(directory, trust, VALIDATION_DEADLINE_S)


def publish_engine(
    release: Release, engine_directory: Path, manifest: Manifest, *, validate: Validate = _validate_in_child
) -> Manifest:
    """Publish plans and `engine.json` of a build under the number of their published ONNX version.

    Args:
        release: the context.
        engine_directory: of the build.
        manifest: of the ONNX version.
        validate: raises where the staged folder is invalid.

    Raises:
        ReleaseError: the plans are of TensorRT-RTX or another version, incomplete, cannot be validated here, or are
            published already. Nothing was published.
        ServingError: the server does not serve the plans. Nothing was published.
    """
    publication = _PlansPublication(
        release=release,
        model=plans_model(manifest.model),
        contract=manifest.contract,
        validate=validate,
        backend=PLANS_BACKEND,
        source=engine_directory,
        build=read_build(engine_directory),
        network=manifest,
    )
    with sole_writer(release, f"publish {publication.model}") as writer:
        return publication.run(writer)


@dataclass(frozen=True, kw_only=True)
class _PlansPublication(Publication):
    """An attempt to publish plans."""

    source: Path
    build: EngineBuild
    network: Manifest

    def version(self, last: int | None) -> int:
        del last
        return self.network.version

    def check(self) -> None:
        check_build(self.source, self.build)
        repository, version = self.release.repository, self.network.version
        name = f"{self.network.model}/{version}"
        if repository.verify(self.network.model, version) != self.network or self.network.engine is not None:
            raise ReleaseError(f"{name}: the manifest is not that of this ONNX version; read it again")
        if version not in repository.listed(self.network.model):
            raise ReleaseError(f"{name}: the version is not listed, so its plans would never be served")
        if self.build.precision == "fp32" and self.build.source_sha256 != self.network.artifact_id:
            raise ReleaseError(
                f"{self.source}: fp32 plans of another network than {name}; build them from its model file"
            )
        directory = repository.directory(self.model, version)
        if directory.exists():
            raise ReleaseError(f"{directory}: plans of this version are published; publish the model again for others")

    def artifact_id(self) -> str | None:
        return self.network.artifact_id

    def verdicts(self) -> tuple[Verdict, ...]:
        return self.network.verdicts

    def write(self, directory: Path) -> None:
        for name in (*self.build.plans.values(), ENGINE):
            copy_durably(self.source / name, directory / name)
        network = self.release.repository.directory(self.network.model, self.network.version)
        copy_durably(network / GOLDEN, directory / GOLDEN)

    def manifest(self, directory: Path, version: int) -> Manifest:
        del version
        return structs.replace(
            self.network,
            model=self.model,
            created_ns=clock.now_ns(),
            files={name: sha256_file(directory / name) for name in (*self.build.plans.values(), ENGINE, GOLDEN)},
            precision=self.build.precision,
            gpu_architecture=", ".join(f"sm{capability.replace('.', '')}" for capability in self.build.plans),
            engine=self.build,
        )

    def config(self, kept: list[Manifest]) -> str:
        serving = self.release.params.serving
        # Versions can only be listed together if they share names of plans and profiles.
        layout = self.build.plans, self.build.profiles
        alike = [
            manifest
            for manifest in kept
            if manifest.engine is not None and (manifest.engine.plans, manifest.engine.profiles) == layout
        ]
        return config_text(
            self.model,
            self.contract,
            versions=[manifest.version for manifest in alike],
            prime_rows=prime_rows_for(manifest.prime_rows for manifest in alike),
            max_batch=serving.max_batch,
            warmup=serving.warmup,
            engine=self.build,
            instruments=alike[-1].instruments,
        )


def check_build(directory: Path, build: EngineBuild) -> None:
    """Check that a directory holds the plans of a build, and that they may be served.

    Raises:
        ReleaseError: they are of TensorRT-RTX, a plan is missing or changed, or a number of rows that the wire contract
            allows fits no profile.
    """
    if build.builder != "tensorrt":
        raise ReleaseError(
            f"{directory}: plans of {build.builder} only show that the graph builds and are never published; "
            "Triton runs those of tensorrt"
        )
    names = list(build.plans.values())
    if not names or len(set(names)) < len(names) or set(names) != build.sha256.keys():
        raise ReleaseError(f"{directory}: engine.json does not name one plan with its hash for each capability")
    for name in names:
        path = directory / name
        if Path(name).name != name or not path.is_file() or path.is_symlink():
            raise ReleaseError(f"{path}: not a plain file beside engine.json; build the engine again")
        if sha256_file(path) != build.sha256[name]:
            raise ReleaseError(f"{path}: changed after it was built (SHA-256 differs); build the engine again")
    covered: set[int] = set()
    for profile in build.profiles:
        if profile.batch[0] == 1:
            covered.update(range(profile.rows[0], profile.rows[2] + 1))
    if missing := set(range(1, MAX_ROWS + 1)) - covered:
        raise ReleaseError(
            f"{directory}: no profile takes one stream of {min(missing)} rows; a request may carry 1 to {MAX_ROWS}"
        )

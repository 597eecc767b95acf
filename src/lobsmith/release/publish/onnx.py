"""Publishing an ONNX model: from an exported artifact to a served version; phases: `release/publish/publication.py`."""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from safetensors.numpy import save

from lobsmith import clock
from lobsmith.compress import FP32, GOLDEN, MODEL, STEP
from lobsmith.compress.golden import Golden
from lobsmith.drift import NULL, REFERENCE, SCORE
from lobsmith.errors import GateError, ReleaseError
from lobsmith.files import copy_durably, sha256_file, write_atomic
from lobsmith.market.instrument import Instrument
from lobsmith.params import as_table
from lobsmith.release.checks.model_file import check_model_file
from lobsmith.release.checks.validation import validate
from lobsmith.release.context import Release
from lobsmith.release.publish.publication import Publication, Validate
from lobsmith.release.publish.score import publish_scores
from lobsmith.release.repository.writer import Writer, sole_writer
from lobsmith.release.version.contract import WireContract
from lobsmith.release.version.manifest import Manifest
from lobsmith.release.version.names import followed_model
from lobsmith.release.version.recipe import environment, git_commit
from lobsmith.release.version.signing import Trust
from lobsmith.release.version.triton_config import config_text, prime_rows_for
from lobsmith.units import NS_PER_S
from lobsmith.verdict import Verdict

VALIDATION_DEADLINE_S = 120.0
_VERSIONS_END = 10**18
"""Above the numbers that `Repository` takes for versions."""


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """Output of a retrain: the exported model, its golden vectors, its provenance.

    `step_path` is the graph for one row of one stream; `candidate` the compression candidate, `run` the retrain's
    folder below the workspace's runs. `reference_path` and `score_path` (both or none) are the drift check's, see
    `lobsmith.drift`; `null_path` the null distribution, otherwise measured in the first checks.
    """

    model_path: Path
    golden: Golden
    prime_rows: int
    instruments: tuple[Instrument, ...]
    data_fingerprint: str
    verdicts: tuple[Verdict, ...]
    metrics: dict[str, float]
    mlflow_run_id: str | None = None
    precision: str = FP32
    gpu_architecture: str | None = None
    step_path: Path | None = None
    candidate: str | None = None
    run: str | None = None
    reference_path: Path | None = None
    score_path: Path | None = None
    null_path: Path | None = None


def mint_version(now_ns: int, last: int | None) -> int:
    """Return a new version number: the UTC time as YYYYMMDDhhmmss, or `last + 1` where that is not above `last`.

    >>> mint_version(1_700_000_000_000_000_000, None)
    20231114221320
    >>> mint_version(1_700_000_000_000_000_000, 20231114235959)
    20231114235960

    Raises:
        ReleaseError: no number is left above `last`.
    """
    now = int(datetime.fromtimestamp(now_ns // NS_PER_S, UTC).strftime("%Y%m%d%H%M%S"))
    version = now if last is None else max(now, last + 1)
    if version >= _VERSIONS_END:
        raise ReleaseError(f"{last}: no version number is left above it; take it out of the journal or the repository")
    return version


def check_verdicts(model: str, verdicts: tuple[Verdict, ...]) -> None:
    """Refuse what a gate has refused.

    Raises:
        GateError: a verdict is a refusal.
    """
    refusals = [str(verdict) for verdict in verdicts if not verdict.passed]
    if refusals:
        raise GateError(f"{model}: {'; '.join(refusals)}; nothing was published")


def validate_in_child(directory: Path, trust: Trust) -> None:
    """Validate a staged version in a child process.

    Raises:
        ReleaseError: it is invalid.
    """
    validate(directory, trust, VALIDATION_DEADLINE_S)


def publish(
    release: Release,
    artifact: Artifact,
    *,
    model: str,
    contract: WireContract,
    validate: Validate = validate_in_child,
) -> Manifest:
    """Publish an artifact as a new, highest version of a model.

    Args:
        release: the context.
        artifact: to be published.
        model: the Triton model, or its candidate deployment, which holds one version.
        contract: that the artifact was made for.
        validate: raises where a staged version is invalid.

    Raises:
        GateError: a verdict is a refusal. Nothing was published; so for every other error.
        ContractError: the model exists with another contract.
        ReleaseError: the model file or a folder is unfit, the version is invalid, or the name is a companion's.
        ServingError: the server does not serve it. The listing was restored, the server was asked for the previous
            version, and the new one was quarantined.
        LeaseError: the lease is held all the time, or was taken over.
    """
    if followed_model(model) != model:
        raise ReleaseError(f"{model}: a name that ends so belongs to what goes with a model; choose another model.name")
    publication = _NewPublication(release=release, model=model, contract=contract, validate=validate, artifact=artifact)
    with sole_writer(release, f"publish {model}") as writer:
        return publication.run(writer)


@dataclass(frozen=True, kw_only=True)
class OnnxPublication(Publication):
    """An attempt to publish an ONNX model of any source."""

    validate: Validate = validate_in_child

    def version(self, last: int | None) -> int:
        """Return a new number."""
        return mint_version(clock.now_ns(), last)

    def validate_staged(self, directory: Path) -> None:
        """Validate the staged copy, which is what gets served."""
        check_model_file(directory / MODEL, self.contract)
        super().validate_staged(directory)

    def config(self, kept: list[Manifest]) -> str:
        """Return the model's configuration; its priming rows are those of the slowest version."""
        serving = self.release.params.serving
        return config_text(
            self.model,
            self.contract,
            versions=[manifest.version for manifest in kept],
            prime_rows=prime_rows_for(manifest.prime_rows for manifest in kept),
            max_batch=serving.max_batch,
            warmup=serving.warmup,
            instruments=kept[-1].instruments,
        )

    def publish_scores(self, writer: Writer) -> None:
        """Publish the version's drift score, where it has one."""
        publish_scores(writer, self.model, retry=True)


@dataclass(frozen=True, kw_only=True)
class _NewPublication(OnnxPublication):
    """An attempt to publish the artifact of a retrain."""

    artifact: Artifact

    def check(self) -> None:
        check_verdicts(self.model, self.artifact.verdicts)
        check_model_file(self.artifact.model_path, self.contract)
        if (self.artifact.reference_path is None) != (self.artifact.score_path is None):
            raise ReleaseError(f"{self.model}: {REFERENCE} and {SCORE} belong together; hand over both or none")

    def artifact_id(self) -> str | None:
        model_path = self.artifact.model_path
        return sha256_file(model_path) if model_path.is_file() else None

    def verdicts(self) -> tuple[Verdict, ...]:
        return self.artifact.verdicts

    def write(self, directory: Path) -> None:
        copy_durably(self.artifact.model_path, directory / MODEL)
        if self.artifact.step_path is not None:
            copy_durably(self.artifact.step_path, directory / STEP)
        if self.artifact.reference_path is not None and self.artifact.score_path is not None:
            copy_durably(self.artifact.reference_path, directory / REFERENCE)
            copy_durably(self.artifact.score_path, directory / SCORE)
            if self.artifact.null_path is not None:
                copy_durably(self.artifact.null_path, directory / NULL)
        write_atomic(directory / GOLDEN, save(asdict(self.artifact.golden)))

    def manifest(self, directory: Path, version: int) -> Manifest:
        files = {path.name: sha256_file(path) for path in sorted(directory.iterdir())}
        return Manifest(
            model=self.model,
            version=version,
            artifact_id=files[MODEL],
            created_ns=clock.now_ns(),
            files=files,
            contract=self.contract,
            prime_rows=self.artifact.prime_rows,
            instruments=self.artifact.instruments,
            precision=self.artifact.precision,
            candidate=self.artifact.candidate,
            run=self.artifact.run,
            gpu_architecture=self.artifact.gpu_architecture,
            git_commit=git_commit(self.release.workspace.root),
            data_fingerprint=self.artifact.data_fingerprint,
            params=as_table(self.release.params),
            mlflow_run_id=self.artifact.mlflow_run_id,
            verdicts=self.artifact.verdicts,
            metrics=self.artifact.metrics,
            environment=environment(self.release.params.train.threads),
        )

"""The manifest: a version's files, provenance, verdicts and metrics."""

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from lobsmith import jsonl
from lobsmith.compress import MODEL
from lobsmith.compress.tensorrt.plan import EngineBuild
from lobsmith.errors import ReleaseError
from lobsmith.files import sha256_file, write_atomic
from lobsmith.market.instrument import Instrument
from lobsmith.release.version.contract import WireContract
from lobsmith.release.version.signing import SIGNATURE, Signer, Trust
from lobsmith.verdict import Verdict

MANIFEST = "manifest.json"


class Environment(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the bits of a model depend on besides data and parameters; `gpu` is that of `train.device: auto`, if any."""

    python: str
    packages: dict[str, str]
    threads: int
    instruction_set: str
    gpu: str | None = None


class Origin(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The version that a promoted one is a copy of."""

    model: str
    version: int


class Manifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Description of a version, beside its files.

    `files` maps the other files to their SHA-256. `artifact_id` is the SHA-256 of the model file, the same after a
    promotion, while `version` is new. `run` is the retrain's folder below the workspace's runs; `promoted_from` the
    source of a promotion. TensorRT plans have `engine`, and number and `artifact_id` of the version with their network.
    """

    model: str
    version: int
    artifact_id: str
    created_ns: int
    files: dict[str, str]
    contract: WireContract
    prime_rows: int
    instruments: tuple[Instrument, ...]
    precision: str
    gpu_architecture: str | None
    git_commit: str | None
    data_fingerprint: str
    params: dict[str, Any]
    mlflow_run_id: str | None
    verdicts: tuple[Verdict, ...]
    metrics: dict[str, float]
    environment: Environment
    candidate: str | None = None
    run: str | None = None
    engine: EngineBuild | None = None
    promoted_from: Origin | None = None

    def was_trained_on(self, instrument: str) -> bool:
        """Return whether it was trained on `venue:symbol`; True where the manifest names no instruments."""
        return not self.instruments or instrument in map(str, self.instruments)

    def shares_a_market_with(self, other: "Manifest") -> bool:
        """Return whether both were trained on a common instrument."""
        if not self.instruments or not other.instruments:
            return True
        return any(self.was_trained_on(str(instrument)) for instrument in other.instruments)


def read_manifest(directory: Path, trust: Trust | None = None) -> Manifest:
    """Read the manifest of a version's directory; without `trust` the signature is not checked.

    Raises:
        ReleaseError: it is missing, is not a manifest, or is not signed with a trusted key.
    """
    path = directory / MANIFEST
    try:
        content = path.read_bytes()
        if trust is not None:
            trust.check(path, content)
        return jsonl.decode(content, Manifest)
    except OSError as error:
        raise ReleaseError(f"{path}: {error.strerror}; the directory is not a published version") from error
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ReleaseError(f"{path}: not a manifest: {error}; publish the version again") from error


def write_manifest(directory: Path, manifest: Manifest, signer: Signer) -> None:
    """Write the manifest and its signature durably."""
    content = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    write_atomic(directory / MANIFEST, content)
    write_atomic(directory / SIGNATURE, signer.sign(content).encode())


def check_files(directory: Path, trust: Trust) -> Manifest:
    """Check the signature and every file of a version's directory; return its manifest.

    Raises:
        ReleaseError: the manifest is missing, invalid or not signed with a trusted key; a file is missing, changed or
            extra; or the model file (the plans) is not that of the manifest.
    """
    manifest = read_manifest(directory, trust)
    try:
        paths = {entry.name: entry for entry in directory.iterdir() if entry.name not in (MANIFEST, SIGNATURE)}
        for name in sorted(paths.keys() | manifest.files.keys()):
            path = directory / name
            if name not in manifest.files:
                raise ReleaseError(f"{path}: not in the manifest; a version holds its own files and no others, move it")
            if name not in paths:
                raise ReleaseError(f"{path}: missing; publish the version again")
            # A link can be pointed elsewhere after the check.
            if path.is_symlink() or not path.is_file():
                raise ReleaseError(f"{path}: not a plain file; publish the version again")
            if sha256_file(path) != manifest.files[name]:
                raise ReleaseError(f"{path}: changed after publication (SHA-256 differs); publish the version again")
    except OSError as error:
        raise ReleaseError(f"{error.filename}: {error.strerror}; the version cannot be checked") from error
    if manifest.engine is not None:
        for name in manifest.engine.plans.values():
            if manifest.files.get(name) != manifest.engine.sha256.get(name, ""):
                raise ReleaseError(f"{directory / MANIFEST}: {name} is not the plan that was built; publish it again")
    elif manifest.files.get(MODEL) != manifest.artifact_id:
        raise ReleaseError(f"{directory / MANIFEST}: artifact_id is not the hash of {MODEL}; publish the version again")
    return manifest

"""The transport to the engine in this process."""

import time

import numpy as np
from numpy.typing import NDArray

from lobsmith.errors import LobsmithError, ReleaseError, ServingError
from lobsmith.release.repository.repository import Repository
from lobsmith.serving.engine import Engine
from lobsmith.serving.score_engine import ScoreModels
from lobsmith.trading.transport.base import Answer, DriftScore, ModelShape, check_in_time, checked_answer, checked_score

Float32 = NDArray[np.float32]


class InProcessTransport:
    """The engine in this process, on the model repository."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._engines: dict[tuple[str, int], Engine] = {}
        self._broken: set[tuple[str, int]] = set()
        self._scores = ScoreModels(repository)

    def versions(self, model: str) -> list[int]:
        """Return the listed versions, ascending; newest ones that cannot be loaded are left out.

        Of companions none: this process runs the ONNX models.
        """
        try:
            if self._repository.is_companion(model):
                return []
            listed = sorted(self._repository.listed(model)) if model in self._repository.models() else []
        except (OSError, ReleaseError) as error:
            raise ServingError(f"{model}: the repository cannot be read: {error}") from error
        for name, version in list(self._engines):
            if name == model and version not in listed:
                del self._engines[name, version]
        while listed and not self._loads(model, listed[-1]):
            listed.pop()
        return [version for version in listed if (model, version) not in self._broken]

    def describe(self, model: str) -> ModelShape:
        """See `Transport.describe`."""
        versions = self.versions(model)
        if not versions:
            raise ServingError(f"{model}: the repository lists no version that can be served; publish one first")
        manifest = self._engine(model, versions[-1]).manifest
        return ModelShape(
            feature_count=manifest.contract.feature_count,
            state_size=manifest.contract.state_size,
            horizons=len(manifest.contract.horizons_ms),
            prime_rows=manifest.prime_rows,
            definitions_sha256=manifest.contract.definitions_sha256,
            instruments=tuple(map(str, manifest.instruments)),
        )

    def infer(self, model: str, version: int, features: Float32, state: Float32, deadline_s: float) -> Answer:
        """See `Transport.infer`."""
        started = time.monotonic()
        try:
            engine = self._engines.get((model, version)) or self._engine(model, version)
        except ReleaseError as error:
            raise ServingError(str(error)) from error
        answer = engine.infer(features, state)
        check_in_time("in process", started, deadline_s)
        return checked_answer(f"in process: {model}", version, engine.version, features, state, answer._asdict().get)

    def score(self, model: str, version: int, rows: Float32, deadline_s: float) -> DriftScore:
        """See `Transport.score`."""
        started = time.monotonic()
        outputs = self._scores.run(model, version, rows[np.newaxis])
        check_in_time("in process", started, deadline_s)
        return checked_score(f"in process: {model}", version, version, rows, outputs.get)

    def close(self) -> None:
        """Drop the loaded models."""
        self._engines.clear()
        self._scores.close()

    def _loads(self, model: str, version: int) -> bool:
        if (model, version) in self._broken:
            return False
        try:
            self._engine(model, version)
        except LobsmithError:
            self._broken.add((model, version))
            return False
        return True

    def _engine(self, model: str, version: int) -> Engine:
        engine = self._engines.get((model, version))
        if engine is None:
            if version not in self._repository.listed(model):
                raise ServingError(f"{model}/{version}: not a listed version")
            engine = Engine(self._repository.directory(model, version), self._repository.trust)
            # The first run allocates and is many times slower.
            contract = engine.manifest.contract
            engine.infer(
                np.zeros((1, 1, contract.feature_count), np.float32), np.zeros((1, contract.state_size), np.float32)
            )
            self._engines[model, version] = engine
        return engine

"""`config.pbtxt`: a model's Triton configuration, generated from the wire contract, for every server alike."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import (
    TYPE_FP32,
    ModelConfig,
    ModelDynamicBatching,
    ModelInstanceGroup,
    ModelVersionPolicy,
    ModelWarmup,
)

from lobsmith.compress import MODEL
from lobsmith.compress.tensorrt.plan import EngineBuild
from lobsmith.errors import ReleaseError
from lobsmith.market.instrument import Instrument
from lobsmith.release.version.contract import (
    CLASSES,
    CONTRIBUTIONS,
    FEATURES,
    MAX_ROWS,
    NEXT_STATE,
    OUTLOOK,
    OUTLOOKS,
    PROBABILITIES,
    ROWS,
    SCORE,
    STATE,
    WireContract,
)
from lobsmith.release.version.names import PLANS_SUFFIX, SCORE_SUFFIX

CONFIG = "config.pbtxt"
BACKEND = "onnxruntime"
PLANS_BACKEND = "tensorrt"
DEFINITIONS = "definitions_sha256"
HORIZONS = "horizons_ms"
PRIME_ROWS = "prime_rows"
STATE_SIZE = "state_size"
INSTRUMENTS = "instruments"


def config_text(
    model: str,
    contract: WireContract,
    *,
    versions: Sequence[int],
    prime_rows: int,
    max_batch: int,
    warmup: int,
    instances: int = 1,
    engine: EngineBuild | None = None,
    instruments: Iterable[Instrument] = (),
) -> str:
    """Return a model's `config.pbtxt`; all listed versions share its names of plans and profiles.

    Args:
        model: name of the model.
        contract: tensors and definitions.
        versions: to be loaded; the highest is active.
        prime_rows: see `prime_rows_for`.
        max_batch: most requests in one execution.
        warmup: single-row inferences before a version is READY; 0 for none.
        instances: copies of the network that answer concurrently.
        engine: of TensorRT plans; None for ONNX.
        instruments: that the newest version was trained on, for clients without its manifest.
    """
    if engine is not None:
        # Triton may run a batch in any profile: the narrowest bounds it.
        max_batch = min(max_batch, *(profile.batch[2] for profile in engine.profiles))
    config = ModelConfig(
        name=model,
        backend=BACKEND if engine is None else PLANS_BACKEND,
        # No default for plans: a GPU without a plan must not get that of another capability.
        default_model_filename=MODEL if engine is None else "",
        cc_model_filenames=None if engine is None else engine.plans,
        max_batch_size=max_batch,
        dynamic_batching=_batching(),
        version_policy=_listed(versions),
    )
    horizons = len(contract.horizons_ms)
    config.input.add(name=FEATURES, data_type=TYPE_FP32, dims=[-1, contract.feature_count])
    config.input.add(name=STATE, data_type=TYPE_FP32, dims=[contract.state_size])
    config.output.add(name=PROBABILITIES, data_type=TYPE_FP32, dims=[-1, horizons, len(CLASSES)])
    config.output.add(name=OUTLOOK, data_type=TYPE_FP32, dims=[-1, horizons, len(OUTLOOKS)])
    config.output.add(name=NEXT_STATE, data_type=TYPE_FP32, dims=[contract.state_size])
    if engine is None:
        config.instance_group.add(kind=ModelInstanceGroup.KIND_CPU, count=instances)
    else:
        profiles = [str(index) for index in range(len(engine.profiles))]
        config.instance_group.add(kind=ModelInstanceGroup.KIND_GPU, count=instances, profile=profiles)
    if warmup:
        # Triton's random_data is random bytes: as floats, 0.4 % are not finite and the rest reach 1e38.
        config.model_warmup.add(
            name="one_tick",
            batch_size=1,
            count=warmup,
            inputs={
                FEATURES: ModelWarmup.Input(data_type=TYPE_FP32, dims=[1, contract.feature_count], zero_data=True),
                STATE: ModelWarmup.Input(data_type=TYPE_FP32, dims=[contract.state_size], zero_data=True),
            },
        )
    _bind(config, contract)
    config.parameters[PRIME_ROWS].string_value = str(prime_rows)
    if names := ",".join(map(str, instruments)):
        config.parameters[INSTRUMENTS].string_value = names
    return str(text_format.MessageToString(config))


def score_config_text(
    model: str, contract: WireContract, *, versions: Sequence[int], max_batch: int, warmup: int
) -> str:
    """Return the `config.pbtxt` of a model's drift score; arguments as for `config_text`."""
    config = ModelConfig(
        name=model,
        backend=BACKEND,
        default_model_filename=MODEL,
        max_batch_size=max_batch,
        dynamic_batching=_batching(),
        version_policy=_listed(versions),
    )
    features = contract.feature_count
    config.input.add(name=ROWS, data_type=TYPE_FP32, dims=[-1, features])
    config.output.add(name=SCORE, data_type=TYPE_FP32, dims=[1])
    config.output.add(name=CONTRIBUTIONS, data_type=TYPE_FP32, dims=[features])
    config.instance_group.add(kind=ModelInstanceGroup.KIND_CPU, count=1)
    if warmup:
        zeros = ModelWarmup.Input(data_type=TYPE_FP32, dims=[MAX_ROWS, features], zero_data=True)
        config.model_warmup.add(name="one_block", batch_size=1, count=warmup, inputs={ROWS: zeros})
    _bind(config, contract)
    # The score has no state: this completes the contract, which is the model's.
    config.parameters[STATE_SIZE].string_value = str(contract.state_size)
    return str(text_format.MessageToString(config))


def _batching() -> Any:
    # No queue delay: a batch is what queued during the last execution; no request waits for others.
    return ModelDynamicBatching(max_queue_delay_microseconds=0)


def _listed(versions: Sequence[int]) -> Any:
    return ModelVersionPolicy(specific=ModelVersionPolicy.Specific(versions=sorted(versions)))


def _bind(config: Any, contract: WireContract) -> None:
    config.parameters[DEFINITIONS].string_value = contract.definitions_sha256
    config.parameters[HORIZONS].string_value = ",".join(map(str, contract.horizons_ms))


def prime_rows_for(measured: Iterable[int]) -> int:
    """Return the rows that prime each of several versions: the largest figure, rounded up to a power of two.

    Rounded, because any change but of the version policy makes Triton reload every version.

    >>> prime_rows_for([70, 90])
    128
    """
    return 1 << (max(measured) - 1).bit_length()


def read_config(path: Path) -> Any:
    """Return a `config.pbtxt` as Triton's `ModelConfig` message.

    Raises:
        ReleaseError: it cannot be read or is not a model configuration.
    """
    try:
        return text_format.Parse(path.read_text(), ModelConfig())
    except (OSError, UnicodeDecodeError) as error:
        raise ReleaseError(f"{path}: not readable: {error}") from error
    except text_format.ParseError as error:
        raise ReleaseError(f"{path}:{error}; not a Triton model configuration, restore it from a backup") from error


def is_plans(model: str, config: Any) -> bool:
    """Return whether a `ModelConfig` is that of TensorRT plans."""
    return model.endswith(PLANS_SUFFIX) and bool(config.backend == PLANS_BACKEND)


def is_score(model: str, config: Any) -> bool:
    """Return whether a `ModelConfig` is that of a drift score."""
    return model.endswith(SCORE_SUFFIX) and [tensor.name for tensor in config.input] == [ROWS]


def listed_versions(config: Any) -> list[int]:
    """Return the versions in the policy of a `ModelConfig`, rising; none unless it is `specific`."""
    return sorted(set(config.version_policy.specific.versions))


def listing(config: Any, versions: Sequence[int]) -> str:
    """Return the text of `config` with other versions listed."""
    changed = ModelConfig()
    changed.CopyFrom(config)
    changed.version_policy.specific.versions[:] = sorted(versions)
    return str(text_format.MessageToString(changed))


def configured_contract(path: Path) -> WireContract:
    """Return the wire contract of a `config.pbtxt`.

    Raises:
        ReleaseError: it cannot be read, or was not written by lobsmith.
    """
    config = read_config(path)
    inputs = {tensor.name: list(tensor.dims) for tensor in config.input}
    try:
        return WireContract(
            feature_count=inputs[ROWS if ROWS in inputs else FEATURES][1],
            state_size=int(config.parameters[STATE_SIZE].string_value) if ROWS in inputs else inputs[STATE][0],
            horizons_ms=tuple(int(horizon) for horizon in config.parameters[HORIZONS].string_value.split(",")),
            definitions_sha256=config.parameters[DEFINITIONS].string_value,
        )
    except (KeyError, IndexError, ValueError) as error:
        raise ReleaseError(f"{path}: not a configuration that lobsmith wrote; choose another model.name") from error

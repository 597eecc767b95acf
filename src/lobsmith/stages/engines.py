"""TensorRT plans of the network that is served: built where it can be done, and held against PyTorch on a GPU."""

from collections.abc import Callable
from pathlib import Path

from lobsmith.compress import FP32, MODEL
from lobsmith.compress.graph.fp16 import convert_half
from lobsmith.compress.runtime import OnnxModel, StatefulModel
from lobsmith.compress.tensorrt.build import available_builder, build_engine
from lobsmith.compress.tensorrt.plan import EngineBuild
from lobsmith.errors import EngineError
from lobsmith.evaluation.fidelity import fidelity
from lobsmith.evaluation.stream import stream_predictions
from lobsmith.features.dataset import load_dataset, training_datasets
from lobsmith.gates.compression import Compressed, budget_verdict
from lobsmith.gates.parity import parity
from lobsmith.models.split import longest_run
from lobsmith.models.train import load_network
from lobsmith.models.training_data import parts_of
from lobsmith.params import Params
from lobsmith.verdict import Verdict

ENGINE_DIRECTORY = "engine"
_INT8 = "int8"


def build_plans(
    params: Params,
    directory: Path,
    summary: Compressed,
    *,
    cache: Path | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> EngineBuild | None:
    """Build plans of the chosen network into the run's folder; None where the parameters and the machine say none.

    Args:
        params: all of `params.yaml`; `engine` says for what and how.
        directory: the run's folder, after the compress stage.
        summary: what that stage found out.
        cache: folder of timing caches.
        on_progress: called with what is built next.

    Raises:
        EngineError: the plans cannot be built, or the candidate that is served is not one of float32.
    """
    if available_builder(params.engine) is None:
        return None
    precision = params.engine.precision
    if summary.precision != FP32:
        raise EngineError(
            f"{directory}: plans are held against a float32 candidate and the one served is {summary.name}; "
            "name another in compress.candidate"
        )
    source = engine_source(directory / summary.network, precision)
    place = directory / ENGINE_DIRECTORY
    return build_engine(source, place, params.engine, precision=precision, cache=cache, on_progress=on_progress)


def engine_source(network: Path, precision: str) -> Path:
    """Return the ONNX file that plans of a precision are built from, made where it is not there yet.

    Args:
        network: a network's folder among the candidates.
        precision: fp32, fp16, bf16 or int8.

    Raises:
        EngineError: int8 is wanted and `int8_static` is not among the candidates.
    """
    if precision == FP32:
        return network / MODEL
    if precision == _INT8:
        source = network / "int8_static" / MODEL
        if not source.is_file():
            raise EngineError(f"{source}: no such file; add int8_static to compress.precisions")
        return source
    source = network / f"{precision}.onnx"
    convert_half(network / MODEL, source, "fp16" if precision == "fp16" else "bf16")
    return source


def judge_plans(params: Params, directory: Path, summary: Compressed, model: StatefulModel) -> tuple[Verdict, ...]:
    """Hold an engine against PyTorch, and what it loses on the test rows against the budget of the candidates.

    A compiler may lose accuracy that neither the network nor its file has lost, so the engine itself is asked.

    Args:
        params: all of `params.yaml`.
        directory: the run's folder.
        summary: what the compress stage found out.
        model: the engine.
    """
    part = parts_of([load_dataset(path) for path in training_datasets(params, directory)], params.split)[0]
    dataset, rows, place = part.dataset, part.split.test, directory / summary.network
    start, stop = longest_run(dataset, rows)
    limit = params.gates.parity.of(params.engine.precision)
    same = parity(load_network(place).network, model, dataset.rows.features[start:stop], limit)
    if same.value is None:
        return (same,)
    said, reference = (stream_predictions(one, dataset, rows)[0] for one in (model, OnnxModel(place / MODEL)))
    lost = fidelity(dataset, rows, said, reference, params.train.horizon_weights)
    return same, budget_verdict(lost, params.compress, {"engine": params.engine.precision})


def open_engine(directory: Path) -> StatefulModel:
    """Open the plans in a run's folder on this machine's GPU.

    Raises:
        EngineError: there is no GPU, or no plan that fits it.
    """
    # It needs a build of PyTorch for CUDA, which a machine that only builds plans need not have.
    from lobsmith.compress.tensorrt.run import EngineModel

    return EngineModel(directory / ENGINE_DIRECTORY)

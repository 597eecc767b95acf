"""TensorRT plans of the served network: built where possible, and compared with PyTorch on a GPU."""

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
    """Build plans of the chosen network into the run's folder; None where parameters or machine allow none.

    Args:
        params: all of `params.yaml`.
        directory: the run's folder, after the compress stage.
        summary: of the compress stage.
        cache: folder of timing caches.
        on_progress: called with what is built next.

    Raises:
        EngineError: the plans cannot be built, or the served candidate is not float32.
    """
    if available_builder(params.engine) is None:
        return None
    precision = params.engine.precision
    if summary.precision != FP32:
        raise EngineError(
            f"{directory}: plans are compared with a float32 candidate and {summary.name} is served; "
            "name another in compress.candidate"
        )
    source = engine_source(directory / summary.network, precision)
    place = directory / ENGINE_DIRECTORY
    return build_engine(source, place, params.engine, precision=precision, cache=cache, on_progress=on_progress)


def engine_source(network: Path, precision: str) -> Path:
    """Return the ONNX file that plans of a precision are built from; it is made if missing.

    Args:
        network: a network's folder among the candidates.
        precision: fp32, fp16, bf16 or int8.

    Raises:
        EngineError: int8 without an `int8_static` candidate.
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


def plan_verdicts(params: Params, directory: Path, summary: Compressed, model: StatefulModel) -> tuple[Verdict, ...]:
    """Return the verdicts on an engine: parity with PyTorch, and its losses on the test rows within the candidates'
    budget.

    Args:
        params: all of `params.yaml`.
        directory: the run's folder.
        summary: of the compress stage.
        model: the engine.
    """
    part = parts_of([load_dataset(path) for path in training_datasets(params, directory)], params.split)[0]
    dataset, rows, place = part.dataset, part.split.test, directory / summary.network
    start, stop = longest_run(dataset, rows)
    limit = params.gates.parity.of(params.engine.precision)
    same = parity(load_network(place).network, model, dataset.rows.features[start:stop], limit)
    if same.value is None:
        return (same,)
    predicted, reference = (
        stream_predictions(answering, dataset, rows)[0] for answering in (model, OnnxModel(place / MODEL))
    )
    lost = fidelity(dataset, rows, predicted, reference, params.train.horizon_weights)
    return same, budget_verdict(lost, params.compress, {"engine": params.engine.precision})


def open_engine(directory: Path) -> StatefulModel:
    """Open the plans in a run's folder on this machine's GPU.

    Raises:
        EngineError: there is no GPU, or no plan that fits it.
    """
    # Needs a CUDA build of PyTorch, which a machine that only builds plans may lack.
    from lobsmith.compress.tensorrt.run import EngineModel

    return EngineModel(directory / ENGINE_DIRECTORY)

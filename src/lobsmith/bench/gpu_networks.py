"""Networks of the GPU benchmark: the project's by step and by window, and an audited shape."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lobsmith.compress.export import OPSET
from lobsmith.errors import LobsmithError
from lobsmith.features.definitions import COUNT
from lobsmith.models.networks.network import Network
from lobsmith.models.networks.outputs import MOVE, OUTLOOKS
from lobsmith.models.networks.recurrent import Lstm
from lobsmith.models.networks.registry import build
from lobsmith.models.train import load_network
from lobsmith.params import Params

WINDOW = 100
"""Rows of a window."""
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_FEATURES, _HIDDEN, _LAYERS = 50, 100, 2
_MOVE_BPS = OUTLOOKS.index("move_bps")
_SEED = 7
_SPREAD = 0.1
_WARM_STREAMS = 64


class Step(nn.Module):
    """One row of each stream: features float32 [B, 1, F] and state float32 [B, S] to predictions and the next state.

    Encoder and heads compute in `dtype`; inputs, outputs, standardisation and calibration are float32, as raw features
    need not fit into a half.
    """

    def __init__(self, network: Network, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = copy.deepcopy(network)
        self.dtype = dtype
        for part in (self.network.trunk, self.network.readout, self.network.linear):
            if part is not None:
                part.to(dtype)

    def forward(self, features: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        """Return probabilities [B, 1, H, 3], outlook [B, 1, H, 5] and the next state [B, S]."""
        inputs = self.network.standardise(features).to(self.dtype)
        outputs, next_state = self.network.step(inputs, state.to(self.dtype))
        probabilities, outlook = self.network.calibration(outputs.float())
        return probabilities, outlook, next_state.float()


class Window(Step):
    """A window of rows from a cold state: features float32 [B, 100, F] to the last row's predictions."""

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Return probabilities [B, 1, H, 3] and outlook [B, 1, H, 5] of the last row."""
        cold = features.new_zeros(features.shape[0], self.network.state_size)
        probabilities, outlook, _ = super().forward(features, cold)
        return probabilities[:, -1:].contiguous(), outlook[:, -1:].contiguous()


class LstmA(nn.Module):
    """The LSTM_A shape of STAC-ML Markets (Inference): 100 rows of 50 features, 2 × 100 LSTM units, one output.

    A sliding window: each new row computes all 100 anew. The audited model's weights are not public; these are random,
    of a network as the project serves it, so that it has an engine too.
    """

    def __init__(self, network: Network, dtype: torch.dtype) -> None:
        super().__init__()
        assert isinstance(network.trunk, Lstm)  # noqa: S101
        assert network.readout is not None  # noqa: S101
        self.lstm = copy.deepcopy(network.trunk.lstm)
        self.readout = nn.Linear(_HIDDEN, 1)
        self.readout.load_state_dict(
            {name: value[MOVE : MOVE + 1] for name, value in network.readout.state_dict().items()}
        )
        self.dtype = dtype
        self.to(dtype)

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Return the output [B, 1] of windows float32 [B, 100, 50]."""
        recurrent, _ = self.lstm(features.to(self.dtype))
        return (self.readout(recurrent[:, -1]).float(),)


@dataclass(frozen=True)
class Case:
    """A network in one use.

    Attributes:
        name: `step`, `window` or `lstm_a`.
        make: builds it for a precision, on the CPU.
        inputs, outputs: the tensors' names, as exported.
        rows: T of a call.
        features: F.
        network: what the served file is exported from.
        from_served: picks the outputs from the served file's answers to the same rows.
    """

    name: str
    make: Callable[[torch.dtype], nn.Module]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    rows: int
    features: int
    network: Network
    from_served: Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]

    def example(self, batch: int) -> tuple[Tensor, ...]:
        """Return inputs as float32 on the CPU: normal features, and the state of streams after a window."""
        generator = torch.Generator().manual_seed(_SEED)
        features = torch.randn(batch, self.rows, self.features, generator=generator)
        if "state" not in self.inputs:
            return (features,)
        streams = min(batch, _WARM_STREAMS)
        rows = torch.randn(streams, WINDOW, self.features, generator=generator)
        with torch.no_grad():
            _, state = self.network(rows, self.network.cold_state(streams))
        return features, state.repeat(-(-batch // streams), 1)[:batch].contiguous()


def cases(params: Params, directory: Path | None, names: tuple[str, ...]) -> list[Case]:
    """Return the chosen cases; the network is the one trained in `directory`, or has random weights."""
    if directory is None:
        network = _with_random_weights(lambda: build(params.model, COUNT, params.labels.horizons_ms))
    else:
        network = load_network(directory).network
    lstm_a = _lstm_a_network()
    predictions = ("probabilities", "outlook")
    available = (
        Case(
            name="step",
            make=lambda dtype: Step(network, dtype),
            inputs=("features", "state"),
            outputs=(*predictions, "next_state"),
            rows=1,
            features=network.features,
            network=network,
            from_served=lambda answers: answers,
        ),
        Case(
            name="window",
            make=lambda dtype: Window(network, dtype),
            inputs=("features",),
            outputs=predictions,
            rows=WINDOW,
            features=network.features,
            network=network,
            from_served=lambda answers: tuple(answer[:, -1:] for answer in answers[:2]),
        ),
        Case(
            name="lstm_a",
            make=lambda dtype: LstmA(lstm_a, dtype),
            inputs=("features",),
            outputs=("output",),
            rows=WINDOW,
            features=_FEATURES,
            network=lstm_a,
            from_served=lambda answers: (answers[1][:, -1, 0, _MOVE_BPS : _MOVE_BPS + 1],),
        ),
    )
    unknown = set(names) - {case.name for case in available}
    if unknown:
        raise LobsmithError(
            f"networks are {', '.join(case.name for case in available)}; there is no {sorted(unknown)[0]}"
        )
    return [case for case in available if case.name in names]


def _lstm_a_network() -> Network:
    def trunk(location: Tensor, _scale: Tensor) -> nn.Module:
        return Lstm(len(location), hidden=_HIDDEN, layers=_LAYERS)

    return _with_random_weights(lambda: Network(_FEATURES, 1, trunk, linear=False))


def _with_random_weights(make: Callable[[], Network]) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        network = make().eval()
        # An untrained readout is all zeros: its answers would not depend on the inputs.
        for readout in (network.readout, network.linear):
            for parameter in () if readout is None else readout.parameters():
                nn.init.normal_(parameter, std=_SPREAD)
    return network


def count_flops(case: Case) -> int:
    """Return a stream's floating-point operations in products and convolutions of a call; a multiply-add counts two.

    For an LSTM these are 8 H (I + H) a row and layer: four gates of H units over I inputs and H units of the row before
    (Hochreiter & Schmidhuber 1997; Gers et al. 2000). Activations and sums are left out.
    """
    module: nn.Module = case.make(torch.float32).eval().to("meta")
    inputs = [tensor.to("meta") for tensor in case.example(1)]
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        module(*inputs)
    return int(counter.get_total_flops())


def weight_bytes(module: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in (*module.parameters(), *module.buffers()))


def export_static(case: Case, batch: int, path: Path) -> None:
    """Write a case as ONNX with all shapes fixed."""
    with warnings.catch_warnings():
        # The tracer warns of fixed shapes, which are meant here.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            case.make(torch.float32).eval(),
            case.example(batch),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=list(case.inputs),
            output_names=list(case.outputs),
        )

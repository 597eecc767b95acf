"""What a retrain learns from, what it learns, and what is made of the trained network."""

from typing import Annotated, Literal

from msgspec import Meta

from lobsmith.params.section import LARGEST_CHUNK, Name, Positive, PositiveFloat, Section, Share, Weight

NetworkName = Literal["cnn_lstm_attention", "lstm", "volatility", "logistic", "queue_imbalance", "deeplob", "bin_ctabl"]
PrecisionName = Literal["fp32", "int8_dynamic", "int8_static", "fp16", "bf16"]


class WindowParams(Section, frozen=True):
    """Which data a retrain learns from."""

    length_s: PositiveFloat
    """Length of the window, which ends with the newest row, s."""
    minimum_coverage: Share
    """Least share of the window that lies inside gap-free segments, 0..1."""
    minimum_rows: Positive
    """Least number of rows with a complete feature vector and all labels."""


class FeatureParams(Section, frozen=True):
    """Constants of the feature kernel; part of the wire contract."""

    normaliser_rows: Annotated[int, Meta(ge=2, le=100_000)]
    """Rows that z-scores are taken over."""
    normaliser_minimum: Annotated[int, Meta(ge=2)]
    """Rows before the first z-score counts as complete."""
    flow_decays_s: tuple[PositiveFloat, PositiveFloat, PositiveFloat, PositiveFloat]
    """Decay times of order flow, signed trades and rate of trades, s; the last also of the rate of rows."""
    size_decay_s: PositiveFloat
    """Decay time of the usual size at the touch, which is the unit of all flows, s."""
    volatility_short_s: PositiveFloat
    """Decay time of the shorter variance behind `volatility_burst`, s."""
    volatility_long_s: PositiveFloat
    """Decay time of the longer variance behind `volatility_burst`, s."""


class LabelParams(Section, frozen=True):
    """What is predicted; part of the wire contract."""

    horizons_ms: Annotated[tuple[Positive, ...], Meta(min_length=1)]
    """Local receive times after which the mid's direction is predicted, rising, ms."""
    significant_bps: PositiveFloat
    """Least move of the mid that is worth acting on, bps."""
    withdrawal: Annotated[float, Meta(gt=0, lt=1)]
    """Share of a side's visible depth that must go within the horizon to be a withdrawal, 0..1."""


class SplitParams(Section, frozen=True):
    """How the window is cut, in time order."""

    test: Annotated[float, Meta(gt=0, lt=1)]
    """Share of the window's usable rows, its newest, that test, 0..1."""
    validation: Annotated[float, Meta(gt=0, lt=1)]
    """Share of the rest, its newest rows, that validate, 0..1; what is left trains."""
    embargo_ms: Annotated[int, Meta(ge=0)]
    """Time after a boundary whose rows are left out, besides those whose label looks across it, ms."""


class ModelParams(Section, frozen=True):
    """The network and the name it is served under."""

    name: Name
    """Name of the Triton model and of the registered model in MLflow."""
    network: NetworkName
    """Architecture; the sizes below are those of `cnn_lstm_attention`."""
    channels: Positive
    """Channels of each convolution, count."""
    hidden: Positive
    """Hidden units of each LSTM layer, count."""
    layers: Positive
    """LSTM layers, count."""
    ring: Positive
    """Newest rows that attention looks back over, the present one included."""
    attention: Positive
    """Width of attention's queries, keys and values, count."""


class LossParams(Section, frozen=True):
    """Weights of the loss's terms."""

    direction: Weight
    """Weight of the cross-entropy of the direction."""
    significant: Weight
    """Weight of the cross-entropy of a significant move."""
    withdrawal: Weight
    """Weight of the cross-entropy of a withdrawal, each side."""
    move: Weight
    """Weight of the squared error of the expected move, in units of its RMS."""
    volatility: Weight
    """Weight of the squared error of the realised volatility, in units of its RMS."""
    hinge: Weight
    """Weight of the hinge on expected moves on the wrong side of half a significant one."""
    false_alarm: Weight
    """Factor of the hinge for an expected move that did not come, beside 1 for a missed one."""


class TrainParams(Section, frozen=True):
    """The training loop."""

    seed: int
    """Seed of the initial weights and of all draws."""
    threads: Positive
    """Threads of PyTorch, count; runs with another count are not bit-identical."""
    device: Literal["auto", "cpu", "cuda"]
    """Where to train; `auto` takes a GPU where there is one."""
    precision: Literal["float32", "bfloat16"]
    """Arithmetic of the training steps; `bfloat16` is mixed precision."""
    epochs: Positive
    """Epochs of training at most, count."""
    sequence: Positive
    """Rows of a sequence that the loss is taken over."""
    burn_in: Annotated[int, Meta(ge=0)]
    """Rows before those of the loss that only warm the state."""
    pool: bool
    """Whether to train on all tradable instruments, not only on `data.instrument`."""
    batch: Positive
    """Sequences of a gradient step, count."""
    accumulation: Positive
    """Parts that a batch is computed in, for small memories, count."""
    sequences_per_epoch: Positive
    """Sequences that an epoch draws, count."""
    windows_per_epoch: Positive
    """Windows that an epoch of `deeplob` or `bin_ctabl` draws, count."""
    window_batch: Positive
    """Windows of a gradient step of `deeplob` or `bin_ctabl`, count."""
    window_patience: Positive
    """`patience` of `deeplob` and `bin_ctabl`, epochs."""
    learning_rate: PositiveFloat
    """Learning rate that training starts with."""
    smallest_rate: PositiveFloat
    """Learning rate that halving does not go below."""
    weight_decay: Weight
    """Weight decay of AdamW."""
    gradient_clip: PositiveFloat
    """Largest norm of a gradient; a longer one is scaled down to it."""
    patience: Positive
    """Epochs without a better validation loss before training stops, count."""
    rate_patience: Positive
    """Epochs without a better validation loss before the learning rate is halved, count."""
    prior: Weight
    """Deviation of the prior of the weights that outputs are sums of; 0 for none."""
    priority: Annotated[float, Meta(ge=1)]
    """Times as often a sequence with a significant move is drawn, in the draws that are not uniform."""
    uniform_share: Annotated[float, Meta(ge=0, le=1)]
    """Share of the draws without priority, 0..1; no sequence counts more than its inverse."""
    mirror: Annotated[float, Meta(ge=0, le=1)]
    """Share of sequences seen upside down, bids for asks and up for down, 0..1."""
    feature_dropout: Annotated[float, Meta(ge=0, lt=1)]
    """Share of the features that are hidden from a sequence, 0..1."""
    horizon_weights: tuple[Weight, ...]
    """Weight of each of `labels.horizons_ms` in the loss."""
    calibration_prior: PositiveFloat
    """Deviation of the prior of log scales and biases of the calibration."""
    loss: LossParams
    """Weights of the loss's terms."""


class CompressParams(Section, frozen=True):
    """Which candidates are made of a trained network, and what the chosen one may lose."""

    use: Literal["step", "chunk", "batch"]
    """What must be fast: `step` (one row), `chunk` (32 rows of one stream) or `batch` (one row of each of 32)."""
    pruning: tuple[Annotated[float, Meta(gt=0, lt=1)], ...]
    """Shares of channels and hidden units that are taken away, 0..1, a network each."""
    fine_tune_epochs: Positive
    """Epochs in which a pruned network is distilled from the trained one, count."""
    precisions: Annotated[tuple[PrecisionName, ...], Meta(min_length=1)]
    """Precisions that each network is made in."""
    calibration: Literal["percentile", "entropy"]
    """How `int8_static` finds the range of an activation."""
    percentile: Annotated[float, Meta(gt=50, le=100)]
    """Percentile of an activation's magnitude that its range ends at, percent."""
    calibration_rows: Annotated[int, Meta(ge=64)]
    """Training rows that ranges are measured on, at most, half of them around significant moves."""
    log_loss: Weight
    """Budget: relative rise of the log-loss, upper end of the 95 % interval."""
    agreement: Share
    """Budget: least share of directions that are FP32's, 0..1."""
    calls: Annotated[int, Meta(ge=100, le=1_000_000)]
    """Timed steps of each candidate, in turn with FP32's, count; of chunks and batches a quarter."""
    candidate: str
    """Name of the one to take whatever its speed; empty for the fastest inside the budget."""

    def __post_init__(self) -> None:
        """Refuse a choice that has nothing to fall back to."""
        if "fp32" not in self.precisions:
            raise ValueError("compress.precisions must have fp32: every other candidate is held against it")
        for name, values in (("pruning", [f"{share:.2%}" for share in self.pruning]), ("precisions", self.precisions)):
            if len(set(values)) != len(values):
                raise ValueError(f"compress.{name} names one of them twice")


class EngineParams(Section, frozen=True):
    """How TensorRT plans are built."""

    builder: Literal["auto", "tensorrt", "tensorrt_rtx", "none"]
    """Package that builds plans; `auto` takes TensorRT where it is installed with a GPU, `none` builds none."""
    precision: Literal["fp32", "fp16", "bf16", "int8"]
    """Precision of the plans."""
    capabilities: tuple[Annotated[str, Meta(pattern=r"^\d{1,2}\.\d$")], ...]
    """Compute capabilities of GPUs to build for, as `8.9`; empty for that of this machine's GPU."""
    largest_batch: Annotated[int, Meta(ge=1, le=65_536)]
    """Largest batch of requests that a plan takes, count."""
    largest_chunk: Annotated[int, Meta(ge=1, le=256)]
    """Most rows of a request that a plan takes."""
    deadline_s: PositiveFloat
    """Time after which a build is killed, s."""
    memory_mib: Annotated[int, Meta(ge=256)]
    """Most resident memory of a build, MiB; its workspace is a quarter of it."""

    def __post_init__(self) -> None:
        """Refuse plans that could not be served."""
        if self.builder in ("auto", "tensorrt") and self.largest_chunk != LARGEST_CHUNK:
            raise ValueError(f"engine.largest_chunk must be {LARGEST_CHUNK}: a request may carry as many rows")

"""Data, labels, training and compression of a network."""

from typing import Annotated, Literal

from msgspec import Meta

from lobsmith.params.section import LARGEST_CHUNK, Name, Positive, PositiveFloat, Section, Share, Weight

NetworkName = Literal["cnn_lstm_attention", "lstm", "volatility", "logistic", "queue_imbalance", "deeplob", "bin_ctabl"]
PrecisionName = Literal["fp32", "int8_dynamic", "int8_static", "fp16", "bf16"]


class WindowParams(Section, frozen=True):
    """Data that a retrain trains on."""

    length_s: PositiveFloat
    """Length of the window, up to the newest row, s."""
    minimum_coverage: Share
    """Least share of the window inside gap-free segments, 0..1."""
    minimum_rows: Positive
    """Fewest rows with complete features and all labels, count."""


class FeatureParams(Section, frozen=True):
    """Constants of the feature kernel; part of the wire contract."""

    normaliser_rows: Annotated[int, Meta(ge=2, le=100_000)]
    """Rows of a z-score's window, count."""
    normaliser_minimum: Annotated[int, Meta(ge=2)]
    """Fewest rows of a complete z-score, count."""
    flow_decays_s: tuple[PositiveFloat, PositiveFloat, PositiveFloat, PositiveFloat]
    """Decay times of order flow, signed trades and rate of trades; the last also of the rate of rows, s."""
    size_decay_s: PositiveFloat
    """Decay time of the average size at the touch, the unit of all flows, s."""
    volatility_short_s: PositiveFloat
    """Decay time of the shorter variance of `volatility_burst`, s."""
    volatility_long_s: PositiveFloat
    """Decay time of the longer variance of `volatility_burst`, s."""


class LabelParams(Section, frozen=True):
    """Prediction targets; part of the wire contract."""

    horizons_ms: Annotated[tuple[Positive, ...], Meta(min_length=1)]
    """Horizons of the mid's direction in local receive time, rising, ms."""
    significant_bps: PositiveFloat
    """Least significant move of the mid, bps."""
    withdrawal: Annotated[float, Meta(gt=0, lt=1)]
    """Share of a side's visible depth that a withdrawal removes within the horizon, 0..1."""


class SplitParams(Section, frozen=True):
    """Cuts of the window, in time order."""

    test: Annotated[float, Meta(gt=0, lt=1)]
    """Share of the usable rows, the newest, that test, 0..1."""
    validation: Annotated[float, Meta(gt=0, lt=1)]
    """Share of the rest, its newest rows, that validate, 0..1."""
    embargo_ms: Annotated[int, Meta(ge=0)]
    """Time after a boundary whose rows are left out, besides labels that span it, ms."""


class ModelParams(Section, frozen=True):
    """The network and the name it is served under."""

    name: Name
    """Name of the Triton model and of MLflow's registered model."""
    network: NetworkName
    """Architecture; the sizes below are those of `cnn_lstm_attention`."""
    channels: Positive
    """Channels of each convolution, count."""
    hidden: Positive
    """Hidden units of each LSTM layer, count."""
    layers: Positive
    """LSTM layers, count."""
    ring: Positive
    """Newest rows that attention reads, the present one included, count."""
    attention: Positive
    """Width of attention's queries, keys and values, count."""


class LossParams(Section, frozen=True):
    """Weights of the loss's terms."""

    direction: Weight
    """Weight of the direction's cross-entropy."""
    significant: Weight
    """Weight of a significant move's cross-entropy."""
    withdrawal: Weight
    """Weight of a withdrawal's cross-entropy, each side."""
    move: Weight
    """Weight of the expected move's squared error, over its mean square."""
    volatility: Weight
    """Weight of the realised volatility's squared error, over its mean square."""
    hinge: Weight
    """Weight of the hinge on expected moves on the wrong side of half a significant move."""
    false_alarm: Weight
    """Factor of the hinge for a false alarm, 1 for a missed move."""


class TrainParams(Section, frozen=True):
    """The training loop."""

    seed: int
    """Seed of initial weights and draws."""
    threads: Positive
    """Threads of PyTorch, which the bits depend on, count."""
    device: Literal["auto", "cpu", "cuda"]
    """Device; `auto` takes a GPU where there is one."""
    precision: Literal["float32", "bfloat16"]
    """Arithmetic of training; `bfloat16` is mixed precision."""
    epochs: Positive
    """Most epochs, count."""
    sequence: Positive
    """Rows of a sequence in the loss, count."""
    burn_in: Annotated[int, Meta(ge=0)]
    """Rows before those that only warm the state, count."""
    pool: bool
    """Whether to train on all tradable instruments."""
    batch: Positive
    """Sequences of a gradient update, count."""
    accumulation: Positive
    """Parts that a batch is computed in, count."""
    sequences_per_epoch: Positive
    """Sequences drawn in an epoch, count."""
    windows_per_epoch: Positive
    """Windows drawn in an epoch of `deeplob` or `bin_ctabl`, count."""
    window_batch: Positive
    """Windows of a gradient update of `deeplob` or `bin_ctabl`, count."""
    window_patience: Positive
    """`patience` of `deeplob` and `bin_ctabl`, epochs."""
    learning_rate: PositiveFloat
    """Initial learning rate."""
    smallest_rate: PositiveFloat
    """Lower bound of the halved learning rate."""
    weight_decay: Weight
    """Weight decay of AdamW."""
    gradient_clip: PositiveFloat
    """Largest norm of a gradient."""
    patience: Positive
    """Epochs without a better validation loss before training stops, count."""
    rate_patience: Positive
    """Epochs without a better validation loss before the learning rate is halved, count."""
    prior: Weight
    """Deviation of the prior of output weights; 0 for none."""
    priority: Annotated[float, Meta(ge=1)]
    """Factor by which non-uniform draws prefer sequences with a significant move."""
    uniform_share: Annotated[float, Meta(ge=0, le=1)]
    """Share of uniform draws, whose inverse bounds a sequence's weight, 0..1."""
    mirror: Annotated[float, Meta(ge=0, le=1)]
    """Share of sequences mirrored, bids for asks and up for down, 0..1."""
    feature_dropout: Annotated[float, Meta(ge=0, lt=1)]
    """Share of features hidden from a sequence, 0..1."""
    horizon_weights: tuple[Weight, ...]
    """Weight of each of `labels.horizons_ms` in the loss."""
    calibration_prior: PositiveFloat
    """Deviation of the prior of the calibration's log scales and biases."""
    loss: LossParams
    """Weights of the loss's terms."""


class CompressParams(Section, frozen=True):
    """Compression candidates of a trained network, and the budget of their losses."""

    use: Literal["step", "chunk", "batch"]
    """Timed use: `step` (one row), `chunk` (32 rows of one stream) or `batch` (one row of each of 32)."""
    pruning: tuple[Annotated[float, Meta(gt=0, lt=1)], ...]
    """Shares of channels and hidden units removed, a network each, 0..1."""
    fine_tune_epochs: Positive
    """Epochs of distillation of a pruned network, count."""
    precisions: Annotated[tuple[PrecisionName, ...], Meta(min_length=1)]
    """Precisions of each network."""
    calibration: Literal["percentile", "entropy"]
    """Method for the range of an activation in `int8_static`."""
    percentile: Annotated[float, Meta(gt=50, le=100)]
    """Percentile of an activation's magnitude that ends its range, percent."""
    calibration_rows: Annotated[int, Meta(ge=64)]
    """Most training rows that ranges are measured on, half around significant moves, count."""
    log_loss: Weight
    """Budget: relative rise of the log-loss, upper end of the 95 % interval."""
    agreement: Share
    """Budget: least share of FP32's directions, 0..1."""
    calls: Annotated[int, Meta(ge=100, le=1_000_000)]
    """Timed steps of each candidate, in turn with FP32's; a quarter for chunks and batches, count."""
    candidate: str
    """Candidate to serve whatever its speed; empty for the fastest inside the budget."""

    def __post_init__(self) -> None:
        """Refuse precisions without fp32, and duplicates."""
        if "fp32" not in self.precisions:
            raise ValueError("compress.precisions must have fp32: every other candidate is compared with it")
        for name, values in (("pruning", [f"{share:.2%}" for share in self.pruning]), ("precisions", self.precisions)):
            if len(set(values)) != len(values):
                raise ValueError(f"compress.{name} names one of them twice")


class EngineParams(Section, frozen=True):
    """TensorRT plans."""

    builder: Literal["auto", "tensorrt", "tensorrt_rtx", "none"]
    """Package; `auto` takes TensorRT where it is installed with a GPU, `none` builds none."""
    precision: Literal["fp32", "fp16", "bf16", "int8"]
    """Precision of the plans."""
    capabilities: tuple[Annotated[str, Meta(pattern=r"^\d{1,2}\.\d$")], ...]
    """Compute capabilities to build for, as `8.9`; empty for this machine's GPU."""
    largest_batch: Annotated[int, Meta(ge=1, le=65_536)]
    """Largest batch of requests of a plan, count."""
    largest_chunk: Annotated[int, Meta(ge=1, le=256)]
    """Most rows of a request of a plan, count."""
    deadline_s: PositiveFloat
    """Time after which a build is killed, s."""
    memory_mib: Annotated[int, Meta(ge=256)]
    """Most resident memory of a build, a quarter of it workspace, MiB."""

    def __post_init__(self) -> None:
        """Refuse plans that could not be served."""
        if self.builder in ("auto", "tensorrt") and self.largest_chunk != LARGEST_CHUNK:
            raise ValueError(f"engine.largest_chunk must be {LARGEST_CHUNK}: a request may carry as many rows")

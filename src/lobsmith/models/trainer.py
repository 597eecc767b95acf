"""Gradient descent over sequences: seeded, resumable, bit-identical on CPU for the same seed and thread count."""

import copy
import hashlib
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from msgspec import Struct
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lobsmith.errors import TrainingError
from lobsmith.features.definitions import mirror
from lobsmith.models.checkpoint import load_checkpoint, save_checkpoint
from lobsmith.models.distributed import Group, pick_device, process_group
from lobsmith.models.inference import mean_validation_loss
from lobsmith.models.loss import Loss, Prior, mass
from lobsmith.models.networks.network import Network
from lobsmith.models.networks.registry import architecture
from lobsmith.models.training_data import Material, Part, Sampler, material, seconds_of
from lobsmith.params import Params, TrainParams


class Epoch(Struct, frozen=True, kw_only=True):
    """Losses of an epoch, nats; the validation loss is the directions' cross-entropy over weighted horizons."""

    epoch: int
    train_loss: float
    validation_loss: float
    learning_rate: float


OnEpoch = Callable[[Epoch], None]


class _Batches(Struct, frozen=True, kw_only=True):
    """Sizes of sequences and batches; `batches` an epoch."""

    sequence: int
    burn_in: int
    batch: int
    steps: int
    patience: int


def _batches(params: Params) -> _Batches:
    settings, window = params.train, architecture(params.model.network).window
    if window:
        # Each row costs a window of its own, and shares none with its neighbours: single rows, far apart.
        batch = settings.window_batch
        return _Batches(
            sequence=1,
            burn_in=window - 1,
            batch=batch,
            steps=math.ceil(settings.windows_per_epoch / batch),
            patience=settings.window_patience,
        )
    return _Batches(
        sequence=settings.sequence,
        burn_in=settings.burn_in,
        batch=settings.batch,
        steps=math.ceil(settings.sequences_per_epoch / settings.batch),
        patience=settings.patience,
    )


class _Step(nn.Module):
    """Warm-up and outputs in a single call, as `DistributedDataParallel` requires."""

    def __init__(self, network: Network, burn_in: int) -> None:
        super().__init__()
        self.network, self.burn_in = network, burn_in

    def forward(self, inputs: Tensor) -> Tensor:
        state = self.network.warm(inputs[:, : self.burn_in], self.network.cold_state(len(inputs)))
        outputs: Tensor = self.network.step(inputs[:, self.burn_in :], state)[0]
        return outputs


class _Drawn(Struct):
    """A batch on the device: inputs and targets of whole sequences, with their weights."""

    inputs: Tensor
    direction: Tensor
    binary: Tensor
    move: Tensor
    volatility: Tensor
    weight: Tensor


class _Draws:
    """Samples batches: every process samples the whole batch from the same generator, then takes its share."""

    def __init__(
        self,
        rows: Material,
        cut: _Batches,
        settings: TrainParams,
        hidden: float,
        generator: np.random.Generator,
        device: torch.device,
    ) -> None:
        self._rows, self._cut, self._settings, self._hidden = rows, cut, settings, hidden
        self._generator, self._device = generator, device
        self._sampler = Sampler(
            rows,
            sequence=cut.sequence,
            burn_in=cut.burn_in,
            priority=settings.priority,
            uniform_share=settings.uniform_share,
            generator=generator,
        )
        source, sign = mirror()
        self._source, self._sign = torch.tensor(source), torch.tensor(sign)

    def next(self) -> _Drawn:
        cut, settings, rows = self._cut, self._settings, self._rows
        starts, weight = self._sampler.draw(cut.batch)
        index = torch.from_numpy(starts).unsqueeze(1) + torch.arange(cut.burn_in + cut.sequence)
        inputs, learnt = rows.inputs[index], index[:, cut.burn_in :]
        direction, binary, move = rows.direction[learnt], rows.binary[learnt], rows.move[learnt]
        if settings.mirror:
            flip = torch.from_numpy(self._generator.random(cut.batch) < settings.mirror)
            inputs = torch.where(flip[:, None, None], inputs[:, :, self._source] * self._sign, inputs)
            direction = torch.where(flip[:, None, None] & (direction >= 0), 2 - direction, direction)
            binary = torch.where(flip[:, None, None, None], binary[..., [0, 2, 1]], binary)
            move = torch.where(flip[:, None, None], -move, move)
        if self._hidden:
            keep = self._generator.random((cut.batch, 1, inputs.shape[2])) >= self._hidden
            inputs = inputs * torch.from_numpy(keep) / (1.0 - self._hidden)
        drawn = (inputs, direction, binary, move, rows.volatility[learnt], torch.from_numpy(weight))
        return _Drawn(*(one.to(self._device) for one in drawn))


class Descent:
    """A training run.

    Args:
        network: with fitted inputs; it is trained in place.
        parts: all instruments.
        params: all of `params.yaml`.
        checkpoint: file to resume from, written after each epoch; None for none.
    """

    def __init__(self, network: Network, parts: Sequence[Part], params: Params, checkpoint: Path | None = None) -> None:
        self._network, self._parts, self._params, self._settings = network, parts, params, params.train
        self._path = checkpoint
        self._device = pick_device(params.train.device)
        self._cut = _batches(params)
        self._generator = np.random.default_rng(params.train.seed)
        self.history: list[Epoch] = []

    def run(self, on_epoch: OnEpoch | None = None) -> list[Epoch]:
        """Train until the validation loss has not improved for `patience` epochs; keep the best epoch's weights.

        Raises:
            TrainingError: no run of rows is long enough, or a loss is not finite.
        """
        rows = material(self._network, self._parts, sequence=self._cut.sequence, burn_in=self._cut.burn_in)
        with process_group(self._device) as group:
            self._check_shares(group)
            self._descend(rows, group, on_epoch)
        return self.history

    def _check_shares(self, group: Group) -> None:
        share = group.size * self._settings.accumulation
        if self._cut.batch % share:
            raise TrainingError(
                f"a batch of {self._cut.batch} cannot be shared by {group.size} processes in "
                f"{self._settings.accumulation} steps each; make train.batch, or train.window_batch, a multiple of "
                f"{share}"
            )

    def _descend(self, rows: Material, group: Group, on_epoch: OnEpoch | None) -> None:
        settings, network = self._settings, self._network.to(self._device)
        optimiser = torch.optim.AdamW(
            network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        # Torch waits for one epoch more than its patience. Any improvement counts, as it does for `patience`.
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimiser, factor=0.5, patience=settings.rate_patience - 1, threshold=0.0, min_lr=settings.smallest_rate
        )
        best, best_loss, waited = copy.deepcopy(network.state_dict()), math.inf, 0
        identity = self._identity(group)
        kept = load_checkpoint(self._path, identity) if self._path else None
        if kept is not None:
            network.load_state_dict(kept["network"])
            optimiser.load_state_dict(kept["optimiser"])
            schedule.load_state_dict(kept["schedule"])
            self._generator.bit_generator.state = kept["generator"]
            torch.set_rng_state(kept["torch"])
            self.history = [msgspec.convert(one, Epoch) for one in kept["history"]]
            best, best_loss, waited = kept["best"], kept["best_loss"], kept["waited"]
        undoes = architecture(self._params.model.network).undoes_scaling
        hidden = 0.0 if undoes else settings.feature_dropout
        draws = _Draws(rows, self._cut, settings, hidden, self._generator, self._device)
        step: nn.Module = _Step(network, self._cut.burn_in)
        if group.size > 1:
            step = DistributedDataParallel(step)
        loss, prior = self._loss(network), self._prior()
        while len(self.history) < settings.epochs and waited < self._cut.patience:
            network.train()
            losses = [self._step(step, loss, prior, optimiser, draws.next(), group) for _ in range(self._cut.steps)]
            validated = mean_validation_loss(network, self._parts, settings.horizon_weights)
            epoch = Epoch(
                epoch=len(self.history) + 1,
                train_loss=float(np.mean(losses)),
                validation_loss=self._agreed(validated, group),
                learning_rate=optimiser.param_groups[0]["lr"],
            )
            if not math.isfinite(epoch.train_loss + epoch.validation_loss):
                raise TrainingError(f"epoch {epoch.epoch}: the loss is not finite; lower train.learning_rate")
            self.history.append(epoch)
            schedule.step(epoch.validation_loss)
            waited += 1
            if epoch.validation_loss < best_loss:
                best, best_loss, waited = copy.deepcopy(network.state_dict()), epoch.validation_loss, 0
            if self._path and group.leads:
                state = {
                    "network": network.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "schedule": schedule.state_dict(),
                    "generator": self._generator.bit_generator.state,
                    "torch": torch.get_rng_state(),
                    "history": [msgspec.to_builtins(one) for one in self.history],
                    "best": best,
                    "best_loss": best_loss,
                    "waited": waited,
                }
                save_checkpoint(self._path, identity, state)
            if on_epoch and group.leads:
                on_epoch(epoch)
        network.load_state_dict(best)
        network.cpu().eval()

    def _step(
        self, step: nn.Module, loss: Loss, prior: Prior, optimiser: torch.optim.Optimizer, drawn: _Drawn, group: Group
    ) -> float:
        """Update the weights with this process's share of a batch, in `accumulation` parts."""
        whole = mass(drawn.direction, drawn.weight)
        mixed = self._settings.precision == "bfloat16"
        optimiser.zero_grad()
        total = 0.0
        count = self._settings.accumulation
        for turn in range(count):
            part = slice(group.rank * count + turn, None, group.size * count)
            waits = group.size > 1 and turn < count - 1
            with step.no_sync() if waits else nullcontext():  # type: ignore[operator]
                with torch.autocast(self._device.type, torch.bfloat16) if mixed else nullcontext():
                    outputs = step(drawn.inputs[part])
                value = loss(
                    outputs.float(),
                    drawn.direction[part],
                    drawn.binary[part],
                    drawn.move[part],
                    drawn.volatility[part],
                    drawn.weight[part],
                )
                value = value + prior(self._network.readout, self._network.linear) * whole / (group.size * count)
                # The processes' gradients are averaged, not added.
                (value * group.size / whole).backward()  # type: ignore[no-untyped-call]
            total += value.item()
        nn.utils.clip_grad_norm_(self._network.parameters(), self._settings.gradient_clip)
        optimiser.step()
        if group.size > 1:
            shared = torch.tensor(total, device=self._device)
            torch.distributed.all_reduce(shared)
            total = shared.item()
        return total / whole.item()

    def _loss(self, network: Network) -> Loss:
        weights = torch.tensor(self._settings.horizon_weights, device=self._device)
        significant = self._params.labels.significant_bps / network.calibration.move_scale
        return Loss(self._settings.loss, weights, significant)

    def _prior(self) -> Prior:
        span_s = sum(seconds_of(one.dataset, one.split.train) for one in self._parts)
        weights = torch.tensor(self._settings.horizon_weights)
        return Prior(self._settings.prior, self._params.labels.horizons_ms, span_s, weights)

    def _agreed(self, value: float, group: Group) -> float:
        """Return rank 0's value, so that all processes stop at the same epoch."""
        if group.size == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64, device=self._device)
        torch.distributed.broadcast(shared, 0)
        return float(shared.item())

    def _identity(self, group: Group) -> str:
        """Return the hash that a checkpoint must match to be resumed."""
        about: dict[str, Any] = {
            "params": {name: msgspec.to_builtins(getattr(self._params, name)) for name in ("model", "train", "labels")},
            "data": [
                (
                    one.dataset.data_fingerprint,
                    one.dataset.definitions_sha256,
                    [len(part) for part in vars(one.split).values()],
                )
                for one in self._parts
            ],
            "first": [int(one.split.train[0]) for one in self._parts],
            "versions": (str(torch.__version__), np.__version__, str(self._device), group.size),
        }
        return hashlib.sha256(msgspec.json.encode(about)).hexdigest()

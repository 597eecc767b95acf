"""Gradient descent over sequences: seeded, resumable, bit-identical on CPU for a seed and thread count."""

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
from lobsmith.models.training_data import Part, Sampler, TrainingData, make_training_data, seconds_of
from lobsmith.params import Params, TrainParams


class Epoch(Struct, frozen=True, kw_only=True):
    """Losses of an epoch, nats; in validation the directions' cross-entropy over weighted horizons."""

    epoch: int
    train_loss: float
    validation_loss: float
    learning_rate: float


OnEpoch = Callable[[Epoch], None]


class _BatchSizes(Struct, frozen=True, kw_only=True):
    """Sizes of sequences and batches; `batches` an epoch."""

    sequence: int
    burn_in: int
    batch: int
    batches: int
    patience: int


def _batch_sizes(params: Params) -> _BatchSizes:
    settings, window = params.train, architecture(params.model.network).window
    if window:
        # Rows share no window with their neighbours: train on single rows, far apart.
        batch = settings.window_batch
        return _BatchSizes(
            sequence=1,
            burn_in=window - 1,
            batch=batch,
            batches=math.ceil(settings.windows_per_epoch / batch),
            patience=settings.window_patience,
        )
    return _BatchSizes(
        sequence=settings.sequence,
        burn_in=settings.burn_in,
        batch=settings.batch,
        batches=math.ceil(settings.sequences_per_epoch / settings.batch),
        patience=settings.patience,
    )


class _SequenceOutputs(nn.Module):
    """Warm-up and outputs in a single call, as `DistributedDataParallel` requires."""

    def __init__(self, network: Network, burn_in: int) -> None:
        super().__init__()
        self.network, self.burn_in = network, burn_in

    def forward(self, inputs: Tensor) -> Tensor:
        state = self.network.warm(inputs[:, : self.burn_in], self.network.cold_state(len(inputs)))
        outputs: Tensor = self.network.step(inputs[:, self.burn_in :], state)[0]
        return outputs


class _Batch(Struct):
    """A batch on the device."""

    inputs: Tensor
    direction: Tensor
    binary: Tensor
    move: Tensor
    volatility: Tensor
    weight: Tensor


class _BatchSampler:
    """Samples whole batches, the same in every process."""

    def __init__(
        self,
        data: TrainingData,
        sizes: _BatchSizes,
        settings: TrainParams,
        hidden: float,
        generator: np.random.Generator,
        device: torch.device,
    ) -> None:
        self._data, self._sizes, self._settings, self._hidden = data, sizes, settings, hidden
        self._generator, self._device = generator, device
        self._sampler = Sampler(
            data,
            sequence=sizes.sequence,
            burn_in=sizes.burn_in,
            priority=settings.priority,
            uniform_share=settings.uniform_share,
            generator=generator,
        )
        source, sign = mirror()
        self._source, self._sign = torch.tensor(source), torch.tensor(sign)

    def next(self) -> _Batch:
        sizes, settings, data = self._sizes, self._settings, self._data
        starts, weight = self._sampler.draw(sizes.batch)
        index = torch.from_numpy(starts).unsqueeze(1) + torch.arange(sizes.burn_in + sizes.sequence)
        inputs, labelled = data.inputs[index], index[:, sizes.burn_in :]
        direction, binary, move = data.direction[labelled], data.binary[labelled], data.move[labelled]
        if settings.mirror:
            flip = torch.from_numpy(self._generator.random(sizes.batch) < settings.mirror)
            inputs = torch.where(flip[:, None, None], inputs[:, :, self._source] * self._sign, inputs)
            direction = torch.where(flip[:, None, None] & (direction >= 0), 2 - direction, direction)
            binary = torch.where(flip[:, None, None, None], binary[..., [0, 2, 1]], binary)
            move = torch.where(flip[:, None, None], -move, move)
        if self._hidden:
            keep = self._generator.random((sizes.batch, 1, inputs.shape[2])) >= self._hidden
            inputs = inputs * torch.from_numpy(keep) / (1.0 - self._hidden)
        tensors = (inputs, direction, binary, move, data.volatility[labelled], torch.from_numpy(weight))
        return _Batch(*(tensor.to(self._device) for tensor in tensors))


class Trainer:
    """A training run, in place, of a network with fitted inputs.

    `checkpoint` is resumed from and written after each epoch; None for none.
    """

    def __init__(self, network: Network, parts: Sequence[Part], params: Params, checkpoint: Path | None = None) -> None:
        self._network, self._parts, self._params, self._settings = network, parts, params, params.train
        self._path = checkpoint
        self._device = pick_device(params.train.device)
        self._sizes = _batch_sizes(params)
        self._generator = np.random.default_rng(params.train.seed)
        self.history: list[Epoch] = []

    def run(self, on_epoch: OnEpoch | None = None) -> list[Epoch]:
        """Train until the validation loss has not improved for `patience` epochs; keep the best epoch's weights.

        Raises:
            TrainingError: no run of rows is long enough, or a loss is not finite.
        """
        sizes = self._sizes
        data = make_training_data(self._network, self._parts, sequence=sizes.sequence, burn_in=sizes.burn_in)
        with process_group(self._device) as group:
            self._check_shares(group)
            self._train(data, group, on_epoch)
        return self.history

    def _check_shares(self, group: Group) -> None:
        share = group.size * self._settings.accumulation
        if self._sizes.batch % share:
            raise TrainingError(
                f"a batch of {self._sizes.batch} cannot be shared by {group.size} processes in "
                f"{self._settings.accumulation} parts each; make train.batch, or train.window_batch, a multiple of "
                f"{share}"
            )

    def _train(self, data: TrainingData, group: Group, on_epoch: OnEpoch | None) -> None:
        settings, network = self._settings, self._network.to(self._device)
        optimiser = torch.optim.AdamW(
            network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        # Torch waits an epoch more than its patience. Any improvement counts, as for `patience`.
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimiser, factor=0.5, patience=settings.rate_patience - 1, threshold=0.0, min_lr=settings.smallest_rate
        )
        best, best_loss, waited = copy.deepcopy(network.state_dict()), math.inf, 0
        identity = self._identity(group)
        checkpoint = load_checkpoint(self._path, identity) if self._path else None
        if checkpoint is not None:
            network.load_state_dict(checkpoint["network"])
            optimiser.load_state_dict(checkpoint["optimiser"])
            schedule.load_state_dict(checkpoint["schedule"])
            self._generator.bit_generator.state = checkpoint["generator"]
            torch.set_rng_state(checkpoint["torch"])
            self.history = [msgspec.convert(epoch, Epoch) for epoch in checkpoint["history"]]
            best, best_loss, waited = checkpoint["best"], checkpoint["best_loss"], checkpoint["waited"]
        undoes = architecture(self._params.model.network).undoes_scaling
        hidden = 0.0 if undoes else settings.feature_dropout
        sampler = _BatchSampler(data, self._sizes, settings, hidden, self._generator, self._device)
        module: nn.Module = _SequenceOutputs(network, self._sizes.burn_in)
        if group.size > 1:
            module = DistributedDataParallel(module)
        loss, prior = self._loss(network), self._prior()
        while len(self.history) < settings.epochs and waited < self._sizes.patience:
            network.train()
            losses = [
                self._update(module, loss, prior, optimiser, sampler.next(), group) for _ in range(self._sizes.batches)
            ]
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
                    "history": [msgspec.to_builtins(completed) for completed in self.history],
                    "best": best,
                    "best_loss": best_loss,
                    "waited": waited,
                }
                save_checkpoint(self._path, identity, state)
            if on_epoch and group.leads:
                on_epoch(epoch)
        network.load_state_dict(best)
        network.cpu().eval()

    def _update(
        self, module: nn.Module, loss: Loss, prior: Prior, optimiser: torch.optim.Optimizer, batch: _Batch, group: Group
    ) -> float:
        """Update the weights with this process's share of a batch, in `accumulation` parts."""
        total_mass = mass(batch.direction, batch.weight)
        mixed = self._settings.precision == "bfloat16"
        optimiser.zero_grad()
        total = 0.0
        count = self._settings.accumulation
        for number in range(count):
            part = slice(group.rank * count + number, None, group.size * count)
            unsynced = group.size > 1 and number < count - 1
            with module.no_sync() if unsynced else nullcontext():  # type: ignore[operator]
                with torch.autocast(self._device.type, torch.bfloat16) if mixed else nullcontext():
                    outputs = module(batch.inputs[part])
                value = loss(
                    outputs.float(),
                    batch.direction[part],
                    batch.binary[part],
                    batch.move[part],
                    batch.volatility[part],
                    batch.weight[part],
                )
                value = value + prior(self._network.readout, self._network.linear) * total_mass / (group.size * count)
                # The processes' gradients are averaged, not summed.
                (value * group.size / total_mass).backward()  # type: ignore[no-untyped-call]
            total += value.item()
        nn.utils.clip_grad_norm_(self._network.parameters(), self._settings.gradient_clip)
        optimiser.step()
        if group.size > 1:
            shared = torch.tensor(total, device=self._device)
            torch.distributed.all_reduce(shared)
            total = shared.item()
        return total / total_mass.item()

    def _loss(self, network: Network) -> Loss:
        weights = torch.tensor(self._settings.horizon_weights, device=self._device)
        significant = self._params.labels.significant_bps / network.calibration.move_scale
        return Loss(self._settings.loss, weights, significant)

    def _prior(self) -> Prior:
        span_s = sum(seconds_of(part.dataset, part.split.train) for part in self._parts)
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
        training: dict[str, Any] = {
            "params": {name: msgspec.to_builtins(getattr(self._params, name)) for name in ("model", "train", "labels")},
            "data": [
                (
                    part.dataset.data_fingerprint,
                    part.dataset.definitions_sha256,
                    [len(rows) for rows in vars(part.split).values()],
                )
                for part in self._parts
            ],
            "first": [int(part.split.train[0]) for part in self._parts],
            "versions": (str(torch.__version__), np.__version__, str(self._device), group.size),
        }
        return hashlib.sha256(msgspec.json.encode(training)).hexdigest()

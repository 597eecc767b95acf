"""Gradient descent: the same bits again, however it is shared out, interrupted or gone on with."""

import itertools
import json
import math
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from lobsmith.errors import TrainingError
from lobsmith.features.dataset import Dataset, save_dataset
from lobsmith.models.checkpoint import CHECKPOINT, load_checkpoint, save_checkpoint
from lobsmith.models.inference import validation_loss
from lobsmith.models.networks.network import Network
from lobsmith.models.networks.registry import build
from lobsmith.models.train import WEIGHTS
from lobsmith.models.trainer import Epoch, Trainer
from lobsmith.models.training_data import Part, fit_inputs, parts_of
from lobsmith.params import Params
from lobsmith.stages.train import train_stage
from tests.small import small_params

ROOT = Path(__file__).parents[2]
EPOCHS = 4

Run = Callable[..., tuple[Network, list[Epoch]]]


@pytest.fixture(scope="module")
def parts(dataset: Dataset, params: Params) -> list[Part]:
    return parts_of([dataset], params.split)


@pytest.fixture(scope="module")
def train_network(parts: list[Part]) -> Run:
    def run(checkpoint: Path | None = None, **changes: Any) -> tuple[Network, list[Epoch]]:
        params = small_params(**{f"train.{name}": value for name, value in changes.items()})
        torch.set_num_threads(1)
        torch.manual_seed(params.train.seed)
        network = build(params.model, parts[0].dataset.rows.features.shape[1], params.labels.horizons_ms)
        fit_inputs(network, parts, symmetric=True)
        return network, Trainer(network, parts, params, checkpoint).run()

    return run


@pytest.fixture(scope="module")
def plain(train_network: Run) -> tuple[Network, list[Epoch]]:
    return train_network()


def same_bits(a: Network, b: Network) -> bool:
    other = b.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in a.state_dict().items())


def test_the_same_seed_gives_the_same_bits(train_network: Run, plain: tuple[Network, list[Epoch]]) -> None:
    again, history = train_network()
    assert history == plain[1]
    assert same_bits(again, plain[0])
    other, other_history = train_network(seed=12)
    assert other_history != history
    assert not same_bits(other, again)


def test_it_keeps_the_best_epoch(train_network: Run, parts: list[Part]) -> None:
    network, history = train_network(epochs=8, learning_rate=0.1)
    losses = [epoch.validation_loss for epoch in history]
    # A rate that great makes it worse in the end; else this test would prove nothing.
    assert losses[-1] > min(losses)
    kept = validation_loss(network, parts[0].dataset, parts[0].split.validation, (1, 1))
    assert kept == pytest.approx(min(losses), rel=1e-6)


def test_it_learns(train_network: Run) -> None:
    _, history = train_network(epochs=6, feature_dropout=0.0, sequences_per_epoch=128)
    assert history[-1].train_loss < 0.97 * history[0].train_loss


@pytest.mark.parametrize("accumulation", [2, 4, 8])
def test_a_batch_in_several_parts_is_the_same_batch(
    train_network: Run, plain: tuple[Network, list[Epoch]], accumulation: int
) -> None:
    _, history = train_network(accumulation=accumulation)
    for epoch, other in zip(history, plain[1], strict=True):
        assert epoch.train_loss == pytest.approx(other.train_loss, rel=1e-4)
        assert epoch.validation_loss == pytest.approx(other.validation_loss, rel=1e-4)


def test_half_the_precision_trains_and_stays_close(train_network: Run, plain: tuple[Network, list[Epoch]]) -> None:
    network, history = train_network(precision="bfloat16")
    assert history != plain[1]
    assert not same_bits(network, plain[0])
    for epoch, other in zip(history, plain[1], strict=True):
        assert epoch.train_loss == pytest.approx(other.train_loss, rel=0.02)
        assert epoch.validation_loss == pytest.approx(other.validation_loss, rel=0.02)
    assert all(tensor.dtype == torch.float32 for tensor in network.parameters())


def test_without_progress_the_rate_is_halved_and_training_ends(train_network: Run) -> None:
    # Where nothing costs anything no weight moves: the first epoch stays the best.
    free = {f"loss.{term}": 0.0 for term in ("direction", "significant", "withdrawal", "move", "volatility", "hinge")}
    rates = {"learning_rate": 0.008, "smallest_rate": 0.002, "rate_patience": 2, "patience": 7}
    _, history = train_network(epochs=30, sequences_per_epoch=8, weight_decay=0.0, **rates, **free)
    assert len({epoch.validation_loss for epoch in history}) == 1
    assert [epoch.learning_rate for epoch in history] == pytest.approx([0.008] * 3 + [0.004] * 2 + [0.002] * 3)


def test_while_it_gets_better_the_rate_stays(train_network: Run) -> None:
    _, history = train_network(epochs=5, rate_patience=1, patience=1, learning_rate=1e-4)
    losses = [epoch.validation_loss for epoch in history]
    assert all(later < earlier for earlier, later in itertools.pairwise(losses))
    assert [epoch.learning_rate for epoch in history] == [1e-4] * 5


def test_gradients_are_clipped(train_network: Run) -> None:
    def norm(clip: float) -> float:
        network, _ = train_network(epochs=1, sequences_per_epoch=8, gradient_clip=clip)
        return math.sqrt(
            sum(
                float(parameter.grad.square().sum()) for parameter in network.parameters() if parameter.grad is not None
            )
        )

    free = norm(1e9)
    assert free > 0.01
    assert norm(free / 10) == pytest.approx(free / 10, rel=1e-3)
    assert norm(free * 2) == pytest.approx(free, rel=1e-5)


def test_a_batch_that_cannot_be_shared_is_one_clear_error(train_network: Run) -> None:
    with pytest.raises(TrainingError, match=r"a batch of 8 cannot be shared .* in 3 parts .* a multiple of 3"):
        train_network(accumulation=3)


def test_a_loss_that_is_not_finite_is_one_clear_error(train_network: Run) -> None:
    with pytest.raises(TrainingError, match=r"epoch \d+: the loss is not finite; lower train.learning_rate"):
        train_network(learning_rate=1e30, feature_dropout=0.0)


def changes(**more: Any) -> dict[str, Any]:
    return {"train.epochs": EPOCHS, **more}


def stage(directory: Path, dataset_path: Path, **more: Any) -> list[int]:
    """Run the train stage and return the numbers of the epochs that it went through."""
    epochs: list[int] = []
    train_stage(
        small_params(**changes(**more)), [dataset_path], directory, on_epoch=lambda epoch: epochs.append(epoch.epoch)
    )
    return epochs


@pytest.fixture(scope="module")
def dataset_path(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "dataset.safetensors"
    save_dataset(dataset, path)
    return path


@pytest.fixture(scope="module")
def uninterrupted(dataset_path: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    directory = tmp_path_factory.mktemp("uninterrupted")
    assert stage(directory, dataset_path) == [1, 2, 3, 4]
    assert [path.name for path in directory.iterdir()] == [WEIGHTS]
    return (directory / WEIGHTS).read_bytes()


@pytest.fixture(scope="module")
def killed(dataset_path: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The checkpoint of a training that was killed once its second epoch's was written."""
    directory = tmp_path_factory.mktemp("killed")
    code = (
        "import sys; from pathlib import Path; from lobsmith.stages.train import train_stage\n"
        "from tests.models.test_trainer import changes\n"
        "from tests.small import small_params\n"
        "def say(epoch):\n"
        "    print(epoch.epoch, flush=True)\n"
        "    epoch.epoch == 2 and sys.stdin.read()\n"  # it is killed before it can end
        "train_stage(small_params(**changes()), [Path(sys.argv[1])], Path(sys.argv[2]), on_epoch=say)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(dataset_path), str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment(),
    )
    try:
        assert child.stdout is not None
        assert [child.stdout.readline().strip() for _ in range(2)] == ["1", "2"]
        child.send_signal(signal.SIGKILL)
        assert child.wait(timeout=30) == -signal.SIGKILL
    finally:
        child.kill()
        child.wait()
    assert not (directory / WEIGHTS).exists()
    return (directory / CHECKPOINT).read_bytes()


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def test_a_killed_training_goes_on_to_the_same_bits(
    killed: bytes, uninterrupted: bytes, dataset_path: Path, tmp_path: Path
) -> None:
    (tmp_path / CHECKPOINT).write_bytes(killed)
    assert stage(tmp_path, dataset_path) in ([3, 4], [4])
    assert (tmp_path / WEIGHTS).read_bytes() == uninterrupted
    assert [path.name for path in tmp_path.iterdir()] == [WEIGHTS]


def test_a_checkpoint_of_other_parameters_is_no_checkpoint(killed: bytes, dataset_path: Path, tmp_path: Path) -> None:
    other = {"train.learning_rate": 0.003, "train.epochs": 2}
    (tmp_path / "with").mkdir()
    (tmp_path / "with" / CHECKPOINT).write_bytes(killed)
    for name in ("with", "without"):
        assert stage(tmp_path / name, dataset_path, **other) == [1, 2]
    assert (tmp_path / "with" / WEIGHTS).read_bytes() == (tmp_path / "without" / WEIGHTS).read_bytes()


def test_a_checkpoint_of_other_rows_is_no_checkpoint(killed: bytes, dataset: Dataset, tmp_path: Path) -> None:
    other = msgspec.structs.replace(small_params().split, validation=0.25)
    assert parts_of([dataset], other)[0].split.train[-1] != parts_of([dataset], small_params().split)[0].split.train[-1]
    save_dataset(dataset, tmp_path / "dataset.safetensors")
    (tmp_path / CHECKPOINT).write_bytes(killed)
    assert stage(tmp_path, tmp_path / "dataset.safetensors", **{"split.validation": 0.25}) == [1, 2, 3, 4]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_truncated_checkpoint_is_no_checkpoint(
    killed: bytes, uninterrupted: bytes, dataset_path: Path, tmp_path: Path, share: float
) -> None:
    (tmp_path / CHECKPOINT).write_bytes(killed[: int(share * len(killed))])
    assert stage(tmp_path, dataset_path) == [1, 2, 3, 4]
    assert (tmp_path / WEIGHTS).read_bytes() == uninterrupted


def test_no_damage_goes_unseen(tmp_path: Path) -> None:
    path = tmp_path / CHECKPOINT
    save_checkpoint(path, "this one", {"network": {"weight": torch.randn(30)}, "best_loss": 1.0})
    content = path.read_bytes()
    state = load_checkpoint(path, "this one")
    assert state is not None
    assert state["best_loss"] == 1.0
    assert load_checkpoint(path, "another") is None
    chance = random.Random(2)
    for _ in range(300):
        position = chance.randrange(len(content))
        flipped = bytes([content[position] ^ (1 << chance.randrange(8))])
        path.write_bytes(content[:position] + flipped + content[position + 1 :])
        assert load_checkpoint(path, "this one") is None
        path.write_bytes(content[:position])
        assert load_checkpoint(path, "this one") is None
    path.write_bytes(content)
    assert load_checkpoint(path, "this one") is not None


def test_a_training_that_was_done_trains_no_more(
    train_network: Run, plain: tuple[Network, list[Epoch]], tmp_path: Path
) -> None:
    path = tmp_path / CHECKPOINT
    first, history = train_network(path)
    written = path.stat().st_mtime_ns
    second, again = train_network(path)
    assert path.stat().st_mtime_ns == written
    assert history == again == plain[1]
    assert same_bits(first, second)
    assert same_bits(first, plain[0])


SHARED = """
import json, os, sys
from pathlib import Path
from lobsmith.stages.train import train_stage
from tests.models.test_trainer import changes
from tests.small import small_params

folder = Path(sys.argv[2]) / os.environ["RANK"]
folder.mkdir(parents=True)
epochs = []
params = small_params(**changes())
trained = train_stage(params, [Path(sys.argv[1])], folder, on_epoch=lambda epoch: epochs.append(epoch.epoch))
losses = [[epoch.train_loss for epoch in trained.history], [epoch.validation_loss for epoch in trained.history]]
(folder / "losses.json").write_text(json.dumps([epochs, *losses]))
"""


@pytest.mark.slow
def test_two_processes_learn_what_one_does(dataset_path: Path, uninterrupted: bytes, tmp_path: Path) -> None:
    script = tmp_path / "shared.py"
    script.write_text(SHARED)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    subprocess.run(
        [*command, str(script), str(dataset_path), str(tmp_path)], check=True, cwd=ROOT, env=environment(), timeout=280
    )
    header = json.loads(uninterrupted[8 : 8 + int.from_bytes(uninterrupted[:8], "little")])
    alone = json.loads(header["__metadata__"]["lobsmith"])["history"]
    for rank, expected in ((0, [1, 2, 3, 4]), (1, [])):
        epochs, train_losses, validation_losses = json.loads((tmp_path / str(rank) / "losses.json").read_text())
        assert epochs == expected
        np.testing.assert_allclose(train_losses, [epoch["train_loss"] for epoch in alone], rtol=1e-3)
        np.testing.assert_allclose(validation_losses, [epoch["validation_loss"] for epoch in alone], rtol=1e-3)
    assert sorted(path.name for path in (tmp_path / "0").iterdir()) == ["losses.json", WEIGHTS]
    assert [path.name for path in (tmp_path / "1").iterdir()] == ["losses.json"]

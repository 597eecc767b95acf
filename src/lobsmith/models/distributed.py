"""One process, or several under `torchrun` that share each batch."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import distributed


class Group(NamedTuple):
    """This process's rank, and the number of processes."""

    rank: int
    size: int

    @property
    def leads(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0


def world_size() -> int:
    """Return the number of processes under `torchrun`; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def leads() -> bool:
    """Return whether this process writes the files (rank 0)."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def process_group(device: torch.device) -> Iterator[Group]:
    """Join `torchrun`'s group; alone without it."""
    if world_size() == 1 or distributed.is_initialized():
        yield (
            Group(distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else Group(0, 1)
        )
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Group(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()


def pick_device(name: str) -> torch.device:
    """Return the device to train on; `auto` prefers a GPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device(name)

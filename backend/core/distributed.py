"""Several processes train one model: each computes its share of a step's micro-batches, then they add up.

Every process holds the whole model, reads the same rows and takes the same step from the same summed gradient, so
weights and optimizer stay equal without ever being sent. Rank 0 alone writes files. The processes are told of each
other as torchrun tells them (``RANK``, ``LOCAL_RANK``, ``WORLD_SIZE``): those our supervisor started meet through
a file, those of torchrun, on one machine or several, at the address that it gives them. Floor F1.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from backend.errors import RunError
from backend.reports import MEETING_FILE

BUCKET_ELEMENTS = 2**24
"""Numbers that are sent at once: enough to hide the latency, few enough not to need a second copy of the model."""
_PATIENCE = timedelta(days=1)
"""Others wait while rank 0 evaluates and saves; one that died is noticed at once, by its closed connection."""

T = TypeVar("T")


class LostPeerError(Exception):
    """Another process of this run is gone; whoever watches them knows why."""


@dataclass(frozen=True)
class World:
    """This process among those that train together; ``World()`` is a process alone, for which nothing changes."""

    rank: int = 0
    size: int = 1
    local_size: int = 1

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> World:
        """The place that the environment gives this process; ``local_size`` of them share its machine."""
        rank, size = int(environ.get("RANK", "0")), int(environ.get("WORLD_SIZE", "1"))
        return cls(rank, size, int(environ.get("LOCAL_WORLD_SIZE", size)))

    @property
    def writes(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    def share(self, parts: Sequence[T]) -> list[T]:
        """What this process computes of the parts of a step, which are of about equal work."""
        return list(parts[self.rank :: self.size])

    def add_up(self, loss: float, gradients: Sequence[Tensor]) -> float:
        """The sum of every process's ``loss``; ``gradients`` become the sums of theirs, in place.

        All processes get the same bits. Raises LostPeerError.
        """
        if self.size == 1:
            return loss
        total = torch.tensor(loss, dtype=torch.float64, device=gradients[0].device)
        with _peers():
            dist.all_reduce(total)
            for bucket in _buckets(gradients):
                flat = torch.cat([part.flatten() for part in bucket])
                dist.all_reduce(flat)
                start = 0
                for part in bucket:
                    part.copy_(flat[start : start + part.numel()].view_as(part))
                    start += part.numel()
        return float(total)

    def same(self, value: T) -> T:
        """Rank 0's ``value``, everywhere; what the others pass is not looked at. Raises LostPeerError."""
        if self.size == 1:
            return value
        told: list[Any] = [value]
        with _peers():
            dist.broadcast_object_list(told)
        agreed: T = told[0]
        return agreed


ALONE = World()


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one precision, as many as go into one message."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        full = sum(part.numel() for part in bucket) + tensor.numel() > BUCKET_ELEMENTS
        if bucket and (full or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    yield bucket


@contextlib.contextmanager
def joined(world: World, environ: Mapping[str, str]) -> Iterator[None]:
    """Be connected to the other processes inside the block, and leave it together with them.

    Raises LostPeerError, and RunError ``too-few-gpus`` where each process should have a GPU of its own.
    """
    if world.size == 1:
        yield
        return
    if torch.cuda.is_available():
        _take_gpu(int(environ["LOCAL_RANK"]))
    with _peers():
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            init_method=f"file://{environ[MEETING_FILE]}" if MEETING_FILE in environ else "env://",
            rank=world.rank,
            world_size=world.size,
            timeout=_PATIENCE,
        )
    try:
        yield
        world.same(None)
    finally:
        dist.destroy_process_group()


def _take_gpu(local_rank: int, count: Callable[[], int] = torch.cuda.device_count) -> None:
    if local_rank >= count():
        raise RunError(
            f"There are {count()} GPUs for more than {local_rank} processes.",
            remedy="Lower training.nproc_per_node, or let the run see more GPUs.",
            code="too-few-gpus",
        )
    torch.cuda.set_device(local_rank)


@contextlib.contextmanager
def _peers() -> Iterator[None]:
    """Torch says RuntimeError when the other end of a connection is gone."""
    try:
        yield
    except RuntimeError as error:
        raise LostPeerError("Another process of this run is gone.") from error

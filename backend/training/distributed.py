"""Several processes train one model: each computes its share of a step's micro-batches, then they add up.

Every process holds the whole model, reads the same rows and takes the same step from the same summed gradient, so
weights and optimizer stay equal without ever being sent. Rank 0 alone writes files. The processes are told of each
other as torchrun tells them (``RANK``, ``LOCAL_RANK``, ``WORLD_SIZE``): those our supervisor started meet through
a file, those of torchrun, on one machine or several, at the address that it gives them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import xxhash
from torch import Tensor
from torch.distributed import FileStore, PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from backend.errors import RunError
from backend.run.handover import Handover

BUCKET_ELEMENTS = 2**24
"""Numbers that are sent at once: enough to hide the latency, few enough not to need a second copy of the model."""
MEETING_SECONDS = 600.0
"""How long a process waits for the others to come at all; torchrun lets a machine's wait for the others' before."""
_POLL_SECONDS = 0.05
_PATIENCE = timedelta(days=1)
"""Others wait while rank 0 evaluates and saves; one that died is noticed at once, by its closed connection."""

T = TypeVar("T")


class LostPeerError(Exception):
    """Another process of this run is gone; whoever watches them knows why."""


class StoppedWaitingError(Exception):
    """This process was asked to stop while it waited for the others; ``reason`` is the reason it was given."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"Stopped while waiting for the other processes: {reason}.")
        self.reason = reason


@dataclass(frozen=True)
class World:
    """This process among those that train together; ``World()`` is a process alone, for which nothing changes."""

    rank: int = 0
    size: int = 1
    local_size: int = 1
    local_rank: int = 0

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> World:
        """The place that the environment gives this process; ``local_size`` of them share its machine.

        Raises RunError ``bad-rank`` where RANK, WORLD_SIZE and their like make no sense.
        """
        try:
            rank, size = int(environ.get("RANK", "0")), int(environ.get("WORLD_SIZE", "1"))
            local_size = int(environ.get("LOCAL_WORLD_SIZE", size))
            local_rank = int(environ.get("LOCAL_RANK", rank % max(local_size, 1)))
        except ValueError:
            rank = size = local_size = local_rank = -1
        if not (0 <= rank < size and 0 <= local_rank < local_size <= size):
            names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
            said = ", ".join(f"{name}={environ[name]}" for name in names if name in environ)
            raise RunError(
                f"The environment names a place among processes that there cannot be: {said}.",
                remedy="Unset these variables; Tunesmith and torchrun set them for the processes they start.",
                code="bad-rank",
            )
        return cls(rank, size, local_size, local_rank)

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    def my_share(self, parts: Sequence[T]) -> list[T]:
        """What this process computes of the parts of a step, which are of about equal work."""
        return list(parts[self.rank :: self.size])

    def all_reduce(self, loss: float, gradients: Sequence[Tensor]) -> float:
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

    def require_same(self, **values: object) -> None:
        """Raise RunError ``processes-disagree``, in every process, unless all of them have the same ``values``.

        A value is compared, and shown, as text. Raises LostPeerError.
        """
        if self.size == 1:
            return
        said: list[Any] = [None] * self.size
        with _peers():
            dist.all_gather_object(said, {name: str(value) for name, value in values.items()})
        for rank, other in enumerate(said):
            for name, value in said[0].items():
                if other[name] != value:
                    raise RunError(
                        f"Process {rank} of {self.size} has another {name.replace('_', ' ')} than process 0: "
                        f"{other[name]}, not {value}.",
                        remedy="All of them must see the same files and compute the same numbers. "
                        "Mend what that process sees, then resume.",
                        code="processes-disagree",
                    )

    def own_device(self, device: str) -> str:
        """Return ``device``, where each of several processes has a GPU of its own with its index on this machine."""
        return f"{device}:{self.local_rank}" if self.size > 1 and device == "cuda" else device

    def broadcast(self, value: T) -> T:
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


def weights_checksum(parameters: Iterable[Tensor]) -> str:
    """Return 16 hexadecimal digits that change with any bit of any of ``parameters``, float32, read once each."""
    sums = [int(part.detach().view(torch.int32).sum(dtype=torch.int64)) for part in parameters]
    return xxhash.xxh3_64_hexdigest(repr(sums).encode())


@contextlib.contextmanager
def joined(
    world: World, environ: Mapping[str, str], stopped: Callable[[], str | None] = lambda: None
) -> Iterator[None]:
    """Be connected to the other processes inside the block, and leave it together with them.

    While the others have not come, ``stopped`` is asked for a reason to give up waiting. Raises LostPeerError,
    StoppedWaitingError, and RunError: ``too-few-gpus`` where each process should have a GPU of its own,
    ``no-meeting`` where nothing says where they meet, ``peers-missing`` where some do not come.
    """
    if world.size == 1:
        yield
        return
    if torch.cuda.is_available():
        _take_gpu(world.local_rank)
    store = _meet(world, environ, stopped)
    with _peers():
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            store=store,
            rank=world.rank,
            world_size=world.size,
            timeout=_PATIENCE,
        )
    try:
        yield
        world.broadcast(None)
    finally:
        dist.destroy_process_group()


def _meet(world: World, environ: Mapping[str, str], stopped: Callable[[], str | None]) -> Store:
    """Return the store through which all processes of ``world`` have found each other.

    Torch's own waiting hears no signal for as long as it lasts; here each leaves its name and looks for the others'.
    """
    names = [f"here/{rank}" for rank in range(world.size)]
    deadline = time.monotonic() + MEETING_SECONDS
    store: Store | None = None
    while store is None or not store.check(names):
        if store is None and (store := _reach_store(world, environ)) is not None:
            store.set_timeout(_PATIENCE)
            store.set(names[world.rank], "here")
        if reason := stopped():
            raise StoppedWaitingError(reason)
        if time.monotonic() > deadline:
            raise RunError(
                f"This is process {world.rank} of {world.size}; the others did not come within "
                f"{MEETING_SECONDS / 60:g} minutes.",
                remedy="Start them all. Where this one should be alone, unset RANK and WORLD_SIZE.",
                code="peers-missing",
            )
        time.sleep(_POLL_SECONDS)
    return store


def _reach_store(world: World, environ: Mapping[str, str]) -> Store | None:
    """Return the store that the environment names; None while the process that keeps it does not answer yet.

    The variables are those of torchrun, whose agent keeps the store for its processes; without it rank 0 does.
    """
    meeting = Handover.of(environ).meeting
    if meeting:
        return FileStore(str(meeting), world.size)
    try:
        host, port = environ["MASTER_ADDR"], int(environ["MASTER_PORT"])
    except (KeyError, ValueError) as error:
        raise RunError(
            f"RANK and WORLD_SIZE say that this is process {world.rank} of {world.size}, but MASTER_ADDR and "
            "MASTER_PORT do not say where they meet.",
            remedy="Resume the run or use torchrun, which start all of them; or unset RANK and WORLD_SIZE.",
            code="no-meeting",
        ) from error
    has_agent = environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        store: Store = TCPStore(
            host,
            port,
            is_master=world.rank == 0 and not has_agent,
            wait_for_workers=False,
            multi_tenant=True,
            timeout=timedelta(seconds=1),
        )
    except RuntimeError:  # nobody listens there yet
        return None
    attempt = environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return PrefixStore(f"tunesmith/attempt_{attempt}", store)


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

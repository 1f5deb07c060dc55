"""Data-parallel training: each process computes its share of a step's micro-batches, then gradients are summed.

Every process holds the whole model, reads the same rows and takes the same step from the same summed gradient, so
weights and optimizer state stay equal without being sent. Rank 0 alone writes files. Ranks come from torchrun's
variables (``RANK``, ``LOCAL_RANK``, ``WORLD_SIZE``). Processes that our supervisor started meet through a file, those
of torchrun, on one machine or several, at the address it gives them.
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
"""Elements per all-reduce: enough to hide the latency, few enough not to need a second copy of the model."""
MEETING_SECONDS = 600.0
"""How long a process waits at start for the others; torchrun waits for the other machines before it starts any."""
_POLL_SECONDS = 0.05
_PATIENCE = timedelta(days=1)
"""Limit of one collective operation, long since others wait while rank 0 evaluates and saves; a process that died
is noticed at once, by its closed connection."""

T = TypeVar("T")


class LostPeerError(Exception):
    """Another process of this run is gone; the supervisor that watches them knows why."""


class StoppedWaitingError(Exception):
    """This process was asked to stop, for ``reason``, while it waited for the others to start."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"Stopped while waiting for the other processes: {reason}.")
        self.reason = reason


@dataclass(frozen=True)
class World:
    """The rank of this process and the number of processes; in ``World()``, a single one, nothing is ever sent."""

    rank: int = 0
    size: int = 1
    local_size: int = 1
    local_rank: int = 0

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> World:
        """Read the ranks from environment variables; ``local_size`` processes share this machine.

        Raises RunError ``bad-rank`` if RANK, WORLD_SIZE and the others contradict each other.
        """
        try:
            rank, size = int(environ.get("RANK", "0")), int(environ.get("WORLD_SIZE", "1"))
            local_size = int(environ.get("LOCAL_WORLD_SIZE", size))
            local_rank = int(environ.get("LOCAL_RANK", rank % max(local_size, 1)))
        except ValueError:
            rank = size = local_size = local_rank = -1
        if not (0 <= rank < size and 0 <= local_rank < local_size <= size):
            names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
            given = ", ".join(f"{name}={environ[name]}" for name in names if name in environ)
            raise RunError(
                f"The environment names a place among processes that there cannot be: {given}.",
                remedy="Unset these variables; Tunesmith and torchrun set them for the processes they start.",
                code="bad-rank",
            )
        return cls(rank, size, local_size, local_rank)

    @property
    def is_main(self) -> bool:
        """True for rank 0, the process that writes the run's files."""
        return self.rank == 0

    def my_share(self, parts: Sequence[T]) -> list[T]:
        """Return this process's share of ``parts``, every ``size``-th of them; they take about equal time."""
        return list(parts[self.rank :: self.size])

    def all_reduce(self, numbers: Sequence[float], gradients: Sequence[Tensor] = ()) -> list[float]:
        """Return the sums of all processes' ``numbers``, one by one, and sum their ``gradients`` in place.

        All processes get the same bits. Raises LostPeerError.
        """
        if self.size == 1:
            return list(numbers)
        device = f"cuda:{self.local_rank}" if dist.get_backend() == "nccl" else "cpu"
        total = torch.tensor(numbers, dtype=torch.float64, device=device)
        with _lost_peers():
            dist.all_reduce(total)
            for bucket in _buckets(gradients) if gradients else ():
                flat = torch.cat([part.flatten() for part in bucket])
                dist.all_reduce(flat)
                start = 0
                for part in bucket:
                    part.copy_(flat[start : start + part.numel()].view_as(part))
                    start += part.numel()
        summed: list[float] = total.tolist()
        return summed

    def gather(self, value: T) -> list[T]:
        """Return every process's ``value``, by rank. Raises LostPeerError."""
        if self.size == 1:
            return [value]
        gathered: list[Any] = [None] * self.size
        with _lost_peers():
            dist.all_gather_object(gathered, value)
        return gathered

    def require_same(self, **values: object) -> None:
        """Raise RunError ``processes-disagree``, in every process, unless ``values`` are the same in all of them.

        Values are compared, and shown, as text. Raises LostPeerError.
        """
        if self.size == 1:
            return
        gathered = self.gather({name: str(value) for name, value in values.items()})
        for rank, other in enumerate(gathered):
            for name, value in gathered[0].items():
                if other[name] != value:
                    raise RunError(
                        f"Process {rank} of {self.size} has another {name.replace('_', ' ')} than process 0: "
                        f"{other[name]}, not {value}.",
                        remedy="All of them must see the same files and compute the same numbers. "
                        "Mend what that process sees, then resume.",
                        code="processes-disagree",
                    )

    def own_device(self, device: str) -> str:
        """Return ``device``; for "cuda" and several processes, the GPU with the index of ``local_rank``."""
        return f"{device}:{self.local_rank}" if self.size > 1 and device == "cuda" else device

    def broadcast(self, value: T) -> T:
        """Return rank 0's ``value`` in every process; those of the others are ignored. Raises LostPeerError."""
        if self.size == 1:
            return value
        values: list[Any] = [value]
        with _lost_peers():
            dist.broadcast_object_list(values)
        of_main: T = values[0]
        return of_main


ALONE = World()


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield runs of neighbouring tensors of one dtype, with at most ``BUCKET_ELEMENTS`` or a single larger one."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        full = sum(part.numel() for part in bucket) + tensor.numel() > BUCKET_ELEMENTS
        if bucket and (full or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    yield bucket


def weights_checksum(parameters: Iterable[Tensor]) -> str:
    """Return a checksum of float32 ``parameters``, 16 hexadecimal digits.

    Each tensor's bits are summed as integers: fast, on its own device, and independent of the order of the sum. A
    single changed bit changes the checksum.
    """
    sums = [int(part.detach().view(torch.int32).sum(dtype=torch.int64)) for part in parameters]
    return xxhash.xxh3_64_hexdigest(repr(sums).encode())


@contextlib.contextmanager
def joined(
    world: World, environ: Mapping[str, str], stopped: Callable[[], str | None] = lambda: None
) -> Iterator[None]:
    """Connect to the other processes for the time of the block; all leave it together.

    While waiting for the others, ``stopped`` is polled for a reason to give up. Raises LostPeerError,
    StoppedWaitingError, and RunError: ``too-few-gpus`` if there is no GPU for each process, ``no-meeting`` if the
    environment has no address to meet at, ``peers-missing`` if some processes do not come.
    """
    if world.size == 1:
        yield
        return
    if torch.cuda.is_available():
        _set_gpu(world.local_rank)
    store = _meet(world, environ, stopped)
    with _lost_peers():
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            store=store,
            rank=world.rank,
            world_size=world.size,
            timeout=_PATIENCE,
        )
    try:
        yield
        world.broadcast(None)  # a barrier: none closes its connection while another still computes
    finally:
        dist.destroy_process_group()


def _meet(world: World, environ: Mapping[str, str], stopped: Callable[[], str | None]) -> Store:
    """Return the store that all processes of ``world`` have joined.

    torch's own waiting cannot be interrupted by a signal. Here each process sets a key and polls for those of the
    others.
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
    """Return the store that the environment names; None while the process that hosts it does not answer yet.

    The variables are torchrun's. Its agent hosts the store for its processes; without an agent rank 0 does.
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
    except RuntimeError:  # nothing listens there yet
        return None
    attempt = environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return PrefixStore(f"tunesmith/attempt_{attempt}", store)


def _set_gpu(local_rank: int, count: Callable[[], int] = torch.cuda.device_count) -> None:
    if local_rank >= count():
        raise RunError(
            f"There are {count()} GPUs for more than {local_rank} processes.",
            remedy="Lower training.nproc_per_node, or let the run see more GPUs.",
            code="too-few-gpus",
        )
    torch.cuda.set_device(local_rank)


@contextlib.contextmanager
def _lost_peers() -> Iterator[None]:
    """Raise LostPeerError for the RuntimeError of torch when another process has closed its connection."""
    try:
        yield
    except RuntimeError as error:
        raise LostPeerError("Another process of this run is gone.") from error

"""Pack the rows of a step into micro-batches without padding, storing shared beginnings once.

Rows are sorted by their tokens, so that rows with a common beginning (a system prompt, an instruction, one prompt
with several answers) are neighbours; each row then stores only the tokens after what it shares with the row before
it. That is a prefix tree, laid out as one sequence. Attention is causal, so a shared token has the same hidden state
in every row, and loss and gradient are exactly those of the rows one by one. Attention itself runs on padded blocks
of rows of similar length (``MicroBatch.blocks``).

The order of rows is a pure function of (seed, epoch), and a step's rows one of the step number: resuming needs no
iterator state.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from backend.core.encoding.examples import Example, common_prefix
from backend.core.packed_attention import MicroBatch
from backend.run.schedule import steps_per_epoch

BLOCK_SLACK = 1.5
"""Rows share a block while the longest is at most this many times as long as the shortest."""
FEW, MANY, MANY_FROM = 4, 8, 2048
"""A step is cut into 4 micro-batches, from 2,048 tokens on into 8; each cut computes a shared beginning again."""


def epoch_order(rows: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order of the rows in one epoch, int64 [rows]: a permutation that depends on (seed, epoch) alone."""
    return np.random.default_rng([seed, epoch]).permutation(rows)


def step_rows(rows: int, batch_size: int, seed: int, first_step: int) -> Iterator[np.ndarray]:
    """Yield the row indices of each optimizer step from ``first_step`` (0-based) on, endlessly."""
    per_epoch = steps_per_epoch(rows, batch_size)
    epoch, within = divmod(first_step, per_epoch)
    while True:
        order = epoch_order(rows, seed, epoch)
        for index in range(within, per_epoch):
            yield order[index * batch_size : (index + 1) * batch_size]
        epoch, within = epoch + 1, 0


def micro_batches(examples: Sequence[Example]) -> int:
    """Return into how many micro-batches to cut these rows on CPU, where each runs on a core of its own.

    It depends on the rows and not on the number of cores: how a sum is split decides its last bits.
    """
    return MANY if sum(len(example.input_ids) for example in examples) >= MANY_FROM else FEW


@dataclass(frozen=True)
class Packing:
    """How a run packs rows into micro-batches, always the same rows alike: the same rows then have the same bits.

    ``budget`` and ``share_prefixes`` are those of ``pack``. ``on_cpu``: micro-batches run side by side, on a core
    each. ``processes`` share the micro-batches of a step.
    """

    budget: int
    share_prefixes: bool = True
    on_cpu: bool = True
    processes: int = 1

    def __call__(self, examples: Sequence[Example], group: int = 1) -> list[MicroBatch]:
        """Return the micro-batches of ``examples``; each ``group`` consecutive ones stay together."""
        parts = (micro_batches(examples) if self.on_cpu else 1) * self.processes
        return pack(
            examples, budget=self.budget, parts=parts, share_prefixes=self.share_prefixes, group=group
        )

    def smaller(self, examples: Sequence[Example], group: int = 1) -> Packing | None:
        """Return the packing whose budget is halved until ``examples`` are cut otherwise; None if they cannot be."""
        before, packing = len(self(examples, group)), self
        if before == len(examples) // group:
            return None
        while len(packing(examples, group)) == before:
            packing = replace(packing, budget=max(1, packing.budget // 2))
        return packing


def pack(
    examples: Sequence[Example], *, budget: int, parts: int = 1, share_prefixes: bool = True, group: int = 1
) -> list[MicroBatch]:
    """Pack the rows of one step into micro-batches, minimising the size of the largest.

    No micro-batch has more than ``budget`` distinct tokens unless a single group is larger: ``group`` consecutive
    examples, such as the two answers of a pair, are neighbours in one micro-batch. There are at most ``parts``
    micro-batches unless the budget needs more. The split depends on the arguments alone.
    """
    groups = [
        sorted(examples[start : start + group], key=_by_tokens) for start in range(0, len(examples), group)
    ]
    ordered = [example for each in sorted(groups, key=lambda each: _by_tokens(each[0])) for example in each]
    shared = [0] * len(ordered)
    if share_prefixes:
        shared[1:] = [common_prefix(a.input_ids, b.input_ids) for a, b in pairwise(ordered)]
    firsts = range(0, len(ordered), group)
    lengths = [
        sum(len(example.input_ids) for example in ordered[first : first + group])
        - sum(shared[first + 1 : first + group])
        for first in firsts
    ]
    before = [shared[first] for first in firsts]
    # the smallest limit, the budget at most, under which no more than ``parts`` micro-batches come out
    limit = bisect_left(range(budget), -parts, key=lambda limit: -len(_cuts(lengths, before, limit)))
    return [
        _lay_out(ordered[first * group : last * group], [0, *shared[first * group + 1 : last * group]])
        for first, last in _cuts(lengths, before, limit)
    ]


def _by_tokens(example: Example) -> tuple[list[int], str]:
    return example.input_ids.tolist(), example.row


def split_long_rows(batch: MicroBatch, longest: int) -> list[MicroBatch]:
    """Repack ``batch``: rows of at most ``longest`` tokens together, each longer row in a micro-batch of its own."""
    together = [example for example in batch.examples if len(example.input_ids) <= longest]
    alone = [[example] for example in batch.examples if len(example.input_ids) > longest]
    shares = len(batch.input_ids) < batch.tokens
    return [
        part.to(batch.input_ids.device)
        for rows in [together, *alone]
        if rows
        for part in pack(rows, budget=batch.tokens, share_prefixes=shares)
    ]


def _cuts(lengths: Sequence[int], shared: Sequence[int], limit: int) -> list[tuple[int, int]]:
    """Return the fewest half-open ranges of groups with at most ``limit`` distinct tokens each, or a single group.

    ``lengths[i]`` counts the distinct tokens of group i, ``shared[i]`` those of them that are the beginning of the
    group before it too; the first group of a range shares none.
    """
    cuts: list[tuple[int, int]] = []
    first, tokens = 0, lengths[0]
    for index in range(1, len(lengths)):
        added = lengths[index] - shared[index]
        if tokens + added > limit:
            cuts.append((first, index))
            first, tokens, added = index, 0, lengths[index]
        tokens += added
    return [*cuts, (first, len(lengths))]


def _lay_out(rows: Sequence[Example], shared: Sequence[int]) -> MicroBatch:
    """Lay sorted ``rows`` out as one micro-batch; ``shared[i]`` tokens of row i are those of the row before it."""
    ids: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    index_rows: list[np.ndarray] = []  # for each row, where its tokens stand in the sequence
    used = 0
    for example, prefix in zip(rows, shared, strict=True):
        length = len(example.input_ids)
        fresh = np.arange(used, used + length - prefix)
        index_rows.append(np.concatenate([index_rows[-1][:prefix], fresh]) if index_rows else fresh)
        ids.append(example.input_ids[prefix:])
        positions.append(np.arange(prefix, length))
        used += length - prefix
    blocks, lengths, slot_of_token = _blocks(index_rows, used)
    # the hidden state before a token predicts it, so the first token of a row is never a target
    targets = [np.flatnonzero(example.trained[1:]) + 1 for example in rows]
    select = [row[target - 1] for row, target in zip(index_rows, targets, strict=True)]
    labels = [example.input_ids[target] for example, target in zip(rows, targets, strict=True)]
    return MicroBatch(
        input_ids=_tensor(np.concatenate(ids)),
        position_ids=_tensor(np.concatenate(positions)),
        blocks=blocks,
        lengths=lengths,
        slot_of_token=slot_of_token,
        select=_tensor(np.concatenate(select)),
        labels=_tensor(np.concatenate(labels)),
        examples=tuple(rows),
    )


def _blocks(
    index_rows: Sequence[np.ndarray], tokens: int
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor]:
    """Return (blocks, lengths, slot_of_token) of a MicroBatch: rows of similar length padded together."""
    groups: list[list[np.ndarray]] = []
    for row in sorted(index_rows, key=len):
        if groups and len(row) <= BLOCK_SLACK * len(groups[-1][0]):
            groups[-1].append(row)
        else:
            groups.append([row])
    slot_of_token = np.empty(tokens, dtype=np.int64)
    blocks: list[Tensor] = []
    lengths: list[Tensor] = []
    start = 0
    for group in groups:
        width = len(group[-1])
        grid = np.empty((len(group), width), dtype=np.int64)
        for line, row in enumerate(group):
            grid[line, : len(row)] = row
            grid[line, len(row) :] = row[0]  # padding: any valid index will do
            slot_of_token[row] = start + line * width + np.arange(len(row))
        start += grid.size
        blocks.append(_tensor(grid))
        lengths.append(_tensor(np.array([len(row) for row in group])))
    return tuple(blocks), tuple(lengths), _tensor(slot_of_token)


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.int64))

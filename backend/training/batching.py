"""Examples become micro-batches: no padding in the matrix products, shared beginnings computed once.

The rows of a step are sorted by their tokens, so that rows with a common beginning (a system prompt, an
instruction, a whole prompt with several answers) stand side by side; each row then stores only the tokens in
which it differs from the row before it. What is left is a prefix tree, laid out as one sequence. Because
attention is causal, a shared token has the same hidden state in every row, so loss and gradient are exactly
those of the rows one by one. Attention itself runs on small rectangles of rows of similar length (``cells``).

The order of rows is a pure function of (seed, epoch), and a step's rows a pure function of the step number:
resuming needs no iterator state.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from backend.core.encoding.examples import Example, common_prefix
from backend.core.packed_attention import MicroBatch
from backend.run.schedule import steps_per_epoch

RECTANGLE_SLACK = 1.5
"""Rows share a rectangle while the longest is at most this many times the shortest."""
FEW, MANY, MANY_FROM = 4, 8, 2048
"""Micro-batches of a step, and of one with so many tokens or more; every cut computes a shared beginning again."""


def epoch_order(rows: int, seed: int, epoch: int) -> np.ndarray:
    """The order of the rows in one epoch, int64 [rows]: a permutation that depends on nothing else."""
    return np.random.default_rng([seed, epoch]).permutation(rows)


def step_rows(rows: int, batch_size: int, seed: int, first_step: int) -> Iterator[np.ndarray]:
    """Row indices of every optimizer step from ``first_step`` (0-based) on, without end."""
    per_epoch = steps_per_epoch(rows, batch_size)
    epoch, within = divmod(first_step, per_epoch)
    while True:
        order = epoch_order(rows, seed, epoch)
        for index in range(within, per_epoch):
            yield order[index * batch_size : (index + 1) * batch_size]
        epoch, within = epoch + 1, 0


def micro_batches(examples: Sequence[Example]) -> int:
    """Into how many micro-batches a processor cuts these rows, so that its cores work side by side.

    A property of the rows and not of the machine: how a sum is split decides its last bits.
    """
    return MANY if sum(len(example.input_ids) for example in examples) >= MANY_FROM else FEW


def pack(
    examples: Sequence[Example], *, budget: int, parts: int = 1, share_prefixes: bool = True
) -> list[MicroBatch]:
    """Lay the rows of one step out as micro-batches, the largest of them as small as it can be.

    No micro-batch computes more than ``budget`` tokens unless a single row is longer; no more than ``parts`` come
    out unless the budget asks for more. The split depends on the arguments alone.
    """
    ordered = sorted(examples, key=lambda example: (example.input_ids.tolist(), example.row))
    shared = [0] * len(ordered)
    if share_prefixes:
        shared[1:] = [common_prefix(a.input_ids, b.input_ids) for a, b in pairwise(ordered)]
    lengths = [len(example.input_ids) for example in ordered]
    limit = bisect_left(range(budget), -parts, key=lambda most: -len(_cuts(lengths, shared, most)))
    return [
        _lay_out(ordered[first:last], [0, *shared[first + 1 : last]])
        for first, last in _cuts(lengths, shared, limit)
    ]


def apart(batch: MicroBatch, longest: int) -> list[MicroBatch]:
    """The rows of ``batch`` again: those of at most ``longest`` tokens together, every longer one by itself."""
    together = [example for example in batch.examples if len(example.input_ids) <= longest]
    alone = [[example] for example in batch.examples if len(example.input_ids) > longest]
    shares = len(batch.input_ids) < batch.tokens
    return [
        part.to(batch.input_ids.device)
        for rows in [together, *alone]
        if rows
        for part in pack(rows, budget=batch.tokens, share_prefixes=shares)
    ]


def _cuts(lengths: Sequence[int], shared: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Half-open ranges of rows, as few as there can be, that compute at most ``most`` tokens or are one row."""
    cuts: list[tuple[int, int]] = []
    first, work = 0, lengths[0]
    for index in range(1, len(lengths)):
        added = lengths[index] - shared[index]
        if work + added > most:
            cuts.append((first, index))
            first, work, added = index, 0, lengths[index]
        work += added
    return [*cuts, (first, len(lengths))]


def _lay_out(rows: Sequence[Example], shared: Sequence[int]) -> MicroBatch:
    ids: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    index_rows: list[np.ndarray] = []
    used = 0
    for example, prefix in zip(rows, shared, strict=True):
        length = len(example.input_ids)
        fresh = np.arange(used, used + length - prefix)
        index_rows.append(np.concatenate([index_rows[-1][:prefix], fresh]) if index_rows else fresh)
        ids.append(example.input_ids[prefix:])
        positions.append(np.arange(prefix, length))
        used += length - prefix
    cells, lengths, cell_of_token = _rectangles(index_rows, used)
    targets = [np.flatnonzero(example.trained[1:]) + 1 for example in rows]
    select = [row[target - 1] for row, target in zip(index_rows, targets, strict=True)]
    labels = [example.input_ids[target] for example, target in zip(rows, targets, strict=True)]
    return MicroBatch(
        input_ids=_tensor(np.concatenate(ids)),
        position_ids=_tensor(np.concatenate(positions)),
        cells=cells,
        lengths=lengths,
        cell_of_token=cell_of_token,
        select=_tensor(np.concatenate(select)),
        labels=_tensor(np.concatenate(labels)),
        examples=tuple(rows),
    )


def _rectangles(
    index_rows: Sequence[np.ndarray], tokens: int
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor]:
    """Rows of similar length side by side, and for every token one cell that holds it."""
    groups: list[list[np.ndarray]] = []
    for row in sorted(index_rows, key=len):
        if groups and len(row) <= RECTANGLE_SLACK * len(groups[-1][0]):
            groups[-1].append(row)
        else:
            groups.append([row])
    cell_of_token = np.empty(tokens, dtype=np.int64)
    cells: list[Tensor] = []
    lengths: list[Tensor] = []
    start = 0
    for group in groups:
        width = len(group[-1])
        grid = np.empty((len(group), width), dtype=np.int64)
        for line, row in enumerate(group):
            grid[line, : len(row)] = row
            grid[line, len(row) :] = row[0]
            cell_of_token[row] = start + line * width + np.arange(len(row))
        start += grid.size
        cells.append(_tensor(grid))
        lengths.append(_tensor(np.array([len(row) for row in group])))
    return tuple(cells), tuple(lengths), _tensor(cell_of_token)


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.int64))

"""Packing loses, doubles and mixes up nothing, in whatever way the rows are cut, shared and grouped."""

from __future__ import annotations

from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backend.core.encoding.examples import Example, common_prefix
from backend.core.packed_attention import MicroBatch
from backend.run.schedule import steps_per_epoch
from backend.training.batching import (
    BLOCK_SLACK,
    Packing,
    epoch_order,
    micro_batches,
    pack,
    split_long_rows,
    step_rows,
)
from tests.backend.core.rows import example, random_pairs, random_rows


@st.composite
def _examples(draw: st.DrawFn) -> list[Example]:
    """Rows over a small vocabulary, so that beginnings, whole rows and lengths coincide often."""
    rows = draw(st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=24), min_size=1, max_size=10))
    masks = [draw(st.lists(st.booleans(), min_size=len(row) - 1, max_size=len(row) - 1)) for row in rows]
    return [
        example(row, [draw(st.booleans()), *mask[:-1], mask[-1] or not any(mask)], f"row {place}")
        for place, (row, mask) in enumerate(zip(rows, masks, strict=True))
    ]


def _rows(batch: MicroBatch) -> list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
    """(ids, positions, token indices) of every row of ``batch``, read back through its blocks."""
    found = []
    for grid, lengths in zip(batch.blocks, batch.lengths, strict=True):
        for line, length in zip(grid, lengths.tolist(), strict=True):
            indices = line[:length]
            ids, positions = batch.input_ids[indices], batch.position_ids[indices]
            found.append((tuple(ids.tolist()), tuple(positions.tolist()), tuple(indices.tolist())))
    return found


def _trained(examples: list[Example]) -> list[tuple[tuple[int, ...], int]]:
    """Every (tokens before, trained token) there is to learn in ``examples``."""
    return sorted(
        (tuple(row.input_ids[:at].tolist()), int(row.input_ids[at]))
        for row in examples
        for at in range(1, len(row.input_ids))
        if row.trained[at]
    )


def _learned(batches: list[MicroBatch]) -> list[tuple[tuple[int, ...], int]]:
    """Every (tokens before, label) that ``batches`` train, by walking from each selected token to its row."""
    learned = []
    for batch in batches:
        before = {
            indices[at]: ids[: at + 1] for ids, _, indices in _rows(batch) for at in range(len(indices))
        }
        learned += [
            (before[token], label)
            for token, label in zip(batch.select.tolist(), batch.labels.tolist(), strict=True)
        ]
    return sorted(learned)


_packing = given(
    examples=_examples(), budget=st.integers(1, 64), parts=st.integers(1, 4), share_prefixes=st.booleans()
)


@_packing
def test_every_row_is_read_back_once_with_its_positions(
    examples: list[Example], budget: int, parts: int, share_prefixes: bool
) -> None:
    batches = pack(examples, budget=budget, parts=parts, share_prefixes=share_prefixes)

    read = sorted((ids, positions) for batch in batches for ids, positions, _ in _rows(batch))

    assert read == sorted((tuple(e.input_ids.tolist()), tuple(range(len(e.input_ids)))) for e in examples)


@_packing
def test_exactly_the_trained_tokens_are_learned_each_after_its_own_beginning(
    examples: list[Example], budget: int, parts: int, share_prefixes: bool
) -> None:
    batches = pack(examples, budget=budget, parts=parts, share_prefixes=share_prefixes)

    assert _learned(batches) == _trained(examples)


@_packing
def test_every_token_is_read_from_a_cell_that_holds_it(
    examples: list[Example], budget: int, parts: int, share_prefixes: bool
) -> None:
    for batch in pack(examples, budget=budget, parts=parts, share_prefixes=share_prefixes):
        flat = torch.cat([grid.flatten() for grid in batch.blocks])
        real = torch.cat(
            [
                (torch.arange(grid.shape[1]) < lengths[:, None]).flatten()
                for grid, lengths in zip(batch.blocks, batch.lengths, strict=True)
            ]
        )

        assert flat[batch.slot_of_token].tolist() == list(range(len(batch.input_ids)))
        assert real[batch.slot_of_token].all()


@_packing
def test_the_budget_is_kept_unless_one_row_alone_is_longer(
    examples: list[Example], budget: int, parts: int, share_prefixes: bool
) -> None:
    batches = pack(examples, budget=budget, parts=parts, share_prefixes=share_prefixes)

    over = [batch for batch in batches if len(batch.input_ids) > budget]

    assert all(len(batch.rows) == 1 for batch in over)


@_packing
def test_no_more_parts_come_out_than_asked_for_unless_the_budget_asks(
    examples: list[Example], budget: int, parts: int, share_prefixes: bool
) -> None:
    fewest = len(pack(examples, budget=budget, share_prefixes=share_prefixes))

    batches = pack(examples, budget=budget, parts=parts, share_prefixes=share_prefixes)

    assert len(batches) <= max(parts, fewest)


@_packing
def test_no_other_cut_has_a_smaller_largest_part(
    examples: list[Example], budget: int, parts: int, share_prefixes: bool
) -> None:
    batches = pack(examples, budget=1000, parts=parts, share_prefixes=share_prefixes)
    largest = max(len(batch.input_ids) for batch in batches)

    smaller = pack(examples, budget=max(1, largest - 1), share_prefixes=share_prefixes)

    assert len(smaller) > parts or max(len(batch.input_ids) for batch in smaller) >= largest


@given(examples=_examples(), longest=st.integers(2, 24), share_prefixes=st.booleans())
def test_rows_set_apart_are_alone_where_they_are_longer_and_learn_the_same(
    examples: list[Example], longest: int, share_prefixes: bool
) -> None:
    (batch,) = pack(examples, budget=1000, share_prefixes=share_prefixes)

    parts = split_long_rows(batch, longest)

    assert all(part.longest <= longest or len(part.rows) == 1 for part in parts)
    assert _learned(parts) == _learned([batch])


@pytest.mark.parametrize(("lengths", "expected"), [([100] * 20, 4), ([100] * 21, 8), ([3000], 8), ([2], 4)])
def test_the_number_of_micro_batches_is_a_property_of_the_rows(lengths: list[int], expected: int) -> None:
    assert micro_batches(random_rows(lengths)) == expected


@_packing
def test_counts_and_names_are_those_of_the_rows(
    examples: list[Example], budget: int, parts: int, share_prefixes: bool
) -> None:
    batches = pack(examples, budget=budget, parts=parts, share_prefixes=share_prefixes)

    assert sum(batch.tokens for batch in batches) == sum(len(row.input_ids) for row in examples)
    assert sorted(name for batch in batches for name in batch.rows) == sorted(row.row for row in examples)


@_packing
def test_rows_in_one_block_are_of_similar_length_and_padded_with_their_own_first_token(
    examples: list[Example], budget: int, parts: int, share_prefixes: bool
) -> None:
    for batch in pack(examples, budget=budget, parts=parts, share_prefixes=share_prefixes):
        for grid, lengths in zip(batch.blocks, batch.lengths, strict=True):
            past = torch.arange(grid.shape[1]) >= lengths[:, None]

            assert grid.shape[1] == lengths.max() <= BLOCK_SLACK * lengths.min()
            assert torch.equal(grid[past], grid[:, :1].expand_as(grid)[past])


@given(examples=_examples())
def test_the_order_the_rows_come_in_changes_nothing(examples: list[Example]) -> None:
    first, second = pack(examples, budget=32, parts=2), pack(examples[::-1], budget=32, parts=2)

    assert [batch.rows for batch in first] == [batch.rows for batch in second]
    assert [batch.input_ids.tolist() for batch in first] == [batch.input_ids.tolist() for batch in second]


def test_a_shared_beginning_is_computed_once() -> None:
    rows = [example([1, 2, 3, 4], row="a"), example([1, 2, 3, 5, 6], row="b"), example([1, 2, 9], row="c")]

    (shared,) = pack(rows, budget=100)
    (unshared,) = pack(rows, budget=100, share_prefixes=False)

    assert shared.input_ids.tolist() == [1, 2, 3, 4, 5, 6, 9]
    assert shared.position_ids.tolist() == [0, 1, 2, 3, 3, 4, 2]
    assert len(unshared.input_ids) == shared.tokens == unshared.tokens == 12


def test_two_equal_rows_are_computed_once_and_learned_twice() -> None:
    rows = [example([1, 2, 3], row="a"), example([1, 2, 3], row="b"), example([1, 2, 9, 9], row="c")]

    (batch,) = pack(rows, budget=100)

    assert batch.input_ids.tolist() == [1, 2, 3, 9, 9]
    assert batch.labels.tolist() == [2, 3, 2, 3, 2, 9, 9]
    assert batch.select.tolist() == [0, 1, 0, 1, 0, 1, 3]


def test_a_first_token_marked_as_trained_has_nothing_to_predict_it() -> None:
    (batch,) = pack([example([7, 8], [1, 1])], budget=100)

    assert batch.labels.tolist() == [8]


@pytest.mark.parametrize(("parts", "expected"), [(1, 1), (2, 2), (3, 3), (50, 6)])
def test_about_as_many_parts_come_out_as_asked_for_of_about_equal_work(parts: int, expected: int) -> None:
    batches = pack(random_rows([20] * 6), budget=10_000, parts=parts)

    work = [len(batch.input_ids) for batch in batches]
    assert len(batches) == expected
    assert max(work) <= 2 * min(work)


def test_a_budget_cuts_where_the_next_row_would_break_it() -> None:
    rows = [example([n] * length, row=str(n)) for n, length in enumerate([10, 10, 10, 30, 10])]

    batches = pack(rows, budget=25)

    assert [batch.rows for batch in batches] == [("0", "1"), ("2",), ("3",), ("4",)]


def test_a_beginning_that_a_cut_parts_from_its_rows_counts_again() -> None:
    batches = pack(random_rows([10] * 8, shared=8), budget=14)

    assert [len(batch.input_ids) for batch in batches] == [14, 14, 12]


def test_a_batch_moves_whole() -> None:
    (batch,) = pack(random_rows([5, 9]), budget=100)

    moved = batch.to(torch.device("meta"))

    tensors = [moved.input_ids, moved.position_ids, *moved.blocks, *moved.lengths]
    tensors += [moved.slot_of_token, moved.select, moved.labels]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert (moved.tokens, moved.rows) == (batch.tokens, batch.rows)


@given(rows=st.integers(1, 60), seed=st.integers(0, 2**31 - 1), epoch=st.integers(0, 50))
def test_the_order_of_an_epoch_is_a_permutation_of_seed_and_epoch_alone(
    rows: int, seed: int, epoch: int
) -> None:
    np.random.seed(epoch)  # the global generator is none of its business

    order = epoch_order(rows, seed, epoch)

    assert sorted(order.tolist()) == list(range(rows))
    assert order.tolist() == epoch_order(rows, seed, epoch).tolist()


def test_seeds_and_epochs_are_shuffled_differently() -> None:
    orders = {tuple(epoch_order(30, seed, epoch).tolist()) for seed in range(3) for epoch in range(3)}

    assert len(orders) == 9


@given(
    rows=st.integers(1, 40),
    batch_size=st.integers(1, 16),
    seed=st.integers(0, 9),
    first_step=st.integers(0, 30),
)
def test_steps_resumed_anywhere_go_on_as_if_undisturbed(
    rows: int, batch_size: int, seed: int, first_step: int
) -> None:
    undisturbed = list(islice(step_rows(rows, batch_size, seed, 0), first_step + 8))
    resumed = list(islice(step_rows(rows, batch_size, seed, first_step), 8))

    assert [step.tolist() for step in undisturbed[first_step:]] == [step.tolist() for step in resumed]


@given(rows=st.integers(1, 40), batch_size=st.integers(1, 16))
def test_an_epoch_of_steps_holds_every_row_once(rows: int, batch_size: int) -> None:
    steps = steps_per_epoch(rows, batch_size)

    taken = list(islice(step_rows(rows, batch_size, 3, 0), 2 * steps))

    assert sorted(np.concatenate(taken[:steps]).tolist()) == list(range(rows))
    assert sorted(np.concatenate(taken[steps:]).tolist()) == list(range(rows))
    assert all(len(step) == batch_size for step in taken[: steps - 1])


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [([], [1], 0), ([1, 2], [1, 2], 2), ([1, 2, 3], [1, 2], 2), ([1, 2, 3], [1, 9, 3], 1), ([4], [5], 0)],
)
def test_a_common_prefix_ends_at_the_first_difference(
    first: list[int], second: list[int], expected: int
) -> None:
    assert common_prefix(np.array(first), np.array(second)) == expected


def test_neighbouring_rows_share_the_longest_beginning_they_can() -> None:
    rows = random_rows([12, 15, 9], shared=6)

    (batch,) = pack(rows, budget=1000)

    ordered = sorted(rows, key=lambda row: row.input_ids.tolist())
    saved = sum(common_prefix(a.input_ids, b.input_ids) for a, b in pairwise(ordered))
    assert len(batch.input_ids) == 12 + 15 + 9 - saved


def test_every_token_knows_the_length_of_its_row() -> None:
    lengths = [3, 9, 4, 17]
    rows = [example(range(10 * number, 10 * number + length)) for number, length in enumerate(lengths)]
    (batch,) = pack(rows, budget=1000, share_prefixes=False)
    told = batch.row_lengths()
    assert sorted(told.tolist()) == sorted(length for length in lengths for _ in range(length))
    starts = batch.position_ids == 0
    assert sorted(told[starts].tolist()) == sorted(lengths)


class TestGroups:
    @given(
        lengths=st.lists(st.integers(2, 30), min_size=2, max_size=24).filter(lambda each: len(each) % 2 == 0),
        budget=st.integers(1, 120),
        parts=st.integers(1, 8),
        group=st.sampled_from([1, 2]),
    )
    def test_a_group_is_never_cut_and_every_row_is_there(
        self, lengths: list[int], budget: int, parts: int, group: int
    ) -> None:
        rows = random_rows(lengths, shared=3)
        batches = pack(rows, budget=budget, parts=parts, group=group)
        together = [batch.rows for batch in batches]
        whole = [{row.row for row in rows[start : start + group]} for start in range(0, len(rows), group)]
        assert sorted(name for batch in together for name in batch) == sorted(row.row for row in rows)
        found = [
            set(batch[start : start + group]) for batch in together for start in range(0, len(batch), group)
        ]
        assert sorted(map(sorted, found)) == sorted(map(sorted, whole))
        assert all(len(batch.input_ids) <= max(budget, 1) or len(batch.rows) == group for batch in batches)

    def test_groups_of_one_are_packed_as_ever(self) -> None:
        rows = random_rows([9, 14, 20, 7], shared=3)
        plain, grouped = pack(rows, budget=30), pack(rows, budget=30, group=1)
        assert [batch.rows for batch in plain] == [batch.rows for batch in grouped]

    def test_the_prompt_of_a_pair_is_stored_once(self) -> None:
        pairs = random_pairs(1)
        (batch,) = pack(pairs, budget=10_000, group=2)
        prompt = int(pairs[0].trained.argmax())
        answers = sum(int(row.trained.sum()) for row in pairs)
        assert len(batch.input_ids) <= prompt + answers


class TestPacking:
    def test_it_is_cut_for_cores_and_processes(self) -> None:
        rows = random_rows([9] * 32)
        assert len(Packing(10_000)(rows)) == 4
        assert len(Packing(10_000, processes=2)(rows)) == 8
        assert len(Packing(10_000, on_cpu=False)(rows)) == 1
        assert len(Packing(10, on_cpu=False)(rows)) == 32

    def test_beginnings_are_shared_if_asked(self) -> None:
        rows = random_rows([9, 9], shared=5)
        tokens = [
            sum(len(batch.input_ids) for batch in Packing(10_000, share_prefixes=shared, on_cpu=False)(rows))
            for shared in (True, False)
        ]
        assert tokens == [13, 18]


def test_a_smaller_packing_cuts_the_same_rows_otherwise_and_single_rows_cannot_be_cut() -> None:
    rows = random_rows([10] * 6)
    whole = Packing(100, on_cpu=False)

    halves = whole.smaller(rows)
    singles = Packing(10, on_cpu=False)

    assert halves == Packing(50, on_cpu=False)
    assert [len(part.rows) for part in whole(rows)] == [6]
    assert [len(part.rows) for part in halves(rows)] == [5, 1]
    assert singles.smaller(rows) is None
    assert Packing(1000, on_cpu=False).smaller(rows) == Packing(31, on_cpu=False)


def test_pairs_stay_together_in_a_smaller_packing() -> None:
    rows = random_rows([10] * 4)

    assert Packing(40, on_cpu=False).smaller(rows, 2) == Packing(20, on_cpu=False)
    assert Packing(20, on_cpu=False).smaller(rows, 2) is None

"""The held-out rows: loss, sample answers on a fixed panel, exact match."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from backend.core.device import ComputePlan
from backend.core.encoding.examples import Example, Question
from backend.core.lanes import Lanes
from backend.inference.decoding import Decoding, Sampling, for_inference
from backend.run.reports import EvalReport, Sample
from backend.training.batching import micro_batches, pack
from backend.training.forward import ForwardPass

ROWS_AT_ONCE = 64
"""Held-out rows whose loss is packed together."""
ANSWERS_AT_ONCE = 32
"""Questions that one lane answers side by side; a constant, so that answers do not depend on the number of cores."""


def held_out_loss(
    forward: ForwardPass, examples: Sequence[Example], plan: ComputePlan, *, budget: int
) -> tuple[float, int]:
    """(mean cross-entropy in nats per trained token, number of those tokens), without gradients.

    The sum runs in the order of the micro-batches, so it is the same for any number of lanes.
    """
    device = torch.device(plan.device)
    chunks = (examples[i : i + ROWS_AT_ONCE] for i in range(0, len(examples), ROWS_AT_ONCE))
    batches = [
        batch
        for chunk in chunks
        for batch in pack(chunk, budget=budget, parts=micro_batches(chunk), share_prefixes=forward.packed)
    ]

    def compute(item: int) -> float:
        with torch.no_grad(), forward.autocast(plan):
            return float(forward.loss_sum(batches[item].to(device)))

    training = forward.model.training
    forward.model.eval()
    try:
        with Lanes(plan.lanes, plan.threads) as pool:
            total = sum(pool.map(compute, range(len(batches))))
    finally:
        forward.model.train(training)
    tokens = sum(len(batch.labels) for batch in batches)
    return total / tokens, tokens


def answers(
    forward: ForwardPass,
    questions: Sequence[Question],
    plan: ComputePlan,
    *,
    stop_ids: Collection[int],
    max_new_tokens: int,
    known: Tensor | None = None,
) -> Iterator[tuple[Question, list[int]]]:
    """Greedy answers as token ids, end token left out; in order. The lanes of ``plan`` share the questions.

    ``known`` bool [V] says which token ids may be said at all, see ``known_ids``.
    """
    sampling = Sampling(max_new_tokens=max_new_tokens)

    def answer(chunk: Sequence[Question]) -> list[list[int]]:
        prompts = [question.prompt_ids for question in chunk]
        decoding = Decoding(forward.model, prompts, sampling, stop_ids, known=known)
        said: list[list[int]] = [[] for _ in chunk]
        while decoding.rows:
            for token in decoding.step():
                if token.finish != "stop":
                    said[token.row].append(token.token_id)
        return said

    starts = range(0, len(questions), ANSWERS_AT_ONCE)
    chunks = [questions[start : start + ANSWERS_AT_ONCE] for start in starts]
    with for_inference(forward.model), Lanes(plan.lanes, plan.threads) as pool:
        for chunk, said in zip(chunks, pool.map(answer, chunks), strict=True):
            yield from zip(chunk, said, strict=True)


@dataclass(frozen=True)
class HeldOut:
    """What is held out: ``examples`` for the loss, ``panel`` to be shown, ``scored`` for exact match."""

    examples: Sequence[Example]
    panel: Sequence[Question] = ()
    scored: Sequence[Question] = ()


def evaluate(
    forward: ForwardPass,
    held_out: HeldOut,
    plan: ComputePlan,
    *,
    budget: int,
    max_new_tokens: int,
    stop_ids: Collection[int],
    decode: Callable[[Sequence[int]], str],
    step: int,
    epoch: float,
    known: Tensor | None = None,
) -> EvalReport:
    """The whole evaluation at one step as a report.

    ``decode`` turns token ids into text; ``known`` is that of ``answers``.
    """
    started = time.perf_counter()
    loss, tokens = held_out_loss(forward, held_out.examples, plan, budget=budget)

    def answered(questions: Sequence[Question]) -> tuple[Sample, ...]:
        said = answers(
            forward, questions, plan, stop_ids=stop_ids, max_new_tokens=max_new_tokens, known=known
        )
        return tuple(Sample(q.row, q.prompt, q.expected, decode(ids)) for q, ids in said)

    matches = [sample.exact_match for sample in answered(held_out.scored)]
    return EvalReport(
        step=step,
        epoch=epoch,
        loss=loss,
        trained_tokens=tokens,
        rows=len(held_out.examples),
        seconds=time.perf_counter() - started,
        exact_match=sum(matches) / len(matches) if matches else None,
        scored_rows=len(matches),
        samples=answered(held_out.panel),
    )

"""Evaluation of a model while it trains: held-out loss, sample answers on a fixed panel, exact match."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from backend import data_pipeline
from backend.core.device import ComputePlan, is_out_of_memory
from backend.core.encoding.examples import Example, Question
from backend.core.encoding.prompts import Prompt
from backend.core.lanes import Lanes
from backend.core.packed_attention import MicroBatch
from backend.core.tokenizer import decode, stop_token_ids
from backend.core.vocabulary import known_ids
from backend.data_pipeline import Dataset
from backend.errors import TrainingError
from backend.inference.decoding import Decoding, Sampling, for_inference
from backend.run.config import RunConfig
from backend.run.reports import EvalReport, Progress, Sample, Watcher
from backend.training.batching import Packing
from backend.training.distributed import ALONE
from backend.training.forgetting import general_examples
from backend.training.forward import ForwardPass
from backend.training.generation import decoding_lanes, prove_generation
from backend.training.judge import Judge
from backend.training.loop import TrainState
from backend.training.memory import first_that_fits
from backend.training.objective import Means, Objective, Supervised, merged, trained_tokens
from backend.training.scoring import total_over
from backend.training.texts import bits_per_byte, continuations, predicted_bytes

ROWS_AT_ONCE = 256
"""Held-out rows whose loss is packed together, which shares their beginnings once for each micro-batch."""
ANSWERS_AT_ONCE = 32
"""Questions decoded in one batch; a constant, so that answers do not depend on the number of cores."""
SHORT_ANSWER_TOKENS = 32
"""Exact match is computed only when no held-out answer is longer than this, in tokens."""
SHORT_ANSWER_CHARACTERS = 8 * SHORT_ANSWER_TOKENS
"""The same limit in characters: a row cut at data.max_length has only the first tokens of its answer."""


@dataclass(frozen=True)
class HeldOutLoss:
    """The loss of the held-out rows, the number of their trained tokens, and what else the objective measures."""

    loss: float
    trained_tokens: int
    measured: Mapping[str, float]


def held_out_loss(
    forward: ForwardPass,
    examples: Sequence[Example],
    plan: ComputePlan,
    *,
    budget: int,
    objective: Objective | None = None,
) -> HeldOutLoss:
    """Return the loss of ``objective``, by default the mean cross-entropy, over all examples; no gradients are kept.

    Micro-batches are summed in their order, so the result is the same for any number of lanes. Where memory runs out,
    they are made smaller. Raises TrainingError ``out-of-memory`` where even single rows do not fit.
    """
    objective = objective or Supervised()
    packing = held_out_packing(forward, budget)
    training = forward.model.training
    forward.model.eval()
    try:
        compute = partial(_held_out_loss, forward, examples, plan, objective)
        smaller = partial(Packing.smaller, examples=examples, group=objective.group)
        return first_that_fits(packing, compute, smaller)[1]
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(
            f"Memory ran out while held-out rows were evaluated, with a row of up to "
            f"{max(len(example.input_ids) for example in examples)} tokens at once.",
            remedy="Start a new run with a lower data.max_length, or with shorter held-out rows.",
            code="out-of-memory",
        ) from error
    finally:
        forward.model.train(training)


def _held_out_loss(
    forward: ForwardPass,
    examples: Sequence[Example],
    plan: ComputePlan,
    objective: Objective,
    packing: Packing,
) -> HeldOutLoss:
    device = torch.device(plan.device)
    batches = [batch for chunk in at_once(examples) for batch in packing(chunk, objective.group)]

    def compute(batch: MicroBatch) -> tuple[float, Means]:
        with torch.no_grad(), forward.autocast(plan):
            found = loss_of(forward, batch.to(device))
        return float(found.share), found.means

    with Lanes(plan.lanes, plan.threads) as pool:
        loss_of = objective.of_step(batches, total_over(forward, packing, plan, pool, ALONE))
        found = list(pool.map(compute, batches))
    measured = objective.measured(merged([means for _, means in found]))
    return HeldOutLoss(sum(share for share, _ in found), trained_tokens(batches), measured)


def held_out_packing(forward: ForwardPass, budget: int) -> Packing:
    """Return how held-out rows are packed: in evaluation mode nothing is random, so they share beginnings."""
    return Packing(budget, share_prefixes=forward.packed)


def at_once(examples: Sequence[Example]) -> list[Sequence[Example]]:
    """Return held-out examples in the parts that are packed together."""
    return [examples[start : start + ROWS_AT_ONCE] for start in range(0, len(examples), ROWS_AT_ONCE)]


def answers(
    forward: ForwardPass,
    questions: Sequence[Question],
    plan: ComputePlan,
    *,
    stop_ids: Collection[int],
    max_new_tokens: int,
    known: Tensor | None = None,
) -> Iterator[tuple[Question, list[int]]]:
    """Yield each question with the token ids of its greedy answer, without the end token, in order.

    The questions are decoded in batches, spread over the lanes of ``plan``. ``known`` bool [V] masks the token ids
    that may be generated, see ``known_ids``.
    """
    sampling = Sampling(max_new_tokens=max_new_tokens)

    def answer(chunk: Sequence[Question]) -> list[list[int]]:
        prompts = [question.prompt_ids for question in chunk]
        decoding = Decoding(forward.model, prompts, sampling, stop_ids, known=known)
        generated: list[list[int]] = [[] for _ in chunk]
        while decoding.rows:
            for token in decoding.step():
                if token.finish != "stop":
                    generated[token.row].append(token.token_id)
        return generated

    starts = range(0, len(questions), ANSWERS_AT_ONCE)
    chunks = [questions[start : start + ANSWERS_AT_ONCE] for start in starts]
    with for_inference(forward.model), decoding_lanes(forward, plan) as pool:
        for chunk, generated in zip(chunks, pool.map(answer, chunks), strict=True):
            yield from zip(chunk, generated, strict=True)


@dataclass(frozen=True)
class HeldOut:
    """The held-out rows: ``examples`` for the loss, ``panel`` for sample answers, ``scored`` for exact match.

    ``text_bytes``: the UTF-8 bytes that the trained tokens spell, 0 unless all rows are texts. ``general``: examples
    that show what is forgotten. ``rewarded``: prompts whose likeliest answers are rewarded.
    """

    examples: Sequence[Example]
    panel: Sequence[Question] = ()
    scored: Sequence[Question] = ()
    text_bytes: int = 0
    general: Sequence[Example] = ()
    rewarded: Sequence[Prompt] = ()


def evaluate(
    forward: ForwardPass,
    held_out: HeldOut,
    plan: ComputePlan,
    *,
    budget: int,
    max_new_tokens: int,
    stop_ids: Collection[int],
    to_text: Callable[[Sequence[int]], str],
    step: int,
    epoch: float,
    known: Tensor | None = None,
    objective: Objective | None = None,
    judge: Judge | None = None,
) -> EvalReport:
    """Return the report of one evaluation: held-out loss, exact match, sample answers.

    ``to_text`` decodes token ids; ``known`` is passed to ``answers``, ``objective`` to ``held_out_loss``. ``judge``
    measures the answers to ``held_out.rewarded``. Without examples there is no loss.
    """
    started = time.perf_counter()
    found = HeldOutLoss(0.0, 0, {})
    if held_out.examples:
        found = held_out_loss(forward, held_out.examples, plan, budget=budget, objective=objective)
    measured = dict(found.measured)
    if held_out.text_bytes:
        nats = found.loss * found.trained_tokens
        measured["bits_per_byte"] = bits_per_byte(nats, held_out.text_bytes)
    if held_out.general:
        measured["forgetting_loss"] = held_out_loss(forward, held_out.general, plan, budget=budget).loss

    def answered(questions: Sequence[Question]) -> tuple[Sample, ...]:
        pairs = answers(
            forward, questions, plan, stop_ids=stop_ids, max_new_tokens=max_new_tokens, known=known
        )
        return tuple(Sample(q.row, q.prompt, q.expected, to_text(ids)) for q, ids in pairs)

    if judge is not None and held_out.rewarded:
        said = answers(
            forward,
            held_out.rewarded,
            plan,
            stop_ids=stop_ids,
            max_new_tokens=judge.max_completion_length,
            known=known,
        )
        measured |= judge([ids for _, ids in said])
    matches = [sample.exact_match for sample in answered(held_out.scored)]
    return EvalReport(
        step=step,
        epoch=epoch,
        loss=found.loss if held_out.examples else None,
        trained_tokens=found.trained_tokens,
        rows=max(len(held_out.examples) // (objective.group if objective else 1), len(held_out.rewarded)),
        seconds=time.perf_counter() - started,
        exact_match=sum(matches) / len(matches) if matches else None,
        scored_rows=len(matches),
        samples=answered(held_out.panel),
        measured=measured,
    )


def held_out(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, config: RunConfig) -> HeldOut:
    """Return the held-out rows of ``dataset``: loss rows, a panel spread evenly over them, rows for exact match.

    Only short answers are scored. A row that ``data.truncation`` drops from the loss gets no question either. Of
    texts the panel has the beginnings.
    """
    if not dataset.validation:
        return HeldOut([])
    if config.objective.facts.samples:
        return _held_out_prompts(dataset, tokenizer, config)
    encoded = data_pipeline.encode(dataset.validation, tokenizer, config.data, method=config.objective.method)
    examples = list(encoded)
    kept = {example.row for example in examples}
    questions = [
        question
        for question in data_pipeline.questions(dataset.validation, tokenizer)
        if question.row in kept and len(question.prompt_ids) < config.data.max_length
    ]
    short = all(int(example.trained.sum()) <= SHORT_ANSWER_TOKENS for example in examples) and all(
        len(question.expected) <= SHORT_ANSWER_CHARACTERS for question in questions
    )
    every = max(1, len(questions) // max(1, config.evaluation.sample_rows))
    panel = questions[::every][: config.evaluation.sample_rows]
    if not panel:
        wanted, length = config.evaluation.sample_rows, config.evaluation.max_new_tokens
        panel = continuations(dataset.validation, encoded, tokenizer, count=wanted, length=length)
    return HeldOut(
        examples,
        panel,
        questions[: config.evaluation.score_rows] if short else [],
        predicted_bytes(dataset.validation, encoded, tokenizer),
        general_examples(tokenizer, config.data.max_length) if config.watches_forgetting else [],
    )


def _held_out_prompts(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, config: RunConfig) -> HeldOut:
    """Return the held-out rows of a run that samples answers: their prompts, and the loss of those with an answer."""
    evaluation, held_by = config.evaluation, config.data.validation
    source = held_by if isinstance(held_by, str) else config.data.train
    prompts = data_pipeline.prompts_of(dataset.validation, source, tokenizer, config)
    kept = {prompt.row for prompt in prompts if prompt.expected}
    answered = [row for row in dataset.validation if row.place in kept]
    rewarded = prompts[: evaluation.score_rows]
    every = max(1, len(prompts) // max(1, evaluation.sample_rows))
    return HeldOut(
        list(data_pipeline.encode(answered, tokenizer, config.data)) if answered else [],
        prompts[::every][: evaluation.sample_rows],
        rewarded=rewarded,
    )


class Evaluator:
    """Evaluates the model in ``state`` as training goes on; ``possible`` is False without held-out rows.

    The constructor raises ModelError ``cannot-generate`` for a model that cannot decode the sample answers: better
    before training than after the first epoch.
    """

    def __init__(
        self,
        config: RunConfig,
        plan: ComputePlan,
        state: TrainState,
        tokenizer: PreTrainedTokenizerBase,
        held_out: HeldOut,
        watch: Watcher,
        objective: Objective | None = None,
        judge: Judge | None = None,
    ) -> None:
        self.possible = bool(held_out.examples or held_out.rewarded)
        self._config, self._plan, self._state, self._tokenizer = config, plan, state, tokenizer
        self._held_out, self._watch, self._objective = held_out, watch, objective
        self._judge = judge
        if held_out.panel or held_out.scored or held_out.rewarded:
            prove_generation(state.forward.model)
        rows = state.forward.causal.get_input_embeddings().weight.shape[0]
        self._known = known_ids(tokenizer, rows)
        self._stop_ids = stop_token_ids(tokenizer, state.forward.causal.generation_config.eos_token_id)

    def __call__(self, step: int, epoch: float, *, score: bool = False) -> EvalReport:
        """Return the report at ``step``; ``score`` adds exact match over ``HeldOut.scored``."""
        self._watch(Progress("evaluating"))
        asked = self._config.training.micro_batch_tokens
        report = evaluate(
            self._state.forward,
            self._held_out if score else replace(self._held_out, scored=()),
            self._plan,
            budget=self._state.fitting.get(asked, asked),
            max_new_tokens=self._config.evaluation.max_new_tokens,
            stop_ids=self._stop_ids,
            to_text=lambda ids: decode(self._tokenizer, ids),
            step=step,
            epoch=epoch,
            known=self._known,
            objective=self._objective,
            judge=self._judge,
        )
        self._watch(Progress("training", report))
        return report

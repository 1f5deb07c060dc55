"""How a run is judged while it trains: held-out loss, answers on a fixed panel, exact match at the end."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from backend import data_pipeline
from backend.core.device import ComputePlan
from backend.core.tokenizer import decode, stop_token_ids
from backend.core.vocabulary import known_ids
from backend.data_pipeline import Dataset
from backend.inference.decode_proof import prove_decoding
from backend.run.config import RunConfig
from backend.run.reports import EvalReport, Progress, Watcher
from backend.training.evaluation import HeldOut, evaluate
from backend.training.loop import TrainState

SHORT_ANSWER_TOKENS = 32
"""Held-out answers are scored by exact match when none of them is longer than this, in tokens."""
SHORT_ANSWER_CHARACTERS = 8 * SHORT_ANSWER_TOKENS
"""The same for the whole answer, of which a row that was cut at data.max_length has only the beginning."""


def held_out(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, config: RunConfig) -> HeldOut:
    """Loss rows, a fixed panel spread over the set, and the rows to score where answers are short.

    A row that ``data.truncation`` leaves out of the loss is not asked either.
    """
    if not dataset.validation:
        return HeldOut([])
    examples = list(data_pipeline.encode(dataset.validation, tokenizer, config.data))
    stayed = {example.row for example in examples}
    questions = [
        question
        for question in data_pipeline.questions(dataset.validation, tokenizer)
        if question.row in stayed and len(question.prompt_ids) < config.data.max_length
    ]
    short = all(int(example.trained.sum()) <= SHORT_ANSWER_TOKENS for example in examples) and all(
        len(question.expected) <= SHORT_ANSWER_CHARACTERS for question in questions
    )
    every = max(1, len(questions) // max(1, config.evaluation.sample_rows))
    panel = questions[::every][: config.evaluation.sample_rows]
    return HeldOut(examples, panel, questions[: config.evaluation.score_rows] if short else [])


class Evaluator:
    """Evaluates the model as it stands; ``possible`` only where rows are held out.

    Raises ModelError ``cannot-generate`` for a model that answers could not be written with, before it is trained.
    """

    def __init__(
        self,
        config: RunConfig,
        plan: ComputePlan,
        state: TrainState,
        tokenizer: PreTrainedTokenizerBase,
        held_out: HeldOut,
        watch: Watcher,
    ) -> None:
        self.possible = bool(held_out.examples)
        self._config, self._plan, self._state, self._tokenizer = config, plan, state, tokenizer
        self._held_out, self._watch = held_out, watch
        if held_out.panel or held_out.scored:
            prove_decoding(state.forward.model)
        rows = state.forward.causal.get_input_embeddings().weight.shape[0]
        self._known = known_ids(tokenizer, rows)
        self._stop_ids = stop_token_ids(tokenizer, state.forward.causal.generation_config.eos_token_id)

    def __call__(self, step: int, epoch: float, *, score: bool = False) -> EvalReport:
        """The report at ``step``; ``score`` adds exact match over the rows to score. Raises nothing of its own."""
        self._watch(Progress("evaluating"))
        report = evaluate(
            self._state.forward,
            self._held_out if score else HeldOut(self._held_out.examples, self._held_out.panel),
            self._plan,
            budget=self._config.training.micro_batch_tokens,
            max_new_tokens=self._config.evaluation.max_new_tokens,
            stop_ids=self._stop_ids,
            decode=lambda ids: decode(self._tokenizer, ids),
            step=step,
            epoch=epoch,
            known=self._known,
        )
        self._watch(Progress("training", report))
        return report

"""How often a model prefers the better of two answers, by their log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence

from backend.core.device import plan_compute
from backend.core.encoding.dataset import encode
from backend.data.records import Row
from backend.inference.decoding import context_length
from backend.inferencer import Inferencer
from backend.run.config import DataConfig
from backend.training.distributed import ALONE
from backend.training.evaluation import at_once, held_out_packing
from backend.training.forward import choose_forward
from backend.training.reference import answer_of, logprobs_of

TOKENS = 1024
"""Tokens computed at once."""
Both = tuple[float, float]
"""The log-probabilities of the better and of the worse answer, summed over their tokens, in nats."""


def pair_logprobs(inferencer: Inferencer, rows: Sequence[Row], data: DataConfig) -> list[Both]:
    """Return the log-probabilities of both answers of each pair under the model in use.

    Pairs that ``data.truncation`` drops are left out. The model computes packed rows afterwards, so answer nothing
    with it any more. Raises what ``encode`` raises.
    """
    encoded = encode(rows, inferencer.tokenizer, data, method="dpo")
    model = inferencer.model
    encoded.require_fit(context_length(model), model.get_input_embeddings().weight.shape[0])
    plan = plan_compute("float32")
    forward = choose_forward(model, longest_row=data.max_length, plan=plan)
    examples = list(encoded)
    found = logprobs_of(forward, at_once(examples), held_out_packing(forward, TOKENS), plan, ALONE, group=2)
    each = [found[answer_of(example)] for example in examples]
    return list(zip(each[0::2], each[1::2], strict=True))

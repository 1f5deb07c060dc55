"""A teacher reads rows: its likeliest tokens at each trained token, for a student that learns from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from backend.core.device import ComputePlan, plan_compute
from backend.core.encoding.dataset import encode
from backend.core.encoding.examples import Example
from backend.core.encoding.teacher import Provenance, Said, template_sha256, tokenizer_sha256, write_teacher
from backend.core.lanes import Lanes
from backend.core.model_folder import model_fingerprint
from backend.core.packed_attention import MicroBatch
from backend.core.tokenizer import load_tokenizer
from backend.core.vocabulary import known_ids
from backend.data_pipeline import Dataset
from backend.errors import DataError
from backend.inference.decoding import context_length
from backend.inference.model_source import find_model
from backend.inferencer import Inferencer
from backend.run.config import DataConfig
from backend.run.folder import RunDir
from backend.run.settings import template_text
from backend.training.batching import Packing, split_long_rows
from backend.training.forward import ForwardPass, choose_forward

ROWS_AT_ONCE = 64
"""Rows that are packed together."""
_TOKENS = 1024
"""Tokens computed at once."""


def read_rows(
    forward: ForwardPass,
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    plan: ComputePlan,
    *,
    k: int,
    temperature: float = 1.0,
    budget: int = 1024,
    note: Callable[[int], None] = lambda _: None,
) -> Iterator[tuple[Example, Said]]:
    """Yield each row with the ``k`` likeliest tokens at each of its trained tokens, by a model in evaluation mode.

    Log-probabilities are those of softmax(logits / ``temperature``) over the whole vocabulary. ``note`` is told how
    many rows are done. Raises DataError ``bad-k`` if the tokenizer has fewer than ``k`` tokens.
    """
    width = forward.causal.get_output_embeddings().weight.shape[0]
    known = known_ids(tokenizer, width)
    there = width if known is None else int(known.sum())
    if not 1 <= k <= there:
        raise DataError(
            f"The teacher knows {there:,} tokens, and the likeliest {k:,} of them were asked for.",
            remedy=f"Ask for 1 to {there:,}; 32 are usual.",
            code="bad-k",
        )
    unknown = None if known is None else ~known.to(plan.device)
    device = torch.device(plan.device)

    def compute(batch: MicroBatch) -> list[tuple[Example, Said]]:
        with torch.no_grad(), forward.autocast(plan):
            found = [
                _likeliest(logits, k, temperature, unknown)
                for logits in forward.token_logits(batch.to(device))
            ]
        ids, logprobs = (torch.cat(part).numpy() for part in zip(*found, strict=True))
        ends = np.cumsum([0, *(int(example.trained[1:].sum()) for example in batch.examples)])
        return [
            (example, Said(ids[start:end], logprobs[start:end]))
            for example, (start, end) in zip(batch.examples, pairwise(ends), strict=True)
        ]

    packing, done = Packing(budget, share_prefixes=forward.packed), 0
    with Lanes(plan.lanes, plan.threads) as pool:
        for start in range(0, len(examples), ROWS_AT_ONCE):
            chunk = examples[start : start + ROWS_AT_ONCE]
            longest = forward.steady_length
            batches = [
                part
                for batch in packing(chunk)
                for part in (split_long_rows(batch, longest) if longest is not None else [batch])
            ]
            for read in pool.map(compute, batches):
                yield from read
            done += len(chunk)
            note(done)


def _likeliest(logits: Tensor, k: int, temperature: float, unknown: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return (ids int32 [n, k], log-probabilities fp32 [n, k + 1]), the last of all other tokens together."""
    soft = logits.float() / temperature
    norm = torch.logsumexp(soft, -1, keepdim=True)
    ranked = soft if unknown is None else soft.masked_fill(unknown, -torch.inf)
    likeliest, ids = ranked.topk(k, -1)
    others = torch.logsumexp(soft.scatter(1, ids, -torch.inf), -1, keepdim=True)
    return ids.int().cpu(), (torch.cat([likeliest, others], 1) - norm).cpu()


class Reader:
    """A teacher in memory: a run, model folder, alias or Hub id; ``chat_template`` replaces its own.

    Use it in a ``with`` block. Raises what ``inferencer.Inferencer`` raises, and those of ``load_tokenizer``.
    """

    def __init__(
        self,
        source: str | Path | RunDir,
        *,
        checkpoint: int | str | None = None,
        base_model: str | Path | None = None,
        chat_template: str | None = None,
    ) -> None:
        self._name = source.id if isinstance(source, RunDir) else str(source)
        self._source = find_model(source, checkpoint=checkpoint, base_model=base_model)
        self._inferencer = Inferencer(source, checkpoint=checkpoint, base_model=base_model)
        self._tokenizer = self._inferencer.tokenizer
        if chat_template is not None:
            self._tokenizer = load_tokenizer(
                self._source.tokenizer, chat_template=template_text(chat_template)
            )

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._inferencer.close()

    def write(
        self,
        out: Path,
        dataset: Dataset,
        data: DataConfig,
        *,
        k: int,
        temperature: float,
        note: Callable[[int], None] = lambda _: None,
    ) -> int:
        """Read the training rows of ``dataset`` and write what the teacher says; return the number of rows.

        Raises what ``encode`` and ``read_rows`` raise; nothing is then written.
        """
        rows = encode(dataset.train, self._tokenizer, data)
        model = self._inferencer.model
        rows.require_fit(context_length(model), model.get_input_embeddings().weight.shape[0])
        plan = plan_compute("float32")
        forward = choose_forward(model, longest_row=data.max_length, plan=plan)
        said = read_rows(
            forward, rows, self._tokenizer, plan, k=k, temperature=temperature, budget=_TOKENS, note=note
        )
        about = Provenance(
            teacher=self._name,
            fingerprint=self._fingerprint(),
            tokenizer=tokenizer_sha256(self._tokenizer),
            chat_template=template_sha256(self._tokenizer),
            k=k,
            temperature=temperature,
            rows=Path(data.train).name,
            rows_sha256=dataset.fingerprints[data.train],
            max_length=data.max_length,
        )
        return write_teacher(out, said, about)

    def _fingerprint(self) -> str:
        folders = [self._source.base, *([self._source.adapter.folder] if self._source.adapter else [])]
        return " + ".join(model_fingerprint(folder) for folder in folders)

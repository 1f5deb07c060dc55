"""The reference of a preference loss: the log-probabilities of all answers under the model before the first step.

They are computed once, by the model that is trained, before it is, and kept in the run folder: there is no second
model. Rows are packed as the steps of the first epoch pack them, so that the first step finds the very same bits: a
model that does not is not trained (``require_equal``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor, nn

from backend.core.device import ComputePlan, is_out_of_memory
from backend.core.encoding.examples import Example
from backend.core.lanes import Lanes
from backend.core.packed_attention import MicroBatch
from backend.errors import TrainingError
from backend.training.batching import Packing
from backend.training.distributed import World
from backend.training.forward import ForwardPass
from backend.training.loss import RowScores
from backend.training.scoring import score
from backend.utils.file_utils import write_bytes_durably

Key = tuple[str, bool]
"""The place of a row, and whether it is the better or good answer there."""


def answer_of(example: Example) -> Key:
    """Return the key of an answer in a reference."""
    return example.row, bool(example.label)


@dataclass(frozen=True)
class Mismatched:
    """Answers to other prompts: each prompt of ``examples`` with the answer of the row before it in its step.

    They estimate how far the trained model is from the reference. A row has the same one in all epochs.
    """

    examples: Sequence[Example]
    partner: Mapping[Key, int]

    @classmethod
    def of(cls, examples: Sequence[Example], steps: Sequence[Sequence[int]]) -> Mismatched:
        """Return those for ``examples`` that are taken in these ``steps``; a step of one row looks elsewhere."""
        keys = [answer_of(example) for example in examples]
        before: dict[Key, int] = {}
        for rows in steps:
            previous = [rows[-1], *rows[:-1]] if len(rows) > 1 else [steps[0][0]]
            before |= {keys[row]: other for row, other in zip(rows, previous, strict=True)}
        return cls(examples, before)

    def __call__(self, example: Example) -> Example:
        """Return the prompt of ``example`` with the answer of its partner, no longer than the longer of both rows."""
        other = self.examples[self.partner[answer_of(example)]]
        own, theirs = int(example.trained.argmax()), int(other.trained.argmax())
        longest = max(len(example.input_ids), len(other.input_ids))
        return replace(
            example,
            input_ids=np.concatenate([example.input_ids[:own], other.input_ids[theirs:]])[:longest],
            trained=np.concatenate([example.trained[:own], other.trained[theirs:]])[:longest],
        )


@dataclass(frozen=True)
class Reference:
    """The reference of a set of rows: ``logprobs`` of their answers, float64 sums in nats.

    ``other_logprobs``: those of the ``mismatched`` answers, for the objective that needs them.
    """

    logprobs: Mapping[Key, float]
    other_logprobs: Mapping[Key, float] = field(default_factory=dict)
    mismatched: Callable[[Example], Example] = lambda example: example

    def of(self, batch: MicroBatch, device: torch.device) -> Tensor:
        """Return the log-probability of each row of ``batch``, float64 [rows]."""
        return _looked_up(self.logprobs, batch, device)

    def of_mismatched(self, batch: MicroBatch, device: torch.device) -> Tensor:
        """Return the same for rows that ``mismatched`` made."""
        return _looked_up(self.other_logprobs, batch, device)


def _looked_up(logprobs: Mapping[Key, float], batch: MicroBatch, device: torch.device) -> Tensor:
    found = [logprobs[answer_of(example)] for example in batch.examples]
    return torch.tensor(found, dtype=torch.float64, device=device)


def logprobs_of(
    forward: ForwardPass,
    steps: Iterable[Sequence[Example]],
    packing: Packing,
    plan: ComputePlan,
    world: World,
    *,
    group: int = 1,
    note: Callable[[int], None] = lambda _: None,
) -> dict[Key, float]:
    """Return the log-probability of each example under the current weights, the same in every process.

    ``steps``: the examples in the parts in which they are packed. ``note`` is told how many are done. Raises
    torch.OutOfMemoryError, in every process, if memory ran out in one of them.
    """

    def value(batch: MicroBatch, scores: RowScores) -> dict[Key, float]:
        return dict(zip(map(answer_of, batch.examples), scores.logprob.tolist(), strict=True))

    found: dict[Key, float] = {}
    done, failed = 0, False
    try:
        with Lanes(plan.lanes, plan.threads) as pool:
            for examples in steps:
                for each in score(forward, world.my_share(packing(examples, group)), plan, pool, value):
                    found |= each
                done += len(examples)
                note(done)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        failed = True
    parts = world.gather((found, failed))
    if any(failed for _, failed in parts):
        raise torch.OutOfMemoryError("Memory ran out while answers were scored before training.")
    return {key: logprob for part, _ in parts for key, logprob in part.items()}


def require_equal(
    forward: ForwardPass, batches: Sequence[MicroBatch], plan: ComputePlan, reference: Reference
) -> None:
    """Check that training starts from the reference: the log-probabilities of its first step have the same bits.

    Raises TrainingError ``reference-differs``.
    """
    device = torch.device(plan.device)

    def compute(batch: MicroBatch) -> float:
        with forward.autocast(plan):
            now = forward.row_scores(batch.to(device)).logprob.detach()
        return float((now - reference.of(batch, now.device)).abs().max())

    with Lanes(plan.lanes, plan.threads) as pool:
        differences = list(pool.map(compute, batches))
    worst = max(range(len(batches)), key=lambda number: differences[number], default=0)
    if any(differences):  # a process may have no share of so small a step
        raise TrainingError(
            f"The model does not agree with itself before training: the log-probability of an answer of "
            f"{batches[worst].rows[0]} and its neighbours differs by {differences[worst]:.3g} between two passes.",
            remedy="Set model.dtype to float32 and train on one machine, or choose orpo or simpo, which compare with "
            "no reference.",
            code="reference-differs",
        )


def without_dropout(model: nn.Module) -> None:
    """Switch every dropout of ``model`` off, as TRL's ``disable_dropout``: the reference must be repeatable."""
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        for name in ("attention_dropout", "attn_dropout", "dropout"):
            if isinstance(getattr(part, name, None), float):
                setattr(part, name, 0.0)


def save_reference(
    path: Path, fingerprint: str, parts: Mapping[str, Mapping[Key, float]], budget: int
) -> None:
    """Write the log-probabilities of several sets of rows into one file, all or nothing.

    ``budget``: the tokens of a micro-batch that they were computed with.
    """
    tensors = {name: np.array(list(part.values()), np.float64) for name, part in parts.items()}
    keys = {name: json.dumps(list(part)) for name, part in parts.items()}
    write_bytes_durably(path, save(tensors, {"fingerprint": fingerprint, "budget": str(budget), **keys}))


def read_reference(path: Path, fingerprint: str) -> tuple[dict[str, dict[Key, float]], int] | None:
    """Return the parts and the budget that ``save_reference`` wrote.

    None if it is not there, damaged, or of another ``fingerprint``.
    """
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("fingerprint") != fingerprint:
                return None
            parts = {
                name: {
                    (row, label): float(value)
                    for (row, label), value in zip(
                        json.loads(metadata[name]), file.get_tensor(name), strict=True
                    )
                }
                for name in file.keys()  # noqa: SIM118 - a file of tensors is no mapping
            }
            return parts, int(metadata["budget"])
    except (OSError, SafetensorError, KeyError, ValueError):
        return None

"""Prepare the objective of a run; where it needs a reference, compute that once and keep it in the run folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import chain, islice

import torch
import xxhash

from backend.core.device import ComputePlan, is_out_of_memory
from backend.core.encoding.examples import Example
from backend.data.checks.references import reference_doubts
from backend.data_pipeline import EncodedRows, Mixture
from backend.run.config import RunConfig
from backend.run.environment import Facts
from backend.run.folder import RunDir
from backend.run.reports import Progress, Watcher
from backend.run.schedule import steps_per_epoch
from backend.training.batching import Packing, step_rows
from backend.training.distributed import ALONE, World
from backend.training.evaluation import at_once, held_out_packing
from backend.training.forward import ForwardPass
from backend.training.loop import examples_of, packing_of
from backend.training.memory import first_that_fits
from backend.training.objective import Objective
from backend.training.preferences import objective_of
from backend.training.reference import (
    Key,
    Mismatched,
    Reference,
    answer_of,
    logprobs_of,
    read_reference,
    require_equal,
    save_reference,
)

log = logging.getLogger("tunesmith")

_Parts = dict[str, dict[Key, float]]
_TRAIN, _TRAIN_OTHERS, _HELD_OUT, _HELD_OUT_OTHERS = (
    "train",
    "train_mismatched",
    "held_out",
    "held_out_mismatched",
)


class ReferencePass:
    """The passes over all answers before the first step, by the model in ``forward`` as it is then.

    ``held_out`` is empty in every process but rank 0. ``fitting``: that of ``TrainState``, for a size that fits where
    memory runs out in a pass.
    """

    def __init__(
        self,
        config: RunConfig,
        forward: ForwardPass,
        rows: EncodedRows | Mixture,
        held_out: Sequence[Example],
        plan: ComputePlan,
        world: World,
        fitting: dict[int, int],
    ) -> None:
        self._fitting = fitting
        self._config, self._forward, self._rows, self._held_out = config, forward, rows, held_out
        self._plan, self._world = plan, world
        self._group = rows.group
        self._packing = packing_of(forward, config.training, plan, world)
        self._steps = _first_epoch(rows.row_count, config) if config.objective.facts.needs_reference else []
        needs_others = "kto" in config.objective.losses
        self._others = Mismatched.of(rows, self._steps) if needs_others else None
        numbers = [list(range(len(held_out)))] if held_out else []
        self._held_out_others = Mismatched.of(held_out, numbers) if needs_others else None

    def objectives(
        self, run_dir: RunDir, facts: Facts, watch: Watcher, *, prove: bool
    ) -> tuple[Objective, Objective]:
        """Return the objective of the training rows and that of the held-out ones.

        A method without a reference has one for both. With ``prove``, the first step is checked against the
        reference. Raises TrainingError ``reference-differs``.
        """
        if not self._config.objective.facts.needs_reference:
            objective = objective_of(self._config.objective)
            return objective, objective
        inputs = fingerprint(self._config, facts, self._plan)
        kept = self._world.broadcast(read_reference(run_dir.reference_file, inputs))

        def prepared(packing: Packing) -> _Parts:
            found = kept[0] if kept and kept[1] == packing.budget else self._computed(packing, watch)
            if prove:
                self._prove(self._reference(found), packing)
            return found

        before = replace(self._packing, budget=kept[1]) if kept else self._packing
        packing, parts = first_that_fits(before, prepared, self._smaller)
        if self._world.is_main and (kept is None or kept[1] != packing.budget):
            save_reference(run_dir.reference_file, inputs, parts, packing.budget)
        self._take(packing.budget, watch)
        train = self._reference(parts)
        held_out = Reference(parts[_HELD_OUT], parts[_HELD_OUT_OTHERS], self._held_out_others or _itself)
        if prove:
            self._tell_doubts(train, watch)
        return objective_of(self._config.objective, train), objective_of(self._config.objective, held_out)

    def _reference(self, parts: _Parts) -> Reference:
        return Reference(parts[_TRAIN], parts[_TRAIN_OTHERS], self._others or _itself)

    def _prove(self, reference: Reference, packing: Packing) -> None:
        """Check the first step against the reference.

        Raises TrainingError ``reference-differs``, or torch.OutOfMemoryError in every process.
        """
        first = packing(examples_of(self._rows, self._steps[0], self._group), self._group)
        failed = 0.0
        try:
            require_equal(self._forward, self._world.my_share(first), self._plan, reference)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            failed = 1.0
        (failed,) = self._world.all_reduce([failed])
        if failed:
            raise torch.OutOfMemoryError("Memory ran out in the first step.")
        log.info("The first step finds the log-probabilities of the reference, bit for bit")

    def _smaller(self, packing: Packing) -> Packing | None:
        """Return the packing with half the budget, or less, under which some step is cut otherwise."""
        found = [packing.smaller(examples, self._group) for examples in self._examples()]
        return max((each for each in found if each), key=lambda each: each.budget, default=None)

    def _take(self, budget: int, watch: Watcher) -> None:
        """Let the run train in micro-batches of ``budget`` tokens, as its reference was computed."""
        asked = self._config.training.micro_batch_tokens
        if budget == asked:
            return
        self._fitting[asked] = budget
        note = (
            f"Memory ran out while answers were scored before training: micro-batches of up to {budget} tokens are "
            f"computed at once instead of {asked}; the result differs by rounding only."
        )
        log.warning("%s", note)
        watch(Progress("scoring answers before training", note=note))

    def _computed(self, packing: Packing, watch: Watcher) -> _Parts:
        count = len(self._rows)

        def note(done: int) -> None:
            watch(Progress(f"scoring answers before training, {done:,} of {count:,}"))

        parts: _Parts = {_TRAIN: self._logprobs(packing, self._examples(), self._group, note)}
        parts[_TRAIN_OTHERS] = self._logprobs(packing, _of_others(self._others, self._examples()), 1)
        training = self._forward.model.training
        self._forward.model.eval()
        try:
            parts[_HELD_OUT] = self._held_out_logprobs(packing, at_once(self._held_out), self._group)
            everything = [self._held_out] if self._held_out else []
            others = _of_others(self._held_out_others, everything)
            parts[_HELD_OUT_OTHERS] = self._held_out_logprobs(packing, others, 1)
        finally:
            self._forward.model.train(training)
        return self._world.broadcast(parts)

    def _examples(self) -> Iterator[list[Example]]:
        """Yield the examples of each step of the first epoch; never those of many rows at once."""
        return (examples_of(self._rows, rows, self._group) for rows in self._steps)

    def _tell_doubts(self, reference: Reference, watch: Watcher) -> None:
        """Log and report what the model before training says against the pairs."""
        if self._group == 1:
            return
        logprobs = [reference.logprobs[answer_of(example)] for example in self._rows]
        tokens = [int(example.trained[1:].sum()) for example in self._rows]
        for doubt in reference_doubts(logprobs[0::2], logprobs[1::2], tokens[0::2], tokens[1::2]):
            log.warning("%s %s", doubt.message, doubt.remedy)
            watch(Progress("scoring answers before training", note=f"{doubt.message} {doubt.remedy}"))

    def _logprobs(
        self,
        packing: Packing,
        steps: Iterable[Sequence[Example]],
        group: int,
        note: Callable[[int], None] = lambda _: None,
    ) -> dict[Key, float]:
        return logprobs_of(self._forward, steps, packing, self._plan, self._world, group=group, note=note)

    def _held_out_logprobs(
        self, packing: Packing, chunks: Iterable[Sequence[Example]], group: int
    ) -> dict[Key, float]:
        parts = list(chunks)
        smaller = partial(Packing.smaller, examples=list(chain.from_iterable(parts)), group=group)

        def compute(packing: Packing) -> dict[Key, float]:
            return logprobs_of(self._forward, parts, packing, self._plan, ALONE, group=group)

        # by itself, since the other processes have no share of it
        return first_that_fits(held_out_packing(self._forward, packing.budget), compute, smaller)[1]


def _itself(example: Example) -> Example:
    return example


def _of_others(others: Mismatched | None, parts: Iterable[Sequence[Example]]) -> Iterable[Sequence[Example]]:
    return () if others is None else ([others(example) for example in part] for part in parts)


def _first_epoch(rows: int, config: RunConfig) -> list[list[int]]:
    """Return the rows of each step of the first epoch."""
    size = config.training.rows_per_step
    steps = islice(step_rows(rows, size, config.seed, 0), steps_per_epoch(rows, size))
    return [step.tolist() for step in steps]


def fingerprint(config: RunConfig, facts: Facts, plan: ComputePlan) -> str:
    """Return the digest of all that decides the log-probabilities before training."""
    decides: Mapping[str, object] = {
        "facts": asdict(facts),
        "model": config.model.model_dump(mode="json", exclude={"model_name_or_path", "revision"}),
        "data": config.data.model_dump(mode="json"),
        "tuning": config.tuning.model_dump(mode="json"),
        "objective": config.objective.method,
        "losses": sorted(config.objective.losses),
        "seed": config.seed,
        "rows_per_step": config.training.rows_per_step,
        "micro_batch_tokens": config.training.micro_batch_tokens,
        "dtype": plan.dtype,
    }
    return xxhash.xxh3_128_hexdigest(json.dumps(decides, sort_keys=True).encode())

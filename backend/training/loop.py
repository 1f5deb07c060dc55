"""The training loop: a generator of step reports. It knows nothing about files, screens or signals.

The loss of an optimizer step is the exact mean over all its trained tokens, however the step is split into
micro-batches. A loss or gradient that is not finite ends training before any weight changes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from torch import nn

from backend.core.device import ComputePlan
from backend.core.encoding.examples import Example
from backend.core.lanes import Lanes
from backend.core.packed_attention import MicroBatch
from backend.errors import TrainingError
from backend.run.config import TrainingConfig
from backend.run.methods import default_learning_rate
from backend.run.reports import StepReport
from backend.run.schedule import learning_rate_factor, steps_per_epoch, total_steps
from backend.training.batching import Packing, step_rows
from backend.training.distributed import ALONE, World
from backend.training.forward import ForwardPass
from backend.training.gradients import StepGradients, step_gradients
from backend.training.memory import first_that_fits
from backend.training.objective import Objective, Supervised
from backend.training.optimizer import build_optimizer, embeddings_and_head, gradient_norm
from backend.training.rollouts import Drawn, Rollouts
from backend.training.rounding import Rounding
from backend.training.scoring import total_over
from backend.training.tuning import trainable_parameters


@dataclass
class TrainState:
    """Everything that training changes: weights, optimizer moments, counters. A checkpoint holds all of it.

    ``parameters`` are the trainable ones by name, in the model's order. ``fitting``: after memory has run out, the
    ``micro_batch_tokens`` that fitted, by those that were asked for. ``rounding``: of quantization-aware training.
    """

    forward: ForwardPass
    optimizer: torch.optim.Optimizer
    step: int = 0
    tokens_seen: int = 0
    parameters: dict[str, nn.Parameter] = field(default_factory=dict)
    fitting: dict[int, int] = field(default_factory=dict)
    rounding: Rounding | None = None

    @classmethod
    def start(cls, forward: ForwardPass, training: TrainingConfig) -> TrainState:
        """Return the state before the first step; ``tuning`` has already frozen what is not trained."""
        parameters = trainable_parameters(forward.model)
        embeddings = embeddings_and_head(forward.causal, parameters)
        peak = peak_learning_rate(forward, training)
        optimizer = build_optimizer(parameters, training, peak=peak, embeddings=embeddings)
        return cls(forward, optimizer, parameters=parameters)


Variation = Callable[[int, Sequence[int]], list[Example]]
"""(epoch, indices) -> the examples at those indices as they are in that epoch; a pure function of both."""


def train_steps(
    state: TrainState,
    examples: Sequence[Example] | Rollouts,
    training: TrainingConfig,
    plan: ComputePlan,
    *,
    seed: int,
    objective: Objective | None = None,
    vary: Variation | None = None,
    world: World = ALONE,
) -> Iterator[StepReport]:
    """Train from ``state.step`` to the last step and yield a report after each; ``state`` is changed in place.

    ``objective`` is the loss to minimise, supervised by default; where it has groups, rows are groups of consecutive
    examples. ``vary`` replaces the examples of an epoch (counted from 0) where augmentation changes them. Of
    ``Rollouts`` the answers are sampled in each step; where none is better than others to the same prompt, the step
    counts and changes nothing. ``world`` splits each step among processes; all of them yield the same reports.
    Deterministic on CPU: the same state, examples, settings and plan give the same bits, resumed or not, on any
    number of cores unless ``depends_on_cores``.
    Where memory runs out, the step is taken again from its beginning with ``micro_batch_tokens`` halved, and so are
    all later ones: their bits are those of steps that were taken in that size from the start. A row is never split.
    Raises TrainingError (non-finite-loss, non-finite-gradient, out-of-memory) before that step changes a weight.
    """
    objective = objective or Supervised()
    rows = len(examples) // objective.group
    steps = total_steps(rows, training)
    factor = learning_rate_factor(training, steps)
    peak = peak_learning_rate(state.forward, training)
    per_epoch = steps_per_epoch(rows, training.rows_per_step)
    order = step_rows(rows, training.rows_per_step, seed, state.step)
    asked = training.micro_batch_tokens
    packing = packing_of(state.forward, training, plan, world)
    packing = replace(packing, budget=state.fitting.get(asked, asked))
    lanes, threads = lanes_and_threads(state.forward, plan)
    if state.rounding:
        state.rounding.follow(state.step)
    with Lanes(lanes, threads) as pool:
        while state.step < steps:
            started = time.perf_counter()
            indices = next(order).tolist()
            step = state.step + 1
            rate = peak * factor(step)
            if isinstance(examples, Rollouts):
                drawn = examples(step, indices)
            else:
                drawn = _given(examples, indices, objective.group, vary, state.step // per_epoch)
            chosen, loss, norm, trained_tokens = drawn.examples, 0.0, 0.0, 0
            measured = dict(drawn.measured)
            if chosen:
                compute = partial(
                    _gradients, state, chosen, plan, pool, world, objective=objective, seed=seed, step=step
                )
                smaller = partial(Packing.smaller, examples=chosen, group=objective.group)
                packing, (batches, found) = first_that_fits(packing, compute, smaller)
                if packing.budget < state.fitting.get(asked, asked):
                    state.fitting[asked] = packing.budget
                norm = _update(state, found, training, rate=rate, step=step, batches=batches)
                loss, trained_tokens = found.loss, sum(len(batch.labels) for batch in batches)
                measured |= objective.measured(found.means)
            state.step, state.tokens_seen = step, state.tokens_seen + drawn.tokens
            if state.rounding:
                state.rounding.follow(step)
            seconds = time.perf_counter() - started
            if isinstance(examples, Rollouts):  # as TRL calls them
                measured |= {"num_tokens": state.tokens_seen, "step_time": seconds}
            yield StepReport(
                step=step,
                total_steps=steps,
                epoch=step / per_epoch,
                loss=loss,
                grad_norm=norm,
                learning_rate=rate,
                tokens=drawn.tokens,
                trained_tokens=trained_tokens,
                seconds=seconds,
                tokens_seen=state.tokens_seen,
                rows=drawn.rows,
                measured=measured,
                samples=drawn.samples,
            )


def _given(
    examples: Sequence[Example], indices: Sequence[int], group: int, vary: Variation | None, epoch: int
) -> Drawn:
    """Return the rows of a step as they are in the data, or in an epoch of it."""
    chosen = vary(epoch, indices) if vary else examples_of(examples, indices, group)
    tokens = sum(len(example.input_ids) for example in chosen)
    return Drawn(chosen, tuple(example.row for example in chosen[::group]), tokens, {})


def depends_on_cores(forward: ForwardPass, plan: ComputePlan) -> bool:
    """True if another number of cores gives other bits, since matrix products run on several threads.

    That is so with more cores than the maximum of lanes, and where passes draw random numbers and so run in one lane.
    """
    return plan.device_type == "cpu" and lanes_and_threads(forward, plan)[1] > 1


def packing_of(forward: ForwardPass, training: TrainingConfig, plan: ComputePlan, world: World) -> Packing:
    """Return how the rows of this run are packed into micro-batches."""
    return Packing(
        budget=training.micro_batch_tokens,
        share_prefixes=forward.packed and not forward.is_random,
        on_cpu=plan.device_type == "cpu",
        processes=world.size,
    )


def examples_of(examples: Sequence[Example], rows: Sequence[int], group: int) -> list[Example]:
    """Return the examples of these rows, ``group`` consecutive ones each."""
    return [examples[row * group + place] for row in rows for place in range(group)]


def lanes_and_threads(forward: ForwardPass, plan: ComputePlan) -> tuple[int, int]:
    """Return (lanes, threads per lane): one lane where passes draw from torch's global generator, which all share."""
    return (1, plan.threads * plan.lanes) if forward.is_random else (plan.lanes, plan.threads)


def peak_learning_rate(forward: ForwardPass, training: TrainingConfig, objective: str = "sft") -> float:
    """Return the highest learning rate of a run: as set, or one that suits its methods, width and optimizer."""
    method = "lora" if isinstance(forward.model, PeftModel) else "full"
    width = int(forward.causal.config.get_text_config().hidden_size)
    return training.learning_rate or default_learning_rate(method, width, objective, optim=training.optim)


def _gradients(
    state: TrainState,
    chosen: Sequence[Example],
    plan: ComputePlan,
    pool: Lanes,
    world: World,
    packing: Packing,
    *,
    objective: Objective,
    seed: int,
    step: int,
) -> tuple[list[MicroBatch], StepGradients]:
    """Return the micro-batches of a step and what they give."""
    batches = packing(chosen, objective.group)
    found = step_gradients(
        state.forward,
        list(state.parameters.values()),
        batches,
        plan,
        pool,
        world,
        objective=objective,
        total=total_over(state.forward, packing, plan, pool, world),
        seed=seed,
        step=step,
    )
    return batches, found


def _update(
    state: TrainState,
    found: StepGradients,
    training: TrainingConfig,
    *,
    rate: float,
    step: int,
    batches: Sequence[MicroBatch],
) -> float:
    """Check, clip and apply the gradient of one step; return its norm before clipping."""
    rows = [row for batch in batches for row in batch.rows]
    loss, gradients = found.loss, found.gradients
    if not math.isfinite(loss):
        raise _not_finite("loss", {"step": step, "loss": loss, "learning_rate": rate, "rows": rows})
    norm = gradient_norm(gradients)
    if not math.isfinite(norm):
        record = {"step": step, "loss": loss, "grad_norm": norm, "learning_rate": rate, "rows": rows}
        raise _not_finite("gradient", record)
    shrink = training.max_grad_norm / (norm + 1e-6) if training.max_grad_norm else 1.0
    for parameter, gradient in zip(state.parameters.values(), gradients, strict=True):
        parameter.grad = gradient.mul_(shrink) if shrink < 1.0 else gradient
    for group in state.optimizer.param_groups:
        group["lr"] = rate * group["lr_factor"]
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    return norm


def _not_finite(what: str, record: dict[str, Any]) -> TrainingError:
    value = record["loss" if what == "loss" else "grad_norm"]
    shown = ", ".join(record["rows"][:4])
    return TrainingError(
        f"The {what} became {value} at step {record['step']}, in a step with the rows {shown} …",
        remedy="Lower training.learning_rate and look at these rows.",
        code=f"non-finite-{what}",
        step_record=record,
    )

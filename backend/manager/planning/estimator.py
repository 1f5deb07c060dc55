"""What a run will cost before it starts: time, memory and disk, from the model's shape and this machine's past runs.

Pure functions of values. An estimate is an interval, as wide as its own past errors.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from backend.errors import Problem
from backend.manager.planning.model_shape import ModelShape
from backend.run.config import RunConfig
from backend.run.methods import OPTIMS
from backend.run.schedule import resolve_steps, steps_per_epoch, total_steps

IMPORT_SECONDS, START_SECONDS = 3.0, 4.0
"""Importing the libraries, which no run measures; that, reading the weights and proving the short cuts."""
ROW_SECONDS = 0.00015
"""Reading a row and finding its tokens, where nothing was ever measured."""
TELLING_ROWS = 1000
"""How many more rows a run has to read than another for their starts to tell what a row takes."""
PROCESS_BYTES = 600_000_000
"""A process with torch, transformers and peft in it, before any weight."""
TOKENIZER_BYTES = 4_000_000
LOG_BYTES_PER_STEP = 700
LOGIT_ROWS = 128
PACKED_BYTES = {"nf4": 0.5 + 4 / 64, "fp4": 0.5 + 4 / 64, "int8": 1.0}
"""A weight in 4 or 8 bits with its share of the scales, one for 64 weights in 4 bits, by ``model.quantization``."""
NESTED_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""A weight in 4 bits whose scales are in 8 bits, with one scale for 256 of them."""
CORE_FLOPS = 40e9
GPU_FLOPS = 50e12
"""Speeds to assume, in operations per second, where nothing was ever measured."""
UNMEASURED, ONCE = 4.0, 1.6
"""How far off an estimate may be, as a factor, with no past run and with one."""
LIKE = 4.0
"""Models count as of like size when their parameters differ by less than this factor."""


@dataclass(frozen=True)
class Interval:
    """An estimate with the bounds that its past errors suggest."""

    low: float
    likely: float
    high: float


@dataclass(frozen=True)
class DataFigures:
    """The figures of the data that decide the cost; tokens are those of one epoch's ``rows``."""

    rows: int
    tokens: int
    trained_tokens: int
    validation_rows: int = 0


@dataclass(frozen=True)
class Machine:
    """The resources of the machine in bytes; ``device`` is cpu or cuda, memory is that of the device."""

    cores: int
    memory_bytes: int
    disk_free_bytes: int
    device: str = "cpu"


@dataclass(frozen=True)
class Work:
    """The work of a run and the memory it holds, by the formulas alone. ``operations`` are floating point."""

    steps: int
    tokens: int
    trainable_parameters: int
    operations: float
    memory_bytes: float
    disk_bytes: float


@dataclass(frozen=True)
class PastRun:
    """A finished run of this machine: what it had to do, and what it took.

    ``rows`` were read in ``start_seconds``, from the trainer's imports to its first step, and ``seconds`` is what
    came after; both are the same spans however the trainer was started. ``rows``, ``start_seconds`` and
    ``memory_bytes`` are 0 where unknown. Raises ValueError for figures that no run can have, such as no time at all:
    such a run teaches nothing.
    """

    id: str
    parameters: int
    method: str
    device: str
    dtype: str
    work: Work
    seconds: float
    memory_bytes: float
    disk_bytes: float
    rows: int = 0
    start_seconds: float = 0.0

    def __post_init__(self) -> None:
        work = self.work
        taken = (self.seconds, self.disk_bytes, work.operations, work.memory_bytes, work.disk_bytes)
        maybe_unknown = (self.rows, self.start_seconds, self.memory_bytes)
        if not all(0 < value < math.inf for value in (*taken, self.parameters)):
            raise ValueError(f"the run {self.id} did or took nothing: {taken}")
        if not all(0 <= value < math.inf for value in maybe_unknown):
            raise ValueError(f"the run {self.id} has figures below 0: {maybe_unknown}")

    @property
    def speed(self) -> float:
        """Operations per second, the start left out."""
        return self.work.operations / self.seconds


@dataclass(frozen=True)
class Estimate:
    """The estimated cost of a run. ``based_on`` counts the past runs used; ``problems`` says what will not fit."""

    steps: int
    tokens: int
    trainable_parameters: int
    seconds: Interval
    memory_bytes: Interval
    disk_bytes: Interval
    based_on: int
    basis: str
    problems: tuple[Problem, ...] = ()


def estimate(
    config: RunConfig, shape: ModelShape, data: DataFigures, machine: Machine, past: Sequence[PastRun] = ()
) -> Estimate:
    """Time, memory and disk of a run of ``config``. Raises nothing: unknown figures count as 0."""
    alike = like_runs(past, shape.parameters, config.tuning.method, machine.device)
    dtype = config.model.dtype if config.model.dtype != "auto" else alike[0].dtype if alike else "float32"
    work = work_of(config, shape, data, dtype=dtype, lanes=_lanes(machine))
    assumed = GPU_FLOPS if machine.device == "cuda" else CORE_FLOPS * machine.cores
    speed = typical([one.speed for one in alike]) if alike else assumed
    rows = data.rows + data.validation_rows
    start = START_SECONDS + rows * _row_seconds(alike)
    found = Estimate(
        steps=work.steps,
        tokens=work.tokens,
        trainable_parameters=work.trainable_parameters,
        seconds=_start_and_work(start, work.operations / speed, own_error(alike, _work_ratio)),
        memory_bytes=_corrected(
            "memory_bytes", work.memory_bytes, [one for one in alike if one.memory_bytes]
        ),
        disk_bytes=_corrected("disk_bytes", work.disk_bytes, alike),
        based_on=len(alike),
        basis=_basis(alike),
    )
    return replace(found, problems=tuple(_misfits(found, machine)))


# --- the formulas -----------------------------------------------------------------------------------------


def work_of(
    config: RunConfig, shape: ModelShape, data: DataFigures, *, dtype: str = "float32", lanes: int = 1
) -> Work:
    """Return the work of a run by the formulas alone, without this machine's experience.

    A token takes 2 operations a parameter forward, 2 backward through frozen weights, and 2 more for the gradient
    of trained ones (Kaplan et al., arXiv:2001.08361, §2.1); attention adds 6 a layer, width and token looked at.
    """
    training, full = config.training, config.tuning.trains_all
    per_step = training.rows_per_step
    per_epoch = steps_per_epoch(data.rows, per_step)
    steps = total_steps(data.rows, training)
    epochs = steps / max(1, per_epoch)
    adapter = shape.lora_parameters(config.tuning)
    trainable = shape.parameters if full else adapter + shape.whole_parameters(config.tuning)
    starts = 0 if config.tuning.init_lora_weights == "default" else adapter
    length = data.tokens / max(1, data.rows)
    head = shape.vocabulary * shape.width
    again = 2 if training.gradient_checkpointing else 0  # a second forward pass
    matrices = (again + (6 if full else 4)) * shape.linear_parameters + (0 if full else (again + 6) * adapter)
    per_token = matrices + 6 * shape.layers * shape.width * length
    operations = epochs * (data.tokens * per_token + data.trained_tokens * head * (6 if full else 4))
    forward = data.tokens * (2 * shape.parameters + 2 * shape.layers * shape.width * length)
    operations += _passes_without_gradient(config, epochs) * forward
    operations += _evaluations(config, steps, data) * data.validation_rows * length * 2 * shape.parameters
    return Work(
        steps=steps,
        tokens=round(epochs * data.tokens),
        trainable_parameters=trainable,
        operations=operations,
        memory_bytes=_memory(config, shape, trainable, per_step * length, dtype, lanes) + 4 * starts,
        disk_bytes=_disk(config, shape, trainable, starts, steps, evaluates=data.validation_rows > 0),
    )


def _passes_without_gradient(config: RunConfig, epochs: float) -> float:
    """Return how often a method reads all training answers without learning from them.

    A method with a reference does so once before training; kto scores the answers with other prompts besides, before
    training and in each epoch.
    """
    if not config.objective.facts.needs_reference:
        return 0.0
    return 2.0 + epochs if config.objective.method == "kto" else 1.0


def _evaluations(config: RunConfig, steps: int, data: DataFigures) -> int:
    every = resolve_steps(config.evaluation.eval_steps, steps)
    return 0 if not data.validation_rows else 2 + ((steps - 1) // every if every else 0)


def _moments(config: RunConfig, shape: ModelShape, trainable: int) -> float:
    """Bytes of the optimizer's state; whatever an adapter trains is a hidden matrix."""
    optim = OPTIMS[config.training.optim]
    matrices = min(shape.linear_parameters, trainable) if config.tuning.trains_all else trainable
    return matrices * optim.matrix_bytes + (trainable - matrices) * optim.rest_bytes


def _memory(
    config: RunConfig, shape: ModelShape, trainable: int, step_tokens: float, dtype: str, lanes: int
) -> float:
    """Bytes at the highest: weights, trained weights with moments, a gradient a lane, and what a pass keeps.

    With gradient checkpointing a pass keeps the input of each layer, and all of one layer.
    """
    full, number = config.tuning.trains_all, 2 if dtype == "bfloat16" else 4
    weights = 0 if full else _weights(config, shape, number, lanes)
    # fp32, gradients and their sum, moments
    trained = trainable * (4 + 4 * (lanes + 1)) + _moments(config, shape, trainable)
    at_once = min(lanes * config.training.micro_batch_tokens, max(step_tokens, 1))
    a_layer = 7 * shape.width + 3 * shape.intermediate
    in_layers = (
        shape.layers * shape.width + a_layer
        if config.training.gradient_checkpointing
        else shape.layers * a_layer
    )
    kept = at_once * in_layers * number
    logits = 2 * lanes * LOGIT_ROWS * shape.vocabulary * 4
    return float(PROCESS_BYTES + weights + trained + kept + logits)


def _weights(config: RunConfig, shape: ModelShape, number: int, lanes: int) -> float:
    """Bytes of frozen weights of ``number`` bytes each; packed ones are unpacked for one layer of each lane.

    Weights that are rounded in training are kept exact in float32 too.
    """
    kind = config.model.quantization
    if kind is None:
        exact = 4 * shape.linear_parameters if config.tuning.qat_scheme else 0
        return float(shape.parameters * number + exact)
    sizes = [one.inputs * one.outputs for one in shape.linears if ".experts." not in one.name]
    packed = NESTED_BYTES if config.model.use_bnb_nested_quant else PACKED_BYTES[kind]
    plain = shape.parameters - sum(sizes)
    return sum(sizes) * packed + plain * number + lanes * max(sizes, default=0) * number


def _disk(
    config: RunConfig, shape: ModelShape, trainable: int, starts: int, steps: int, *, evaluates: bool
) -> float:
    """Bytes at the highest: the checkpoints kept, one being written, the result and the logs.

    ``starts`` are the numbers that a LoRA of PiSSA or OLoRA began with, which stand beside it in every file.
    """
    every = resolve_steps(config.training.save_steps, steps)
    made = steps // every if every else 1
    kept = min(made, config.training.save_total_limit) + int(evaluates)
    weights = 4 * (trainable + starts)  # in fp32
    per_checkpoint = weights + _moments(config, shape, trainable)
    return float(kept * per_checkpoint + weights + TOKENIZER_BYTES + steps * LOG_BYTES_PER_STEP)


def _lanes(machine: Machine) -> int:
    return 1 if machine.device == "cuda" else max(1, min(8, machine.cores))


# --- this machine's experience ----------------------------------------------------------------------------

Ratio = Callable[[PastRun, Sequence[PastRun]], float]


def like_runs(past: Sequence[PastRun], parameters: int, method: str, device: str) -> list[PastRun]:
    """The past runs of this method and device whose model is of like size, the nearest first."""

    def distance(one: PastRun) -> float:
        return abs(math.log(max(1, one.parameters) / max(1, parameters)))

    same = [one for one in past if (one.method, one.device) == (method, device)]
    return sorted((one for one in same if distance(one) < math.log(LIKE)), key=distance)


def typical(values: Sequence[float]) -> float:
    """The middle of positive values on a logarithmic scale."""
    return math.exp(statistics.median(math.log(value) for value in values))


def own_error(runs: Sequence[PastRun], ratio: Ratio) -> float:
    """Return the factor, at least 1.1, by which this estimate was off for past runs, each left out in turn."""
    if len(runs) < 2:
        return ONCE if runs else UNMEASURED
    others = [[*runs[:index], *runs[index + 1 :]] for index in range(len(runs))]
    logs = [abs(math.log(ratio(one, rest))) for one, rest in zip(runs, others, strict=True)]
    return max(1.1, math.exp(max(logs) * (1 + 1 / len(runs))))


def around(value: float, factor: float) -> Interval:
    """``value`` with ``factor`` to both sides."""
    return Interval(value / factor, value, value * factor)


def _start_and_work(start: float, work: float, factor: float) -> Interval:
    """Seconds of a start, which every run takes at least, and of the work after it, which is off by ``factor``."""
    return Interval(start + work / factor, start + work, start * ONCE + work * factor)


def _row_seconds(runs: Sequence[PastRun]) -> float:
    """Return the seconds to read a row, from the starts of the runs with the most and the fewest rows."""
    known = sorted((one for one in runs if one.start_seconds), key=lambda one: one.rows)
    if not known or known[-1].rows - known[0].rows < TELLING_ROWS:
        return ROW_SECONDS
    few, many = known[0], known[-1]
    return max(0.0, many.start_seconds - few.start_seconds) / (many.rows - few.rows)


def _work_ratio(one: PastRun, rest: Sequence[PastRun]) -> float:
    return typical([two.speed for two in rest]) / one.speed


def _time_ratio(one: PastRun, rest: Sequence[PastRun]) -> float:
    reading = one.rows * _row_seconds(rest)
    expected = START_SECONDS + reading + one.work.operations / typical([two.speed for two in rest])
    start = IMPORT_SECONDS + one.start_seconds if one.start_seconds else START_SECONDS + reading
    return (start + one.seconds) / expected


def _factor(runs: Sequence[PastRun], name: str) -> float:
    """Return the factor between the formula and what past runs took."""
    known = [getattr(one, name) / getattr(one.work, name) for one in runs if getattr(one, name)]
    return typical(known) if known else 1.0


def _corrected(name: str, value: float, runs: Sequence[PastRun]) -> Interval:
    """The formula's value, corrected by what past runs really took; formulas of bytes need less room for error."""

    def ratio(one: PastRun, rest: Sequence[PastRun]) -> float:
        return float(getattr(one, name) / getattr(one.work, name) / _factor(rest, name))

    return around(value * _factor(runs, name), min(ONCE, own_error(runs, ratio)))


def _basis(runs: Sequence[PastRun]) -> str:
    if not runs:
        return "No run of like size has finished here yet, so the time is a guess from the model's shape."
    if len(runs) == 1:
        return "Based on the model's shape and one finished run of like size on this machine."
    off = (own_error(runs, _time_ratio) - 1) * 100
    return (
        f"Based on {len(runs)} finished runs of like size on this machine; "
        f"for those this estimate was at most {off:.0f} % off."
    )


def _misfits(found: Estimate, machine: Machine) -> list[Problem]:
    problems = []
    if found.memory_bytes.likely > machine.memory_bytes:
        needed, there = found.memory_bytes.likely / 1e9, machine.memory_bytes / 1e9
        problems.append(
            Problem(
                "training.micro_batch_tokens",
                f"the run needs about {needed:.1f} GB of memory and there are {there:.1f} GB.",
                "Lower it, train with lora, or choose a smaller model.",
            )
        )
    if found.disk_bytes.likely > machine.disk_free_bytes:
        needed, there = found.disk_bytes.likely / 1e9, machine.disk_free_bytes / 1e9
        problems.append(
            Problem(
                "training.save_total_limit",
                f"the run writes about {needed:.1f} GB and {there:.1f} GB are free.",
                "Keep fewer checkpoints, or make room.",
            )
        )
    return problems

"""The trainer process: one run, from its folder to its result.

``python -m backend.trainer_main RUN_FOLDER`` carries out the run in that folder; ``run`` does the same in
process. Exit codes: 0 finished · 1 failed while training · 2 the input cannot be used · 3 stopped on request ·
129 stopped by SIGHUP · 130 by SIGINT · 143 by SIGTERM. Every way out but a kill ends in ``outcome.json``.
"""

from __future__ import annotations

from backend.utils.machine_utils import available_cores
from backend.utils.process_utils import collect_rarely

if __name__ == "__main__":  # before torch and transformers are imported
    collect_rarely()

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from backend import data_pipeline
from backend.core.device import apply_plan, restored_globals, seed_everything, torch_dtype
from backend.core.encoding.examples import Example, require_fit
from backend.core.encoding.teacher import Teacher
from backend.core.model_loader import load_base
from backend.core.model_resolver import resolve_model
from backend.core.quantized import Quantization
from backend.core.tokenizer import load_tokenizer
from backend.data.augmentation import varies
from backend.data.load import write_quarantine
from backend.data_pipeline import Dataset, Mixture, Prompts, TrainRows
from backend.errors import RewardError, RunError, TunesmithError
from backend.inference.decoding import context_length
from backend.inference.model_source import base_revision
from backend.run.checkpoints import saved_step
from backend.run.config import RunConfig, TrainingConfig
from backend.run.environment import Change, ComputePlan, Environment, Facts
from backend.run.folder import RunDir
from backend.run.handover import Handover
from backend.run.methods import TUNINGS
from backend.run.metrics import forgetting_words
from backend.run.outcomes import exit_code, failure
from backend.run.reports import Attempt, DataCheck, Outcome, Progress, RunStatus, StepReport, Watcher
from backend.run.schedule import resolve_steps, total_steps
from backend.run.settings import run_config
from backend.training.agreement import agreed_checkpoint, compared, require_agreement, require_process_count
from backend.training.audit import audit, require_hope
from backend.training.checkpoint import Checkpoint, newest_good, read_checkpoint, restore, save_result
from backend.training.distillation import Distillation
from backend.training.distributed import LostPeerError, StoppedWaitingError, World, joined
from backend.training.earlier_adapter import earlier_adapter
from backend.training.evaluation import Evaluator, HeldOut, held_out
from backend.training.forward import ForwardPass
from backend.training.inputs import require_sound
from backend.training.judge import Judge
from backend.training.loop import TrainState, Variation, depends_on_cores, peak_learning_rate, train_steps
from backend.training.objective import Objective, Supervised
from backend.training.policy import PolicyGradient
from backend.training.proved import proved_forward
from backend.training.provenance import (
    facts_of,
    layers_here,
    machine,
    machine_changes,
    plan_here,
    provenance,
    require_same_inputs,
    with_tokens,
)
from backend.training.recompute import recompute_layers
from backend.training.recorder import Recorder
from backend.training.reference import without_dropout
from backend.training.reference_pass import ReferencePass
from backend.training.rewards import Rewards
from backend.training.rollouts import Rollouts
from backend.training.rounding import Rounding
from backend.training.tuning import make_trainable
from backend.training.varied_rows import VariedRows
from backend.utils.stop_signals import StopSignals

FINISHED = "finished"
"""The value that rank 0 broadcasts to the other processes after the last step."""

log = logging.getLogger("tunesmith")


def run(run_dir: RunDir, watch: Watcher = lambda _: None) -> Outcome:
    """Carry out the run, from its newest good checkpoint if there is one, else from the start; return the outcome.

    The outcome is also written to the folder. Raises RunError ``already-running`` if another process holds the run,
    ``bad-rank`` and ``other-process-count`` if the environment describes other processes than the run is configured
    for; every other failure is returned as a failed outcome.
    """
    world = World.of(os.environ)
    if world.size > 1:  # before anything is written, since this process may not belong to the run
        require_process_count(world, run_config(run_dir))
    with _held(run_dir, world), _log_file(run_dir, world), restored_globals(), StopSignals() as signals:
        attempt = _begin(run_dir, world)
        try:
            with joined(world, os.environ, lambda: signals.reason or run_dir.stop_requested()):
                outcome = _train(run_dir, world, signals, watch)
        except StoppedWaitingError as error:
            outcome = Outcome(RunStatus.STOPPED, error.reason, str(error))
        except LostPeerError as error:
            log.exception("This process ends because another one did")
            return Outcome(RunStatus.FAILED, "lost-peer", str(error))
        except Exception as error:  # the outermost handler: any failure is logged and becomes the outcome
            log.exception("The run failed")
            outcome = failure(error, run_dir)
        if world.is_main or outcome.status is RunStatus.FAILED:  # whichever process fails records why
            run_dir.write_outcome(outcome)
        if attempt is not None:
            run_dir.end_attempt(attempt, "exited", exit_code=exit_code(outcome))
    return outcome


def _held(run_dir: RunDir, world: World) -> AbstractContextManager[object]:
    """Return the run's lock. A process other than rank 0 inherits a supervisor's; under torchrun it needs none."""
    inherits = Handover.of(os.environ).lock is not None
    return run_dir.lock() if world.is_main or inherits else contextlib.nullcontext()


def _begin(run_dir: RunDir, world: World) -> Attempt | None:
    """Record and return a new attempt, unless a supervisor or rank 0 does."""
    if not world.is_main:
        return None
    for aside in run_dir.set_damage_aside():
        log.warning("A damaged record was moved aside: %s", aside)
    if Handover.of(os.environ).attempt is not None:
        return None
    return run_dir.begin_attempt(tuple(sys.argv), pid=os.getpid())


@contextlib.contextmanager
def _log_file(run_dir: RunDir, world: World) -> Any:
    """Write the log to train.log inside the block, unless a supervisor redirects it there or rank 0 writes it."""
    if Handover.of(os.environ).attempt is not None or not world.is_main:
        yield
        return
    handler = logging.FileHandler(run_dir.train_log, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    propagated, level = log.propagate, log.level
    log.propagate = False
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.propagate = propagated
        log.setLevel(level)
        log.removeHandler(handler)
        handler.close()


@dataclass(frozen=True)
class _Inputs:
    """The inputs of a run, verified to be those that it began with."""

    model_path: Path
    tokenizer: PreTrainedTokenizerBase
    dataset: Dataset
    rows: TrainRows
    teacher: Teacher | None
    facts: Facts
    adapter: Path | None


def _train(run_dir: RunDir, world: World, signals: StopSignals, watch: Watcher) -> Outcome:
    """Train the run, from reading its configuration to saving its result."""
    began = time.perf_counter()
    config = run_config(run_dir)
    require_process_count(world, config)
    checkpoint = agreed_checkpoint(run_dir, _newest_checkpoint(run_dir, world), world)
    done = checkpoint is not None and bool(checkpoint.notes.get("done"))
    if checkpoint and world.broadcast(done and run_dir.result_folder() is not None):
        return _finished(run_dir, checkpoint)
    with Rewards.of(config.objective) as rewards:
        return _train_from(checkpoint, config, rewards, run_dir, world, signals, watch, began)


def _train_from(
    checkpoint: Checkpoint | None,
    config: RunConfig,
    rewards: Rewards,
    run_dir: RunDir,
    world: World,
    signals: StopSignals,
    watch: Watcher,
    began: float,
) -> Outcome:
    """Train the run from ``checkpoint``, or from its first step."""
    done = checkpoint is not None and bool(checkpoint.notes.get("done"))
    watch(Progress("reading the data"))
    seed_everything(config.seed)
    known = run_dir.read_environment()
    inputs = _read_inputs(run_dir, config, known, world, check=checkpoint is None and not config.data.sha256)
    rows = inputs.rows

    watch(Progress("loading the model"))
    kept = world.broadcast(plan_here(known, config.model.dtype, cores=available_cores() // world.local_size))
    plan = replace(kept, device=world.own_device(kept.device))
    apply_plan(plan)
    held = held_out(inputs.dataset, inputs.tokenizer, config) if world.is_main else HeldOut([])
    state = _initial_state(inputs, plan, held, config, known)
    here = machine(
        kept,
        layers=state.forward.layers_used,
        quantized=config.model.quantization is not None,
        reward_funcs=config.objective.reward_funcs,
    )
    objective, of_held_out = _objectives(
        run_dir, config, state, inputs, held, plan, world, watch, prove=checkpoint is None
    )
    # before a checkpoint's weights: how to decode is found out with those of the start, in a resume too
    examples = _examples(config, state, inputs, plan, rewards, world)
    if checkpoint is not None:
        restore(checkpoint, state)
    require_agreement(world, config, inputs.facts, state)
    trained = () if done else _steps(config, state, inputs, plan, objective, examples, world)
    reports = compared(trained, state, world)
    if not world.is_main:
        return _follow(reports, rows, world)
    run_dir.rewind_metrics(state.step if checkpoint else -1)
    here = _with_changes(run_dir, known, here, state.step, watch)
    run_dir.write_environment(
        provenance(here, inputs.facts, inputs.dataset, rows, time.perf_counter() - began)
    )

    steps = total_steps(rows.row_count, config.training)
    log.info("Training from step %d to %d on %d rows", state.step, steps, rows.row_count)
    judge = Judge(held.rewarded, rewards, config.objective.max_completion_length, inputs.tokenizer)
    evaluator = Evaluator(config, plan, state, inputs.tokenizer, held, watch, of_held_out, judge)
    notes = checkpoint.notes if checkpoint else {}
    with (
        Recorder(run_dir, config, state, inputs.tokenizer, inputs.facts, notes) as recorder,
        _steps_kept(run_dir, state, recorder),
    ):
        if checkpoint is None:
            _audit(run_dir, examples, inputs, config, watch)
        if checkpoint is None and evaluator.possible:
            recorder.evaluation(evaluator(0, 0.0))
        for report in _with_memory_noted(reports, run_dir, config, state, recorder, watch):
            recorder.step(report)
            watch(Progress("training", report))
            _tokenise_on(rows, run_dir)
            over = _evaluate_and_save(report, config, evaluator, recorder)
            reason = world.broadcast(FINISHED if over else run_dir.stop_requested() or signals.reason)
            if over:
                break
            if reason:
                recorder.checkpoint()
                return _stopped(reason, report)
    watch(Progress("saving the result"))
    return _saved(run_dir, config, state, inputs, _result(run_dir, state, steps, recorder.result_step))


def _saved(run_dir: RunDir, config: RunConfig, state: TrainState, inputs: _Inputs, message: str) -> Outcome:
    folder = run_dir.path / TUNINGS[config.tuning.method].result
    result = save_result(state.forward.model, inputs.tokenizer, folder, step=state.step)
    return Outcome(RunStatus.FINISHED, "completed", message, step=state.step, result=str(result))


def _read(
    run_dir: RunDir, world: World, tokenizer: PreTrainedTokenizerBase, config: RunConfig, *, check: bool
) -> tuple[Dataset, TrainRows]:
    """Return the data set and its training rows as tokens; unreadable rows are written to the run folder.

    ``check``: run the data check first, for a run that was created without it. Raises UnsoundDataError for its STOP.
    """
    dataset = data_pipeline.load(config.data, seed=config.seed, augmentation=config.augmentation)
    found = require_sound(dataset, tokenizer, config) if check else None
    rows = data_pipeline.training_examples(dataset, tokenizer, config, all_now=False)
    if world.is_main and found:
        run_dir.write_data_check(DataCheck(found, tuple(config.data.accept)))
    if world.is_main and dataset.rejected:
        write_quarantine(dataset.rejected, run_dir.rejected_file)
    return dataset, rows


def _finished(run_dir: RunDir, last: Checkpoint) -> Outcome:
    """Return the outcome of a run that has its result: killed just after, or started again when finished."""
    result = run_dir.result_folder()
    step = saved_step(result) if result else None
    step = last.step if step is None else step
    return Outcome(RunStatus.FINISHED, "completed", "The run is finished.", step=step, result=str(result))


def _read_inputs(
    run_dir: RunDir, config: RunConfig, known: Environment, world: World, *, check: bool
) -> _Inputs:
    """Read data, tokenizer and model folder. Raises RunError ``inputs-changed`` if one has changed."""
    revision = base_revision(config.model, known.facts)
    model_path = resolve_model(config.model.model_name_or_path, revision=revision)
    now = (known.facts and known.facts.template_time) or datetime.now().astimezone()
    tokenizer = load_tokenizer(model_path, chat_template=config.model.chat_template, now=world.broadcast(now))
    dataset, rows = _read(run_dir, world, tokenizer, config, check=check)
    adapter = earlier_adapter(config.tuning.adapter_name_or_path, model_path)
    facts = facts_of(dataset, model_path, tokenizer, adapter)
    require_same_inputs(known.facts, facts)
    teacher = data_pipeline.teacher_of(config, tokenizer, rows)
    return _Inputs(model_path, tokenizer, dataset, rows, teacher, facts, adapter)


def _with_changes(
    run_dir: RunDir, known: Environment, here: Environment, step: int, watch: Watcher
) -> Environment:
    """Return ``here`` with the recorded changes of machine; log a new one and report it to ``watch``."""
    difference = machine_changes(known, here)
    if not difference:
        return replace(here, changes=known.changes)
    note = (
        f"This attempt runs on something else: {difference}. From step {step} on the last bits may be others."
    )
    log.warning("%s", note)
    watch(Progress("loading the model", note=note))
    change = Change(run_dir.latest_attempt_number(), step, difference)
    return replace(here, changes=(*known.changes, change))


@contextlib.contextmanager
def _steps_kept(run_dir: RunDir, state: TrainState, recorder: Recorder) -> Iterator[None]:
    """Save a checkpoint of the steps before, where an answer cannot be rewarded inside the block."""
    try:
        yield
    except RewardError:
        if state.step > max(0, run_dir.newest_checkpoint_step()):
            recorder.checkpoint()
        raise


def _with_memory_noted(
    reports: Iterable[StepReport],
    run_dir: RunDir,
    config: RunConfig,
    state: TrainState,
    recorder: Recorder,
    watch: Watcher,
) -> Iterator[StepReport]:
    """Yield ``reports``; where memory ran out at a step, record that less is computed at once from it on.

    A checkpoint follows that step, so that a resume has the same size from the same step on.
    """
    asked, fitting = config.training.micro_batch_tokens, dict(state.fitting)
    for report in reports:
        ran_out = state.fitting != fitting
        fitting = dict(state.fitting)
        if ran_out:
            less = f"micro-batches of up to {fitting[asked]} tokens instead of {asked}"
            note = (
                f"Memory ran out at step {report.step}. That step was taken again, and training goes on, with "
                f"{less}; the result differs by rounding only."
            )
            log.warning("%s", note)
            watch(Progress("training", report, note))
            known = run_dir.read_environment()
            change = Change(run_dir.latest_attempt_number(), report.step, f"memory ran out: {less}")
            run_dir.write_environment(replace(known, changes=(*known.changes, change)))
        yield report
        if ran_out:
            recorder.checkpoint()


def _tokenise_on(rows: TrainRows, run_dir: RunDir) -> None:
    """Tokenise the next block of rows, if some are left; record the token counts after the last."""
    if not rows.is_complete and not rows.tokenise_next():
        run_dir.write_environment(with_tokens(run_dir.read_environment(), rows))


def _evaluate_and_save(
    report: StepReport, config: RunConfig, evaluator: Evaluator, recorder: Recorder
) -> bool:
    """Evaluate and save a checkpoint if they are due after this step; return True if training is over."""
    eval_every, save_every = (
        resolve_steps(often, report.total_steps)
        for often in (config.evaluation.eval_steps, config.training.save_steps)
    )
    last, improved = report.step == report.total_steps, False
    if evaluator.possible and (last or _due(report.step, eval_every)):
        improved = recorder.evaluation(evaluator(report.step, report.epoch, score=last))
    over = last or recorder.should_stop_early
    if over or improved or _due(report.step, save_every):
        recorder.checkpoint(done=over)
    return over


def _result(run_dir: RunDir, state: TrainState, steps: int, best: int | None) -> str:
    """Load the model that is the result into ``state``; return a message about it and about what was forgotten."""
    message = _load_best(run_dir, state, steps, best)
    return f"{message} {forgetting_words(run_dir.metrics().records, state.step)}".rstrip()


def _load_best(run_dir: RunDir, state: TrainState, steps: int, best: int | None) -> str:
    """Load the model of step ``best`` into ``state``, unless it is the last; return a message about it."""
    message = f"Trained {state.step} steps."
    if state.step < steps:
        message = f"Stopped early after step {state.step} of {steps}: the held-out loss fell no more."
    if best is None or best == state.step:
        return message
    try:
        restore(read_checkpoint(run_dir.checkpoint(best)), state)
    except RunError as error:
        log.warning("%s The result is the last model instead.", error.message)
        return f"{message} The best model, of step {best}, is damaged; the result is the last one."
    return f"{message} The result is the model of step {best}, where the held-out loss was lowest."


def _initial_state(
    inputs: _Inputs, plan: ComputePlan, held: HeldOut, config: RunConfig, known: Environment
) -> TrainState:
    """Load the base, make it trainable and create the optimizer. Raises DataError if rows do not fit the model."""
    dtype = torch.float32 if config.tuning.trains_all else torch_dtype(plan)
    quantization = Quantization.of(config.model, dtype)
    base = load_base(inputs.model_path, dtype=dtype, quantization=quantization, device=plan.device)
    fit = context_length(base), base.get_input_embeddings().weight.shape[0]
    inputs.rows.require_fit(*fit)
    require_fit(held.examples, *fit)
    if inputs.teacher is not None:
        inputs.teacher.require_fit(fit[1])
    trainable = make_trainable(
        base, config.tuning, seed=config.seed, tokenizer=inputs.tokenizer, adapter=inputs.adapter
    )
    if config.objective.facts.needs_reference or config.objective.facts.samples:
        without_dropout(trainable)
    if config.training.gradient_checkpointing:
        recompute_layers(trainable)
    layers = layers_here(known, config.training.layers_implementation)
    forward = replace(
        proved_forward(trainable, config, inputs.facts, plan, layers),
        neftune_noise_alpha=config.training.neftune_noise_alpha or 0.0,
    )
    why = f" ({forward.layers})" if isinstance(forward.layers, str) else ""
    log.info("Layers computed by %s%s", forward.layers_used, why)
    if depends_on_cores(forward, plan):
        log.info("The same seed gives other bits on another number of cores")
    state = TrainState.start(forward, _resolved(config, forward))
    if config.tuning.qat_scheme:
        steps = total_steps(inputs.rows.row_count, config.training)
        after = resolve_steps(config.tuning.fake_quant_after_n_steps, steps)
        state.rounding = Rounding(forward, inputs.model_path, after)
    return state


def _objectives(
    run_dir: RunDir,
    config: RunConfig,
    state: TrainState,
    inputs: _Inputs,
    held: HeldOut,
    plan: ComputePlan,
    world: World,
    watch: Watcher,
    *,
    prove: bool,
) -> tuple[Objective, Objective]:
    """Return the objective of the training rows and that of the held-out ones.

    Where there is a teacher, or answers are sampled, held-out rows are judged by their own answers, so that runs can
    be compared.
    """
    settings, rows = config.objective, inputs.rows
    if isinstance(rows, Prompts):
        return PolicyGradient(settings.temperature), Supervised()
    passes = ReferencePass(config, state.forward, rows, held.examples, plan, world, state.fitting)
    objective, of_held_out = passes.objectives(run_dir, inputs.facts, watch, prove=prove)
    if inputs.teacher is not None:
        alphas = {"kd_alpha": settings.kd_alpha, "kd_ce_alpha": settings.kd_ce_alpha}
        objective = Distillation(inputs.teacher, **alphas)
    return objective, of_held_out


def _resolved(config: RunConfig, forward: ForwardPass) -> TrainingConfig:
    """Return the settings of training with the peak learning rate, chosen by default where none is set."""
    rate = peak_learning_rate(forward, config.training, config.objective.method)
    return config.training.model_copy(update={"learning_rate": rate})


def _steps(
    config: RunConfig,
    state: TrainState,
    inputs: _Inputs,
    plan: ComputePlan,
    objective: Objective,
    examples: Sequence[Example] | Rollouts,
    world: World,
) -> Iterable[StepReport]:
    """Return the steps of the run, not yet taken, with the peak learning rate of its method and width."""
    training = _resolved(config, state.forward)
    vary = _variation(inputs, config)
    return train_steps(
        state, examples, training, plan, seed=config.seed, objective=objective, vary=vary, world=world
    )


def _examples(
    config: RunConfig, state: TrainState, inputs: _Inputs, plan: ComputePlan, rewards: Rewards, world: World
) -> Sequence[Example] | Rollouts:
    """Return what the steps of the run learn from: its rows, or the answers that it samples to them."""
    rows, settings = inputs.rows, config.objective
    if not isinstance(rows, Prompts):
        return rows
    return Rollouts(
        rows, state.forward, inputs.tokenizer, rewards, settings, plan, seed=config.seed, world=world
    )


def _audit(
    run_dir: RunDir,
    examples: Sequence[Example] | Rollouts,
    inputs: _Inputs,
    config: RunConfig,
    watch: Watcher,
) -> None:
    """Record what answers earn before the first step. Raises DataError ``flat-rewards`` if that is hopeless."""
    if not isinstance(examples, Rollouts) or not isinstance(inputs.rows, Prompts):
        return
    watch(Progress("auditing rewards"))
    found = audit(examples, inputs.rows, config)
    run_dir.write_reward_audit(found)
    for line in found.lines():
        log.info("%s", line)
    watch(Progress("auditing rewards", note="\n".join(found.lines())))
    require_hope(found)


def _follow(reports: Iterable[StepReport], rows: TrainRows, world: World) -> Outcome:
    """Train as a process other than rank 0: its share of each step, until rank 0 broadcasts the end."""
    nothing: str | None = None  # ignored: broadcast returns rank 0's value
    for report in reports:
        rows.tokenise_next()
        reason = world.broadcast(nothing)
        if reason == FINISHED:
            break
        if reason and report.step < report.total_steps:
            return Outcome(RunStatus.STOPPED, reason, f"Stopped after step {report.step}.", step=report.step)
    return Outcome(RunStatus.FINISHED, "completed", "Trained every step.")


def _variation(inputs: _Inputs, config: RunConfig) -> Variation | None:
    """Return the function that gives the rows of each epoch; None if they are the same ones in all of them."""
    rows, vary = inputs.rows, None
    if isinstance(rows, Prompts):
        return None
    if varies(config.augmentation):
        own = rows.own if isinstance(rows, Mixture) else rows
        train, limit = inputs.dataset.train, config.data.max_length
        vary = VariedRows(train, own, inputs.tokenizer, config.augmentation, limit, config.seed)
    return replace(rows, vary=vary) if isinstance(rows, Mixture) else vary


def _newest_checkpoint(run_dir: RunDir, world: World) -> Checkpoint | None:
    """Return the newest good checkpoint, as rank 0 sees it; None in the other processes."""
    if not world.is_main:
        return None
    checkpoint, complaints = newest_good(run_dir.checkpoints)
    for complaint in complaints:
        log.warning("%s Going on from an older one.", complaint)
    return checkpoint


def _due(step: int, every: int) -> bool:
    return bool(every) and step % every == 0


def _stopped(reason: str, report: StepReport) -> Outcome:
    return Outcome(
        RunStatus.STOPPED,
        reason,
        f"Stopped after step {report.step} of {report.total_steps}; a checkpoint is saved.",
        step=report.step,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out the run in the folder given as the only argument; return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("Usage: python -m backend.trainer_main RUN_FOLDER", file=sys.stderr)  # noqa: T201 - the command line
        return 0 if arguments in (["-h"], ["--help"]) else 2
    try:
        outcome = run(RunDir.open(Path(arguments[0])))
    except TunesmithError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the command line
        return error.exit_code
    except OSError as error:
        advice = "Make room or mend its permissions."
        print(f"The run folder cannot be written: {error}. {advice}", file=sys.stderr)  # noqa: T201 - the command line
        return 1
    print(f"{outcome.message} {outcome.remedy}".strip(), file=sys.stderr)  # noqa: T201 - the command line
    return exit_code(outcome)


if __name__ == "__main__":
    sys.exit(main())

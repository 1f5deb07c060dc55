"""The trainer process: one run, from its folder to its result.

``python -m backend.trainer_main RUN_FOLDER`` carries out the run in that folder; ``run`` does the same in
process. Exit codes: 0 finished · 1 failed while training · 2 the input cannot be used · 3 stopped on request ·
129 stopped by SIGHUP · 130 by SIGINT · 143 by SIGTERM. Every way out but a kill ends in ``outcome.json``.
"""

from __future__ import annotations

from backend.utils.machine_utils import available_cores
from backend.utils.process_utils import collect_rarely

if __name__ == "__main__":  # before the heavy rooms come up
    collect_rarely()

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from backend import data_pipeline
from backend.core.device import apply_plan, restored_globals, seed_everything, torch_dtype
from backend.core.encoding.dataset import EncodedRows
from backend.core.encoding.examples import require_fit
from backend.core.model_loader import load_base
from backend.core.model_resolver import resolve_model
from backend.core.tokenizer import load_tokenizer
from backend.data.augmentation import varies
from backend.data.load import write_quarantine
from backend.data.records import Row
from backend.data_pipeline import Dataset
from backend.errors import RunError, TunesmithError
from backend.inference.decoding import context_length
from backend.inference.model_source import base_revision
from backend.run.checkpoints import saved_step
from backend.run.config import RunConfig
from backend.run.environment import Change, ComputePlan, Environment, Facts
from backend.run.folder import RunDir
from backend.run.handover import Handover
from backend.run.methods import TUNINGS
from backend.run.outcomes import exit_code, failure
from backend.run.reports import Attempt, DataCheck, Outcome, Progress, RunStatus, StepReport, Watcher
from backend.run.schedule import resolve_steps, total_steps
from backend.run.settings import run_config
from backend.training.agreement import agreed_checkpoint, compared, require_agreement, require_asked
from backend.training.checkpoint import Checkpoint, newest_good, read_checkpoint, restore, save_result
from backend.training.distributed import LostPeerError, StoppedWaitingError, World, joined
from backend.training.evaluation import Evaluator, HeldOut, held_out
from backend.training.forward import choose_forward
from backend.training.inputs import noted, require_sound
from backend.training.loop import TrainState, Variation, depends_on_cores, train_steps
from backend.training.provenance import (
    facts_of,
    machine,
    machine_changes,
    plan_here,
    provenance,
    require_same_inputs,
    with_tokens,
)
from backend.training.recorder import Recorder
from backend.training.tuning import make_trainable
from backend.training.varied_rows import VariedRows
from backend.utils.stop_signals import StopSignals

OVER = "over"
"""What the first process tells the others when no step is left to train."""

log = logging.getLogger("tunesmith")


def run(run_dir: RunDir, watch: Watcher = lambda _: None) -> Outcome:
    """Carry out the run: from its newest good checkpoint where there is one, else from the start.

    Returns the outcome, which is also written to the folder. Raises RunError: already-running when another process
    holds the run, bad-rank and other-process-count where the environment gives this process a place that the run does
    not have; every other failure comes back as a failed outcome.
    """
    world = World.of(os.environ)
    if world.size > 1:  # before anything is touched: a stray process is none of this run's
        require_asked(world, run_config(run_dir))
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
        except Exception as error:  # a door: whatever happens is written down whole
            log.exception("The run failed")
            outcome = failure(error, run_dir)
        if world.is_main or outcome.status is RunStatus.FAILED:  # whoever fails says why
            run_dir.write_outcome(outcome)
        if attempt is not None:
            run_dir.end_attempt(attempt, "exited", exit_code=exit_code(outcome))
    return outcome


def _held(run_dir: RunDir, world: World) -> AbstractContextManager[object]:
    """The run's lock. Who only follows inherits that of a supervisor, or as torchrun's child holds none."""
    inherits = Handover.of(os.environ).lock is not None
    return run_dir.lock() if world.is_main or inherits else contextlib.nullcontext()


def _begin(run_dir: RunDir, world: World) -> Attempt | None:
    """A new attempt, where no supervisor has recorded it and none else does."""
    if not world.is_main:
        return None
    for aside in run_dir.set_damage_aside():
        log.warning("A damaged record was moved aside: %s", aside)
    if Handover.of(os.environ).attempt is not None:
        return None
    return run_dir.begin_attempt(tuple(sys.argv), pid=os.getpid())


@contextlib.contextmanager
def _log_file(run_dir: RunDir, world: World) -> Any:
    """Send our log to train.log, unless our output goes there already or another process writes there."""
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
    """What a run trains from, read and found to be what it began with."""

    model_path: Path
    tokenizer: PreTrainedTokenizerBase
    dataset: Dataset
    rows: EncodedRows
    facts: Facts


def _train(run_dir: RunDir, world: World, signals: StopSignals, watch: Watcher) -> Outcome:
    """The run, top to bottom."""
    began = time.perf_counter()
    config = run_config(run_dir)
    require_asked(world, config)
    newest = _newest_checkpoint(run_dir) if world.is_main else None
    checkpoint = agreed_checkpoint(run_dir, newest, world)
    done = checkpoint is not None and bool(checkpoint.notes.get("done"))
    if checkpoint and world.broadcast(done and run_dir.result_folder() is not None):
        return _finished(run_dir, checkpoint)

    watch(Progress("reading the data"))
    seed_everything(config.seed)
    known = run_dir.read_environment()
    inputs = _read_inputs(run_dir, config, known, world, look=checkpoint is None and not config.data.sha256)
    rows = inputs.rows

    watch(Progress("loading the model"))
    kept = world.broadcast(plan_here(known, config.model.dtype, cores=available_cores() // world.local_size))
    here = machine(kept)
    plan = replace(kept, device=world.own_device(kept.device))
    apply_plan(plan)
    held = held_out(inputs.dataset, inputs.tokenizer, config) if world.is_main else HeldOut([])
    state = _before_the_first_step(inputs.model_path, plan, rows, held, config)
    if checkpoint is not None:
        restore(checkpoint, state)
    require_agreement(world, config, inputs.facts, state)
    vary = _variation(inputs.dataset.train, rows, inputs.tokenizer, config)
    trained = train_steps(state, rows, config.training, plan, seed=config.seed, vary=vary, world=world)
    reports: Iterable[StepReport] = () if done else compared(trained, state, world)
    if not world.is_main:
        return _follow(reports, rows, world)
    run_dir.rewind_metrics(state.step if checkpoint else -1)
    here = _with_changes(run_dir, known, here, state.step, watch)
    run_dir.write_environment(
        provenance(here, inputs.facts, inputs.dataset, rows, time.perf_counter() - began)
    )

    steps = total_steps(len(rows), config.training)
    log.info("Training from step %d to %d on %d rows", state.step, steps, len(rows))
    assess = Evaluator(config, plan, state, inputs.tokenizer, held, watch)
    notes = checkpoint.notes if checkpoint else {}
    with Recorder(run_dir, config, state, inputs.tokenizer, inputs.facts, notes) as recorder:
        if checkpoint is None and assess.possible:
            recorder.evaluation(assess(0, 0.0))
        for report in reports:
            recorder.step(report)
            watch(Progress("training", report))
            _tokenise_on(rows, run_dir)
            over = _judge(report, config, assess, recorder)
            reason = world.broadcast(OVER if over else run_dir.stop_requested() or signals.reason)
            if over:
                break
            if reason:
                recorder.checkpoint()
                return _stopped(reason, report)
    watch(Progress("saving the result"))
    message = _choose(run_dir, state, steps, recorder.result_step)
    folder = run_dir.path / TUNINGS[config.tuning.method].result
    result = save_result(state.forward.model, inputs.tokenizer, folder, step=state.step)
    return Outcome(RunStatus.FINISHED, "completed", message, step=state.step, result=str(result))


def _read(
    run_dir: RunDir, world: World, tokenizer: PreTrainedTokenizerBase, config: RunConfig, *, look: bool
) -> tuple[Dataset, EncodedRows]:
    """The rows, and those to train on as tokens; what cannot be read is kept beside the run.

    ``look``: ask the data check first, for a run that was made without it. It may say STOP:
    UnsoundDataError.
    """
    dataset = data_pipeline.load(config.data, seed=config.seed, augmentation=config.augmentation)
    found = require_sound(dataset, tokenizer, config) if look else None
    rows = data_pipeline.encode(dataset.train, tokenizer, config.data, all_now=False)
    if world.is_main and found:
        run_dir.write_data_check(DataCheck(noted(found), tuple(config.data.accept)))
    if world.is_main and dataset.rejected:
        write_quarantine(dataset.rejected, run_dir.rejected_file)
    return dataset, rows


def _finished(run_dir: RunDir, last: Checkpoint) -> Outcome:
    """The outcome of a run that was killed after it had its result, or that is asked to go on when it is finished."""
    result = run_dir.result_folder()
    step = saved_step(result) if result else None
    step = last.step if step is None else step
    return Outcome(RunStatus.FINISHED, "completed", "The run is finished.", step=step, result=str(result))


def _read_inputs(
    run_dir: RunDir, config: RunConfig, known: Environment, world: World, *, look: bool
) -> _Inputs:
    """Read data, tokenizer and model folder. Raises RunError ``inputs-changed`` where one is not that of before."""
    revision = base_revision(config.model, known.facts)
    model_path = resolve_model(config.model.model_name_or_path, revision=revision)
    now = (known.facts and known.facts.template_time) or datetime.now().astimezone()
    tokenizer = load_tokenizer(model_path, chat_template=config.model.chat_template, now=world.broadcast(now))
    dataset, rows = _read(run_dir, world, tokenizer, config, look=look)
    facts = facts_of(dataset, model_path, tokenizer)
    require_same_inputs(known.facts, facts)
    return _Inputs(model_path, tokenizer, dataset, rows, facts)


def _with_changes(
    run_dir: RunDir, known: Environment, here: Environment, step: int, watch: Watcher
) -> Environment:
    """``here`` with the changes of all attempts; one of this attempt is told to whoever watches."""
    what = machine_changes(known, here)
    if not what:
        return replace(here, changes=known.changes)
    note = f"This attempt runs on something else: {what}. From step {step} on the last bits may be others."
    log.warning("%s", note)
    watch(Progress("loading the model", note=note))
    change = Change(run_dir.latest_attempt_number(), step, what)
    return replace(here, changes=(*known.changes, change))


def _tokenise_on(rows: EncodedRows, run_dir: RunDir) -> None:
    """Tokenise the next of the rows that training did not wait for; their tokens are noted after the last."""
    if not rows.is_complete and not rows.tokenise_next():
        run_dir.write_environment(with_tokens(run_dir.read_environment(), rows))


def _judge(report: StepReport, config: RunConfig, assess: Evaluator, recorder: Recorder) -> bool:
    """Evaluate and save after a step where it is time to; whether it was the last one to train."""
    eval_every, save_every = (
        resolve_steps(often, report.total_steps)
        for often in (config.evaluation.eval_steps, config.training.save_steps)
    )
    last, improved = report.step == report.total_steps, False
    if assess.possible and (last or _due(report.step, eval_every)):
        improved = recorder.evaluation(assess(report.step, report.epoch, score=last))
    over = last or recorder.has_waited_enough
    if over or improved or _due(report.step, save_every):
        recorder.checkpoint(done=over)
    return over


def _choose(run_dir: RunDir, state: TrainState, steps: int, best: int | None) -> str:
    """Put the model of step ``best``, where it is another than the last, into ``state``; what was done, in words."""
    words = f"Trained {state.step} steps."
    if state.step < steps:
        words = f"Stopped early after step {state.step} of {steps}: the held-out loss fell no more."
    if best is None or best == state.step:
        return words
    try:
        restore(read_checkpoint(run_dir.checkpoint(best)), state)
    except RunError as error:
        log.warning("%s The result is the last model instead.", error.message)
        return f"{words} The best model, of step {best}, is damaged; the result is the last one."
    return f"{words} The result is the model of step {best}, where the held-out loss was lowest."


def _before_the_first_step(
    model_path: Path, plan: ComputePlan, rows: EncodedRows, held: HeldOut, config: RunConfig
) -> TrainState:
    """The model, made trainable, and its optimizer; raises DataError where rows do not fit the model."""
    base = load_base(model_path, dtype=torch.float32 if config.tuning.trains_all else torch_dtype(plan)).to(
        plan.device
    )
    fit = context_length(base), base.get_input_embeddings().weight.shape[0]
    rows.require_fit(*fit)
    require_fit(held.examples, *fit)
    trainable = make_trainable(base, config.tuning, seed=config.seed)
    forward = replace(
        choose_forward(trainable, longest_row=config.data.max_length, plan=plan),
        neftune_noise_alpha=config.training.neftune_noise_alpha or 0.0,
    )
    if depends_on_cores(forward, plan):
        log.info("The same seed gives other bits on another number of cores")
    return TrainState.start(forward, config.training)


def _follow(reports: Iterable[StepReport], rows: EncodedRows, world: World) -> Outcome:
    """What every process but the first does: its share of each step, until the first one says stop."""
    nothing: str | None = None  # it is the first process that knows
    for report in reports:
        rows.tokenise_next()
        reason = world.broadcast(nothing)
        if reason == OVER:
            break
        if reason and report.step < report.total_steps:
            return Outcome(RunStatus.STOPPED, reason, f"Stopped after step {report.step}.", step=report.step)
    return Outcome(RunStatus.FINISHED, "completed", "Trained every step.")


def _variation(
    rows: Sequence[Row],
    encoded: EncodedRows,
    tokenizer: PreTrainedTokenizerBase,
    config: RunConfig,
) -> Variation | None:
    """What the rows are in each epoch; None where they never vary."""
    if not varies(config.augmentation):
        return None
    return VariedRows(rows, encoded, tokenizer, config.augmentation, config.data.max_length, config.seed)


def _newest_checkpoint(run_dir: RunDir) -> Checkpoint | None:
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
    """Carry out the run in the folder that is the one argument; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("Usage: python -m backend.trainer_main RUN_FOLDER", file=sys.stderr)  # noqa: T201 - a door
        return 0 if arguments in (["-h"], ["--help"]) else 2
    try:
        outcome = run(RunDir.open(Path(arguments[0])))
    except TunesmithError as error:
        print(error, file=sys.stderr)  # noqa: T201 - a door
        return error.exit_code
    except OSError as error:
        advice = "Make room or mend its permissions."
        print(f"The run folder cannot be written: {error}. {advice}", file=sys.stderr)  # noqa: T201 - a door
        return 1
    print(f"{outcome.message} {outcome.remedy}".strip(), file=sys.stderr)  # noqa: T201 - a door
    return exit_code(outcome)


if __name__ == "__main__":
    sys.exit(main())

"""The planted faults: one replaced piece of code each, with the tests that must fail because of it."""

from __future__ import annotations

from tests.mutants.fault import Fault
from tests.mutants.locks import lock_faults

__all__ = ["FAULTS", "Fault"]

BATCHING = "tests/backend/training/test_batching.py"
GRADIENTS = "tests/backend/training/test_gradients.py"
TRAINING = "tests/backend/training/test_loop.py"
ENCODED = "tests/backend/core/encoding/test_dataset.py"
ENCODING = "tests/backend/core/encoding/test_row.py"
TRAINER = "tests/backend/test_trainer_main.py"
INFERENCER = "tests/backend/test_inferencer.py"
CHECKPOINT = "tests/backend/training/test_checkpoint.py"
TUNING = "tests/backend/training/test_tuning.py"
OPTIMIZER = "tests/backend/training/test_optimizer.py"
SCHEDULE = "tests/backend/run/test_schedule.py"
PROCESSES = "tests/backend/manager/test_process_manager.py"
SUPERVISOR = "tests/backend/manager/test_supervisor.py"
ATTEMPT = "tests/backend/manager/test_attempts.py"
CONFIG = "tests/backend/run/test_config.py"
RUNS = "tests/backend/manager/test_run_manager.py"

FAULTS: tuple[Fault, ...] = (
    # --- what is learned
    Fault(
        "loss mask dropped",
        "backend/training/batching.py",
        "targets = [np.flatnonzero(example.trained[1:]) + 1 for example in rows]",
        "targets = [np.arange(1, len(example.input_ids)) for example in rows]",
        (BATCHING,),
    ),
    Fault(
        "labels are the inputs",
        "backend/training/batching.py",
        "labels = [example.input_ids[target] for",
        "labels = [example.input_ids[target - 1] for",
        (BATCHING,),
    ),
    Fault(
        "the end token is not learned",
        "backend/core/encoding/row.py",
        "    return encoded\n",
        "    return Encoded(encoded.input_ids, [*encoded.trained[:-2], False, False])\n",
        (ENCODING,),
    ),
    Fault(
        "prompt and answer change places",
        "backend/data/shapes.py",
        "return Row(place, messages=(*prompt, *answer), tools=_tools(cells, columns))",
        "return Row(place, messages=(*answer, *prompt), tools=_tools(cells, columns))",
        ("tests/backend/data/test_shapes.py",),
    ),
    Fault(
        "held-out rows are trained on",
        "backend/data_pipeline.py",
        "own = encode(dataset.train, tokenizer,",
        "own = encode(dataset.validation, tokenizer,",
        (TRAINER, "tests/integration/test_train_and_answer.py"),
    ),
    Fault(
        "max_length ignored",
        "backend/core/encoding/dataset.py",
        "for index in np.flatnonzero(lengths > limit).tolist():",
        "for index in np.flatnonzero(lengths > 10**9).tolist():",
        (ENCODED,),
    ),
    Fault(
        "truncation cuts nothing",
        "backend/core/encoding/dataset.py",
        "Example(ids[start:stop], trained[start:stop], place, row.label)",
        "Example(ids[start:], trained[start:], place, row.label)",
        (ENCODED,),
    ),
    Fault(
        "the template is left out in training",
        "backend/core/encoding/row.py",
        "encoded = encode_batch(tokenizer, [row.messages for row in chunk])",
        'encoded = [encode_text(tokenizer, str(row.messages[-1]["content"])) for row in chunk]',
        (ENCODING,),
    ),
    Fault(
        "a row asked for early is not looked at",
        "backend/core/encoding/dataset.py",
        "if self._table is None and self._limits:",
        "if False:",
        (ENCODED,),
    ),
    Fault(
        "rows that training did not wait for are never looked at",
        "backend/trainer_main.py",
        "if not rows.is_complete and not rows.tokenise_next():",
        "if False:",
        (TRAINER,),
    ),
    Fault(
        "the first row is dropped",
        "backend/training/batching.py",
        "return np.random.default_rng([seed, epoch]).permutation(rows)",
        "return np.maximum(np.random.default_rng([seed, epoch]).permutation(rows), 1)",
        (BATCHING,),
    ),
    Fault(
        "the seed of the order is ignored",
        "backend/training/batching.py",
        "np.random.default_rng([seed, epoch])",
        "np.random.default_rng([0, epoch])",
        (BATCHING,),
    ),
    Fault(
        "every epoch has the same order",
        "backend/training/batching.py",
        "np.random.default_rng([seed, epoch])",
        "np.random.default_rng([seed, 0])",
        (BATCHING,),
    ),
    Fault(
        "the seed of the split is ignored",
        "backend/data/splits.py",
        '.encode("utf-8"), seed=seed)',
        '.encode("utf-8"), seed=0)',
        ("tests/backend/data/test_splits.py",),
    ),
    Fault(
        "the seed of the adapter is ignored",
        "backend/training/tuning.py",
        "torch.manual_seed(seed)",
        "torch.manual_seed(0)",
        (TUNING,),
    ),
    # --- how it is learned
    Fault(
        "the optimizer does nothing",
        "backend/training/loop.py",
        "    state.optimizer.step()\n",
        "",
        (TRAINING,),
    ),
    Fault(
        "LoRA became full",
        "backend/training/tuning.py",
        '"lora": _lora,',
        '"lora": _full,',
        (TUNING,),
    ),
    Fault("the rank is ignored", "backend/training/lora.py", "r=tuning.lora_r,", "r=4,", (TUNING,)),
    Fault(
        "lora_alpha is ignored",
        "backend/training/lora.py",
        "lora_alpha=tuning.lora_alpha,",
        "lora_alpha=tuning.lora_r,",
        (TUNING,),
    ),
    Fault(
        "the learning rate is ignored",
        "backend/training/loop.py",
        "rate = peak * factor(step)",
        "rate = 1e-3",
        (TRAINING,),
    ),
    Fault(
        "the schedule is constant",
        "backend/run/schedule.py",
        '"linear": lambda left, _done: left,',
        '"linear": lambda _left, _done: 1.0,',
        (SCHEDULE,),
    ),
    Fault("no warm-up", "backend/run/schedule.py", "return step / warmup", "return 1.0", (SCHEDULE,)),
    Fault(
        "the batch size is ignored",
        "backend/run/config.py",
        "return self.per_device_train_batch_size * self.gradient_accumulation_steps",
        "return 8 * self.gradient_accumulation_steps",
        (TRAINING, CONFIG),
    ),
    Fault(
        "accumulation is ignored",
        "backend/run/config.py",
        "return self.per_device_train_batch_size * self.gradient_accumulation_steps",
        "return self.per_device_train_batch_size",
        (TRAINING, CONFIG),
    ),
    Fault(
        "the mean is taken over each micro-batch",
        "backend/training/gradients.py",
        "loss_of = objective.of_step(batches, total)",
        "loss_of = objective.of_step(batches[:1], total)",
        (GRADIENTS,),
    ),
    Fault(
        "gradients are not clipped",
        "backend/training/loop.py",
        "if training.max_grad_norm else 1.0",
        "if not training.max_grad_norm else 1.0",
        (TRAINING,),
    ),
    Fault(
        "a loss that is no number is put up with",
        "backend/training/loop.py",
        "if not math.isfinite(loss):",
        "if loss is None:",
        (TRAINING,),
    ),
    Fault(
        "weight decay on everything",
        "backend/training/optimizer.py",
        '"weight_decay": training.weight_decay if is_matrix else 0.0,',
        '"weight_decay": training.weight_decay,',
        (OPTIMIZER,),
    ),
    Fault(
        "max_steps is ignored",
        "backend/run/schedule.py",
        "if training.max_steps > 0:",
        "if training.max_steps > 10**6:",
        (SCHEDULE,),
    ),
    # --- what is kept
    Fault(
        "a resume forgets the moments",
        "backend/training/optimizer.py",
        'value.copy_(tensors[f"{name}.{key}"])',
        "value.copy_(value)",
        (OPTIMIZER, CHECKPOINT),
    ),
    Fault(
        "the oldest checkpoint is resumed",
        "backend/training/checkpoint.py",
        "for path in reversed(checkpoint_folders(folder)):",
        "for path in checkpoint_folders(folder):",
        (CHECKPOINT,),
    ),
    Fault(
        "a save that failed leaves its folder behind",
        "backend/utils/file_utils.py",
        "        yield folder\n    finally:\n        shutil.rmtree(folder, ignore_errors=True)",
        "        yield folder\n    finally:\n        pass",
        ("tests/faults/test_f14_f16_checkpoints_on_bad_disks.py",),
    ),
    Fault(
        "a save that failed loses the result before it",
        "backend/training/checkpoint.py",
        "        if aside.exists() and not folder.exists():\n            aside.rename(folder)\n        raise",
        "        raise",
        ("tests/integration/test_results_elsewhere.py",),
    ),
    Fault(
        "hashes are not compared",
        "backend/run/checkpoints.py",
        'if sha256_file(file) != facts.get("sha256"):',
        'if not facts.get("sha256"):',
        ("tests/backend/run/test_checkpoints.py",),
    ),
    Fault(
        "state is not written atomically",
        "backend/utils/file_utils.py",
        "    staged = temporary_name(path)\n    try:",
        "    path.unlink(missing_ok=True)\n    staged = path\n    try:",
        ("tests/backend/utils/test_file_utils.py",),
    ),
    Fault(
        "metrics of a lost future stay",
        "backend/trainer_main.py",
        "run_dir.rewind_metrics(state.step if checkpoint else -1)",
        "run_dir.rewind_metrics(10**9)",
        (TRAINER, "tests/integration/test_kill_and_resume.py"),
    ),
    Fault(
        "changed data is resumed on",
        "backend/training/provenance.py",
        "    if not changed:\n",
        "    if True:\n",
        ("tests/backend/training/test_provenance.py",),
    ),
    Fault(
        "another base answers",
        "backend/inference/model_source.py",
        "    if now != before:\n",
        "    if False:\n",
        ("tests/backend/inference/test_model_source.py",),
    ),
    Fault(
        "processes that differ train together",
        "backend/training/distributed.py",
        "if other[name] != value:",
        "if False:",
        ("tests/backend/training/test_distributed.py",),
    ),
    # --- the model that answers
    Fault(
        "another checkpoint is loaded",
        "backend/inference/model_source.py",
        "return steps[-1] if steps else -1",
        "return steps[0] if steps else -1",
        ("tests/backend/inference/test_model_source.py", INFERENCER),
    ),
    Fault(
        "the prompt is ignored",
        "backend/inference/prompting.py",
        'messages: Sequence[Message] = [{"role": "user", "content": prompt}]',
        'messages: Sequence[Message] = [{"role": "user", "content": "Hello"}]',
        ("tests/backend/inference/test_prompting.py", INFERENCER),
    ),
    Fault(
        "missing weights are drawn at random",
        "backend/core/model_loader.py",
        "raise _misfit(folder, f",
        "_misfit(folder, f",
        ("tests/backend/core/test_model_loader.py",),
    ),
    Fault(
        "a closed model stays loaded",
        "backend/inferencer.py",
        "        self._base = None\n\n    def __enter__",
        "        pass\n\n    def __enter__",
        (INFERENCER,),
    ),
    # --- the life of a run
    Fault(
        "a stop stops nothing",
        "backend/manager/process_manager.py",
        "    _refuse_unless_live(run)\n    asked = _ask(run, reason, wait_seconds)\n",
        "    _refuse_unless_live(run)\n    return run.state()\n",
        (PROCESSES,),
    ),
    Fault(
        "a stop request is not heeded",
        "backend/trainer_main.py",
        "run_dir.stop_requested() or signals.reason",
        "signals.reason",
        (TRAINER,),
    ),
    Fault(
        "no signal is sent",
        "backend/manager/attempts.py",
        "return send_signal(attempt.process, signal.SIGTERM)",
        "return True",
        (ATTEMPT, SUPERVISOR),
    ),
    Fault(
        "cleaning up kills nothing",
        "backend/manager/attempts.py",
        "            send_signal(identity, signal.SIGKILL)\n",
        "",
        (ATTEMPT, SUPERVISOR),
    ),
    Fault(
        "a stranger's pid is signalled",
        "backend/utils/process_utils.py",
        "return _start_ticks(identity.pid) == identity.start_ticks",
        "return _start_ticks(identity.pid) > 0",
        ("tests/backend/utils/test_process_utils.py",),
    ),
    Fault(
        "the wrong pid is written down",
        "backend/manager/supervisor.py",
        "self._with_process(attempt, trainer.pid)",
        "self._with_process(attempt, os.getpid())",
        (SUPERVISOR, PROCESSES),
    ),
    Fault(
        "the trainer's words go nowhere",
        "backend/manager/ranks.py",
        "                    stdout=log,\n                    stderr=log,\n",
        "                    stdout=subprocess.DEVNULL,\n                    stderr=subprocess.DEVNULL,\n",
        (SUPERVISOR, PROCESSES),
    ),
    Fault(
        "a start does not wait for the run",
        "backend/manager/process_manager.py",
        "        _await_message(run, reader)\n",
        "",
        (PROCESSES,),
    ),
    Fault(
        "a time-out is swallowed",
        "backend/manager/process_manager.py",
        "    if not text:\n        raise RunError(",
        "    if not text:\n        return\n        raise RunError(",
        (PROCESSES,),
    ),
    Fault(
        "a running run can be deleted",
        "backend/manager/run_manager.py",
        "        self.require_unneeded(found)\n        with found.hold_for_deleting():\n",
        "        if found:\n",
        (RUNS,),
    ),
    Fault(
        "deleting deletes nothing",
        "backend/manager/run_manager.py",
        "            remove_folder(found.path)",
        "            pass",
        (RUNS,),
    ),
    # --- what is shown
    Fault(
        "one point a curve",
        "backend/manager/scalars.py",
        "                known_steps += steps\n                known_values += values",
        "                known_steps[:], known_values[:] = steps[-1:], values[-1:]",
        ("tests/backend/manager/test_scalars.py",),
    ),
    Fault(
        "the event file is never read",
        "backend/manager/event_files.py",
        "return sum(self._read(path) for path in files)",
        "return len(files)",
        ("tests/backend/manager/test_event_files.py",),
    ),
    Fault(
        "an error of the configuration is not told",
        "backend/commands/cli.py",
        "        return report_error(error, as_json=as_json)\n    except CycloptsError",
        "        return EXIT_BAD_INPUT\n    except CycloptsError",
        ("tests/backend/commands/test_cli.py", "tests/integration/test_bad_inputs.py"),
    ),
    Fault(
        "a preview shows no rows",
        "backend/core/encoding/preview.py",
        "for row in dataset.train[:rows]",
        "for row in dataset.train[:0]",
        ("tests/backend/core/encoding/test_preview.py",),
    ),
    Fault(
        "a preview shows every token as trained",
        "backend/core/encoding/preview.py",
        'else "trained" if trained and index else "context"',
        'else "trained"',
        ("tests/backend/core/encoding/test_preview.py",),
    ),
    # --- the studio
    Fault(
        "curves are not drawn",
        "app/views/charts.py",
        "    st.vega_lite_chart(data, spec, key=key,",
        "    str((data, spec, key)) and dict(",
        ("tests/app/views/test_charts.py", "tests/app/pages/test_run.py"),
    ),
    Fault(
        "an upload is thrown away",
        "app/uploads.py",
        "(staging / kept.name).write_bytes(content)",
        '(staging / kept.name).write_bytes(b"")',
        ("tests/app/test_uploads.py",),
    ),
    Fault(
        "Start starts nothing",
        "backend/manager/launch.py",
        "            process_manager.start(run)\n",
        "            pass\n",
        ("tests/backend/manager/test_launch.py", "tests/app/test_start.py"),
    ),
    Fault(
        "Stop stops nothing",
        "app/actions.py",
        "    run.request_stop(reason)\n    threading.Thread(",
        "    return\n    threading.Thread(",
        ("tests/app/test_actions.py", "tests/app/test_run_buttons.py", "tests/app/pages/test_run.py"),
    ),
    # --- what leaves
    Fault(
        "exported heads are not permuted",
        "backend/export/gguf_writer.py",
        'ordered = _permuted(config, adapted, values) if side == "B" else values',
        "ordered = values",
        ("tests/backend/export/test_gguf_writer.py", "tests/backend/export/test_job.py"),
    ),
    # --- two at once
    *lock_faults(),
)

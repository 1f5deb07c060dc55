"""What only a GPU can show, in ten minutes: correctness first, then speed, beside TRL where it is installed.

    sh benchmarks/gpu_check.sh

Every check compares the device with this machine's processor in float32, which the tests hold to transformers and
peft. The exit code is 1 if a check is red; speed is only reported. ``--device cpu --tiny`` tries the script itself.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import importlib.metadata
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from backend import data_pipeline
from backend.core.device import ComputePlan, plan_compute, torch_dtype
from backend.core.encoding.examples import Example
from backend.core.lanes import Lanes
from backend.core.model_loader import load_base
from backend.core.model_resolver import resolve_model
from backend.core.tokenizer import load_tokenizer
from backend.inference.decoding import Decoding, Sampling
from backend.run.config import DataConfig, TrainingConfig, TuningConfig
from backend.training.batching import pack
from backend.training.distributed import ALONE
from backend.training.forward import ForwardPass, choose_forward
from backend.training.gradients import step_gradients
from backend.training.loop import TrainState, packing_of, train_steps
from backend.training.objective import Supervised
from backend.training.scoring import total_over
from backend.training.tuning import make_trainable, trainable_parameters

ROOT = Path(__file__).resolve().parents[1]
DATA = "examples/food-category/train.jsonl"
ROWS = 8
TOLERANCE = {"float32": 1e-3, "bfloat16": 6e-2}
"""Largest relative error of all gradients; a GPU multiplies float32 in TF32 where that is allowed."""


@dataclass(frozen=True)
class Bench:
    """What every check is given: the device, a model folder, and its rows as examples."""

    device: str
    model: Path
    examples: Sequence[Example]

    def plan(self, dtype: str, device: str | None = None) -> ComputePlan:
        """Return the plan of a run on the device, or on another."""
        return replace(plan_compute(dtype), device=device or self.device, lanes=1, matmul_precision="highest")

    def forward(self, plan: ComputePlan, *, method: str = "lora") -> ForwardPass:
        """Return the model ready to be trained, its adapter moved off zero so that every gradient counts."""
        dtype = torch.float32 if method == "full" else torch_dtype(plan)
        base = load_base(self.model, dtype=dtype, device=plan.device)
        model = make_trainable(base, TuningConfig(method="full" if method == "full" else "lora"), seed=0)
        noise = torch.Generator().manual_seed(1)
        for parameter in trainable_parameters(model).values():
            parameter.data += 0.01 * torch.randn(parameter.shape, generator=noise).to(parameter)
        return choose_forward(model, plan=plan)

    def rows(self, count: int) -> list[Example]:
        """Return ``count`` examples, from the beginning again where there are fewer."""
        return [self.examples[index % len(self.examples)] for index in range(count)]


def gradients(bench: Bench, forward: ForwardPass, plan: ComputePlan) -> tuple[float, Tensor]:
    """Return the loss of one step and all its gradients in one row, float64 on the processor."""
    state = TrainState.start(forward, TrainingConfig())
    packing = packing_of(forward, TrainingConfig(), plan, ALONE)
    batches = [batch.to(torch.device(plan.device)) for batch in packing(bench.rows(ROWS))]
    with Lanes(1) as lanes:
        found = step_gradients(
            forward, list(state.parameters.values()), batches, plan, lanes,
            objective=Supervised(), total=total_over(forward, packing, plan, lanes, ALONE), seed=0, step=1,
        )  # fmt: skip
    return found.loss, torch.cat([each.double().flatten().cpu() for each in found.gradients])


def compare_gradients(bench: Bench, dtype: str, method: str) -> tuple[bool, str]:
    """Compare loss and gradients of one step with those of the processor in float32."""
    here, there = bench.plan("float32", "cpu"), bench.plan(dtype)
    loss, expected = gradients(bench, bench.forward(here, method=method), here)
    other, found = gradients(bench, bench.forward(there, method=method), there)
    error = float((found - expected).norm() / expected.norm())
    return error < TOLERANCE[dtype], f"loss {loss:.5f} and {other:.5f}, gradients differ by {error:.1e}"


def packed_and_padded(bench: Bench) -> tuple[bool, str]:
    """Compare packed rows with padded ones on the device."""
    plan = bench.plan("float32")
    forward = bench.forward(plan)
    if not forward.packed:
        return False, "the model was not packed"
    batch = pack(bench.rows(ROWS), budget=1 << 20, parts=1)[0].to(torch.device(plan.device))
    with torch.no_grad():
        packed = float(forward.loss_sum(batch))
        causal = forward.causal
        causal.set_attn_implementation("sdpa")
        padded = float(replace(forward, packed=False).loss_sum(batch))
    error = abs(packed - padded) / abs(padded)
    return error < 1e-3, f"relative difference of the loss {error:.1e}"


def trained_twice(bench: Bench) -> tuple[bool, str]:
    """Train six steps twice; on a GPU the bits may differ, and the report says whether they do."""
    plan, training = bench.plan("auto"), TrainingConfig(max_steps=6, per_device_train_batch_size=4)
    losses: list[list[float]] = []
    sums: list[str] = []
    for _ in range(2):
        state = TrainState.start(bench.forward(plan), training)
        losses.append([report.loss for report in train_steps(state, bench.examples, training, plan, seed=0)])
        digest = hashlib.sha256()
        for parameter in state.parameters.values():
            digest.update(parameter.detach().float().cpu().numpy().tobytes())
        sums.append(digest.hexdigest())
    same = "the same bits" if sums[0] == sums[1] else "other bits"
    return losses[0][-1] < losses[0][0], f"loss {losses[0][0]:.3f} to {losses[0][-1]:.3f}; twice: {same}"


def resumed_run(bench: Bench) -> tuple[bool, str]:
    """Train by the command, end after step 3, resume, and answer: the whole life of a run on the device."""
    with tempfile.TemporaryDirectory() as folder:
        common = ["--model.model_name_or_path", str(bench.model), "--runs", folder, "--data.train", DATA]
        steps = ["--training.max_steps", "4", "--training.save_steps", "2", "--logging.logging_steps", "1"]
        done = _command(["train", *common, *steps, "--data.validation", "0"])
        if done.returncode:
            return False, (done.stderr.strip().splitlines() or ["no message"])[-1]
        run = next(path for path in Path(folder).iterdir() if path.is_dir())
        plan = json.loads((run / "environment.json").read_text(encoding="utf-8"))
        said = _command(["infer", str(run), "--prompt", "Sausage", "--max-new-tokens", "4"])
        return (
            said.returncode == 0,
            f"four steps and an answer; plan {plan.get('plan', plan).get('device', '?')}",
        )


def _command(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tunesmith", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def greedy_answers(bench: Bench) -> tuple[bool, str]:
    """Compare greedy tokens in float32 with those of the processor, eight prompts in one batch."""
    answers = [_answers(bench, bench.plan("float32", device)) for device in ("cpu", bench.device)]
    same = sum(first == second for first, second in zip(*answers, strict=True))
    return same == len(answers[0]), f"{same} of {len(answers[0])} answers are the same"


def _answers(bench: Bench, plan: ComputePlan, new_tokens: int = 16) -> list[list[int]]:
    model = load_base(bench.model, dtype=torch_dtype(plan), device=plan.device).eval()
    return _decode(
        model, [list(row.input_ids[: len(row.input_ids) // 2]) for row in bench.rows(8)], new_tokens
    )


def _decode(
    model: PreTrainedModel | PeftModel, prompts: Sequence[Sequence[int]], new_tokens: int
) -> list[list[int]]:
    decoding = Decoding(model, prompts, Sampling(max_new_tokens=new_tokens), stop_ids=[])
    answers: list[list[int]] = [[] for _ in prompts]
    while decoding.rows:
        for token in decoding.step():
            answers[token.row].append(int(token.token_id))
    return answers


CHECKS: dict[str, Callable[[Bench], tuple[bool, str]]] = {
    "LoRA gradients, float32": lambda bench: compare_gradients(bench, "float32", "lora"),
    "LoRA gradients, bfloat16": lambda bench: compare_gradients(bench, "bfloat16", "lora"),
    "full tuning gradients, float32": lambda bench: compare_gradients(bench, "float32", "full"),
    "packed rows are padded rows": packed_and_padded,
    "six steps, twice": trained_twice,
    "greedy answers, float32": greedy_answers,
    "a run from command to answer": resumed_run,
}


def training_speed(bench: Bench, budget: int, method: str) -> float:
    """Return our tokens a second at this many tokens a step, the median of the steps after the first two."""
    plan = replace(plan_compute("auto"), device=bench.device)
    state = TrainState.start(bench.forward(plan, method=method), TrainingConfig())
    longest = sum(len(row.input_ids) for row in bench.rows(ROWS)) // ROWS
    rows = max(1, budget // longest)
    training = TrainingConfig(
        max_steps=7, per_device_train_batch_size=rows, micro_batch_tokens=budget, learning_rate=2e-4
    )
    reports = list(train_steps(state, bench.rows(rows * 7), training, plan, seed=0))
    return statistics.median(report.tokens / report.seconds for report in reports[2:])


def decoding_speed(bench: Bench, rows: int) -> float:
    """Return new tokens a second for ``rows`` answers of 64 tokens at once."""
    plan = replace(plan_compute("auto"), device=bench.device)
    model = load_base(bench.model, dtype=torch_dtype(plan), device=plan.device).eval()
    prompts = [list(row.input_ids[: len(row.input_ids) // 2]) for row in bench.rows(rows)]
    _decode(model, prompts, 4)
    started = time.perf_counter()
    answers = _decode(model, prompts, 64)
    return sum(map(len, answers)) / (time.perf_counter() - started)


def trl_speed(bench: Bench, rows: int) -> float:
    """Return TRL's tokens a second with ``rows`` rows a step, bfloat16 weights, packing where it can."""
    from train_speed import trl

    chats = [json.loads(line) for line in (ROOT / DATA).read_text(encoding="utf-8").splitlines()]
    taken = [chats[index % len(chats)] for index in range(rows * 7)]
    pairs = [{"prompt": row["messages"][:-1], "completion": row["messages"][-1:]} for row in taken]
    tokens = sum(len(row.input_ids) for row in bench.rows(rows * 7)[rows:])
    return tokens / trl(bench.model, pairs, rows, 7, best=True, on_cpu=bench.device == "cpu")


def _red(error: Exception) -> tuple[bool, str]:
    return False, f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0]}"


def _measured(measure: Callable[[], float]) -> str:
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    try:
        speed = measure()
    except Exception as error:  # noqa: BLE001 - one candidate must not end the others
        return _red(error)[1]
    finally:
        gc.collect()
    peak = f", peak {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB" if gpu else ""
    return f"{speed:,.0f} tokens/s{peak}"


def _version(package: str) -> str:
    return importlib.metadata.version(package) if importlib.util.find_spec(package) else "not installed"


def _bench(asked: argparse.Namespace, folder: Path) -> Bench:
    if asked.tiny:
        from tests.tiny import tiny_model_folder

        model = tiny_model_folder(folder / "tiny")
    else:
        model = Path(resolve_model(asked.model))
    data = DataConfig(train=str(ROOT / DATA), validation=0.0)
    dataset = data_pipeline.load(data, seed=0)
    rows = dataset.train[: 64 if asked.tiny else None]
    return Bench(asked.device, model, list(data_pipeline.encode(rows, load_tokenizer(model), data)))


def main(words: Sequence[str] | None = None) -> int:
    """Run all checks, then all measurements, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tiny", action="store_true", help="a tiny random model, to try this script")
    parser.add_argument(
        "--budgets",
        type=int,
        nargs="*",
        default=[4096, 16384, 65536],
        help="tokens a step; none: checks alone",
    )
    asked = parser.parse_args(words)
    name = torch.cuda.get_device_name() if asked.device.startswith("cuda") else "cpu"
    versions = ", ".join(f"{package} {_version(package)}" for package in ("torch", "transformers", "trl"))
    print(f"{name}; {versions}; GPUs: {torch.cuda.device_count()}", flush=True)
    red = 0
    with tempfile.TemporaryDirectory() as folder:
        bench = _bench(asked, Path(folder))
        for title, check in CHECKS.items():
            try:
                right, figure = check(bench)
            except Exception as error:  # noqa: BLE001 - a broken check is a red one
                traceback.print_exc(limit=-3)
                right, figure = _red(error)
            red += not right
            print(f"{'green' if right else 'red  '}  {title:34}  {figure}", flush=True)
        for budget in asked.budgets:
            for method in ("lora", "full"):
                speed = _measured(lambda: training_speed(bench, budget, method))  # noqa: B023 - called at once
                print(f"speed  {f'{method}, {budget} tokens a step':34}  {speed}", flush=True)
            if importlib.util.find_spec("trl"):
                rows = max(1, budget * ROWS // sum(len(row.input_ids) for row in bench.rows(ROWS)))
                print(f"speed  {f'TRL, {rows} rows a step':34}  {_measured(lambda: trl_speed(bench, rows))}")  # noqa: B023
        for rows in (1, 16) if asked.budgets else ():
            print(f"speed  {f'answers, {rows} at once':34}  {_measured(lambda: decoding_speed(bench, rows))}")  # noqa: B023
    return int(red > 0)


if __name__ == "__main__":
    sys.exit(main())

"""Training speed beside TRL, in one process, on the same rows and LoRA settings: medians, ratio, peak memory.

    make bench-train
    .venv/bin/python benchmarks/train_speed.py --data examples/terminal-helper/train.jsonl --rounds 5

Rounds are interleaved, so that a busy machine slows every contender alike: trust the ratios, not one figure.
Tokens are those of the rows as a person counts them, the same number for every contender. The first step of
each round is warm-up and not timed. Exits 1 when the ratio to TRL's default is below --goal.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

warnings.filterwarnings("ignore")

import torch  # noqa: E402
import transformers  # noqa: E402
from datasets import Dataset  # noqa: E402
from our_loop import SEED, read_rows, tunesmith  # noqa: E402
from peft import LoraConfig  # noqa: E402
from trl import SFTConfig, SFTTrainer  # noqa: E402

from backend.core.model_resolver import resolve_model  # noqa: E402
from backend.training.batching import epoch_order  # noqa: E402
from backend.utils.machine_utils import available_cores  # noqa: E402

MIB = 2**20


class Clock(transformers.TrainerCallback):
    """Times the steps of a trainer of transformers, all but the first."""

    started = 0.0
    ended = 0.0

    def on_step_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Start the clock before the second step."""
        if state.global_step == 1:
            self.started = time.perf_counter()

    def on_step_end(self, *_args: Any, **_: Any) -> None:
        """Note the end of each step."""
        self.ended = time.perf_counter()


def trl(
    model: Path,
    chats: Sequence[dict[str, Any]],
    batch: int,
    steps: int,
    *,
    best: bool,
    on_cpu: bool = True,
    **more: Any,
) -> float:
    """Seconds for all steps but the first, with SFTTrainer's defaults or the best settings found, and ``more``."""
    torch.set_float32_matmul_precision("highest")
    torch.set_num_threads(available_cores())
    options: dict[str, Any] = ({"gradient_checkpointing": False} if best else {}) | more
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=transformers.AutoModelForCausalLM.from_pretrained(
                model, dtype=torch.bfloat16 if best else torch.float32
            ),
            args=SFTConfig(
                output_dir=folder, per_device_train_batch_size=batch, max_steps=steps, learning_rate=2e-4,
                logging_steps=1000, report_to=[], save_strategy="no", disable_tqdm=True, use_cpu=on_cpu,
                train_sampling_strategy="sequential", **options,
            ),
            train_dataset=Dataset.from_list(list(chats)),
            processing_class=transformers.AutoTokenizer.from_pretrained(model),
            peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
            callbacks=[clock],
        )  # fmt: skip
        trainer.train()
    return clock.ended - clock.started


def resident() -> int:
    """Peak resident memory since the last ``forget_peak``, in bytes."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def forget_peak() -> int:
    """Let the kernel's peak start anew; returns resident memory now, in bytes."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    return resident()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="examples/food-category/train.jsonl")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--goal", type=float, default=2.5)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()

    model = Path(resolve_model(options.model))
    dataset, rows = read_rows(model, options.data)
    order = epoch_order(len(dataset.train), SEED, 0)[: options.steps * options.batch]
    taken = [dataset.train[index] for index in order]
    tokens = sum(len(rows[index].input_ids) for index in order[options.batch :])
    chats = [{"prompt": list(row.messages[:-1]), "completion": [row.messages[-1]]} for row in taken]

    contenders: dict[str, Callable[[], float]] = {
        "tunesmith": partial(tunesmith, model, rows, options.batch, options.steps, share=True),
        "tunesmith, prefixes not shared": partial(
            tunesmith, model, rows, options.batch, options.steps, share=False
        ),
        "tunesmith, layers of transformers": partial(
            tunesmith, model, rows, options.batch, options.steps, layers="transformers"
        ),
        "tunesmith, the same in bfloat16": partial(
            tunesmith, model, rows, options.batch, options.steps, layers="transformers", dtype="bfloat16"
        ),
        "TRL default": partial(trl, model, chats, options.batch, options.steps, best=False),
        "TRL bf16 weights, no checkpointing": partial(
            trl, model, chats, options.batch, options.steps, best=True
        ),
        "TRL float32, no checkpointing": partial(
            trl,
            model,
            chats,
            options.batch,
            options.steps,
            best=False,
            bf16=False,
            gradient_checkpointing=False,
        ),
    }
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    peaks: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(options.rounds):
        for name, contender in contenders.items():
            before = forget_peak()
            speeds[name].append(tokens / contender())
            peaks[name].append((resident() - before) / MIB)
            print(f"round {number + 1}  {name:36s} {speeds[name][-1]:7.0f} tokens/s", flush=True)
    print(f"\n{'median':36s} {'tokens/s':>9s} {'ratio':>7s} {'peak MiB':>9s}")
    base = statistics.median(speeds["TRL default"])
    for name in contenders:
        speed = statistics.median(speeds[name])
        print(f"{name:36s} {speed:9.0f} {speed / base:6.2f}x {statistics.median(peaks[name]):9.0f}")
    ratio = statistics.median(speeds["tunesmith"]) / base
    print(f"\n{tokens} tokens a round, {options.rounds} rounds, goal {options.goal}x: {ratio:.2f}x")
    return 0 if ratio >= options.goal else 1


if __name__ == "__main__":
    sys.exit(main())

"""DPO and KTO beside TRL in one process: the first ten losses, speed and peak memory on the same rows.

    make bench-methods
    .venv/bin/python benchmarks/preference_speed.py --rounds 5 --methods dpo

Both sides get the same token ids, the same start of the adapter and the same order of rows. The losses are compared
in float32. Speed is that of steps alone with the defaults of each side; the reference is computed once and untimed
here, in every step by TRL, as by its default. Tokens are those of the rows as a person counts them: prompt and both
answers of a pair. Exits 1 when the losses differ by more than --tolerance, or DPO's ratio is below --goal.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

warnings.filterwarnings("ignore")

import torch  # noqa: E402
import transformers  # noqa: E402
from datasets import Dataset  # noqa: E402
from our_loop import SEED  # noqa: E402
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict  # noqa: E402
from peft import set_peft_model_state_dict as set_adapter  # noqa: E402
from train_speed import MIB, Clock, forget_peak, resident  # noqa: E402
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer  # noqa: E402

from backend.core.device import plan_compute, torch_dtype  # noqa: E402
from backend.core.encoding.dataset import EncodedRows, encode  # noqa: E402
from backend.core.encoding.examples import Example  # noqa: E402
from backend.core.model_loader import load_base  # noqa: E402
from backend.core.model_resolver import resolve_model  # noqa: E402
from backend.core.tokenizer import load_tokenizer  # noqa: E402
from backend.data.load import load_rows  # noqa: E402
from backend.data.records import Row  # noqa: E402
from backend.run.config import DataConfig, ObjectiveConfig, TrainingConfig, TuningConfig  # noqa: E402
from backend.training import loop  # noqa: E402
from backend.training.batching import epoch_order  # noqa: E402
from backend.training.distributed import ALONE  # noqa: E402
from backend.training.forward import choose_forward  # noqa: E402
from backend.training.preferences import objective_of  # noqa: E402
from backend.training.reference import Mismatched, Reference, logprobs_of  # noqa: E402
from backend.training.tuning import make_trainable  # noqa: E402
from backend.utils.machine_utils import available_cores  # noqa: E402

RATE = 1e-4
LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


def pairs_of(path: str) -> list[Row]:
    """Rows of pairs: the better answer is the row's own, the worse one that of another row."""
    rows = load_rows(path).rows
    others = [*rows[7:], *rows[:7]]
    return [
        Row(row.place, row.messages[:-1], chosen=row.messages[-1:], rejected=other.messages[-1:])
        for row, other in zip(rows, others, strict=True)
        if row.messages[-1] != other.messages[-1]
    ]


class Ours:
    """A training of ours from a fresh adapter."""

    def __init__(self, model: Path, rows: EncodedRows, method: str, batch: int, steps: int, *, exact: bool):
        self.rows, self.group = rows, rows.group
        self.order = epoch_order(rows.row_count, SEED, 0).tolist()
        self.plan = plan_compute(dtype="float32" if exact else "auto")
        torch.set_float32_matmul_precision(self.plan.matmul_precision)
        torch.set_num_threads(self.plan.threads)
        self.settings = TrainingConfig(
            per_device_train_batch_size=batch, max_steps=steps, learning_rate=RATE, warmup_steps=0.0,
            lr_scheduler_type="constant",
        )  # fmt: skip
        base = load_base(model, dtype=torch_dtype(self.plan))
        forward = choose_forward(make_trainable(base, TuningConfig(), seed=SEED))
        self.state = loop.TrainState.start(forward, self.settings)
        self.adapter = {name: part.clone() for name, part in get_peft_model_state_dict(forward.model).items()}
        packing = loop.packing_of(forward, self.settings, self.plan, ALONE)
        blocks = [self.order[start : start + batch] for start in range(0, batch * steps, batch)]
        self.parts = [loop.examples_of(rows, block, rows.group) for block in blocks]
        numbers = [
            [row * rows.group + place for row in block for place in range(rows.group)] for block in blocks
        ]
        others = Mismatched.of(rows, numbers) if method == "kto" else None
        own = logprobs_of(forward, self.parts, packing, self.plan, ALONE, group=rows.group)
        swapped = [[others(each) for each in part] for part in self.parts] if others else []
        apart = logprobs_of(forward, swapped, packing, self.plan, ALONE)
        self.others = others
        reference = Reference(own, apart, others or (lambda example: example))
        self.objective = objective_of(ObjectiveConfig.model_validate({"method": method}), reference)

    def train(self) -> tuple[list[float], float]:
        """Return (the losses, the seconds of all steps but the first)."""
        reports = list(
            loop.train_steps(
                self.state, self.rows, self.settings, self.plan, seed=SEED, objective=self.objective
            )
        )
        return [report.loss for report in reports], sum(report.seconds for report in reports[1:])


def _ids(example: Example) -> tuple[list[int], list[int]]:
    """(prompt ids, answer ids), the answer up to its last trained token."""
    trained = example.trained.nonzero()[0]
    ids = example.input_ids.tolist()
    return ids[: trained[0]], ids[trained[0] : trained[-1] + 1]


def trl_rows(parts: Sequence[Sequence[Example]], method: str, others: Mismatched | None) -> Dataset:
    """The same rows as TRL's trainers have them after tokenising."""
    rows = []
    for part in parts:
        if method == "dpo":
            for better, worse in zip(part[0::2], part[1::2], strict=True):
                prompt, chosen = _ids(better)
                rows.append({"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": _ids(worse)[1]})
            continue
        for each in part:
            prompt, answer = _ids(each)
            row = {"prompt_ids": prompt, "completion_ids": answer, "label": bool(each.label)}
            rows.append(row | ({"KL_completion_ids": _ids(others(each))[1]} if others else {}))
    return Dataset.from_list(rows)


class _Dpo(DPOTrainer):
    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset


class _Kto(KTOTrainer):
    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset


def trl(
    model: Path, rows: Dataset, method: str, batch: int, steps: int, *, exact: bool, adapter: dict[str, Any]
) -> tuple[list[float], float]:
    """Return (the losses, the seconds of all steps but the first) of TRL's trainer with its defaults."""
    torch.set_float32_matmul_precision("highest")
    torch.set_num_threads(available_cores())
    base = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    adapted = get_peft_model(base, LoraConfig(**LORA))
    set_adapter(adapted, {name: part.clone() for name, part in adapter.items()})
    clock = Clock()
    config, trainer_class = {"dpo": (DPOConfig, _Dpo), "kto": (KTOConfig, _Kto)}[method]
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_class(
            model=_with_gradients(adapted),
            args=config(
                output_dir=folder, per_device_train_batch_size=batch, max_steps=steps, learning_rate=RATE,
                lr_scheduler_type="constant", logging_steps=1, report_to=[], save_strategy="no", disable_tqdm=True,
                use_cpu=True, bf16=not exact, train_sampling_strategy="sequential", weight_decay=0.0,
            ),
            train_dataset=rows,
            processing_class=transformers.AutoTokenizer.from_pretrained(model),
            callbacks=[clock],
        )  # fmt: skip
        trainer.train()
        losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return losses, clock.ended - clock.started


def _with_gradients(model: PeftModel) -> PeftModel:
    model.enable_input_require_grads()
    return model


def compare(model: Path, rows: EncodedRows, method: str, batch: int) -> float:
    """Print the first ten losses of both sides in float32; return the largest difference."""
    ours = Ours(model, rows, method, batch, 10, exact=True)
    theirs = trl(
        model, trl_rows(ours.parts, method, ours.others), method, batch, 10, exact=True, adapter=ours.adapter
    )[0]
    mine = ours.train()[0]
    print(f"\n{method}: first ten losses\n  tunesmith " + " ".join(f"{loss:.6f}" for loss in mine))
    print("  TRL       " + " ".join(f"{loss:.6f}" for loss in theirs), flush=True)
    return max(abs(a - b) for a, b in zip(mine, theirs, strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="examples/terminal-helper/train.jsonl")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--methods", nargs="+", default=["dpo", "kto"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--goal", type=float, default=4.0)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    model = Path(resolve_model(options.model))
    pairs, tokenizer = pairs_of(options.data), load_tokenizer(model)
    failed = False
    for method in options.methods:
        rows = encode(pairs, tokenizer, DataConfig(train=options.data), method=method)
        difference = compare(model, rows, method, options.batch)
        print(f"  largest difference {difference:.2e}")
        failed |= difference > options.tolerance
        failed |= not _speed(model, rows, method, options)
    return int(failed)


def _speed(model: Path, rows: EncodedRows, method: str, options: argparse.Namespace) -> bool:
    """Print medians of speed and peak memory over interleaved rounds; return True if the goal is met."""
    speeds: dict[str, list[float]] = {"tunesmith": [], "TRL default": []}
    peaks: dict[str, list[float]] = {"tunesmith": [], "TRL default": []}
    for number in range(options.rounds):
        for name, found in speeds.items():
            before = forget_peak()
            ours = Ours(model, rows, method, options.batch, options.steps, exact=False)
            tokens = sum(len(each.input_ids) for part in ours.parts[1:] for each in part)
            if name == "tunesmith":
                seconds = ours.train()[1]
            else:
                data, adapter = trl_rows(ours.parts, method, ours.others), ours.adapter
                del ours
                before = forget_peak()
                seconds = trl(
                    model, data, method, options.batch, options.steps, exact=False, adapter=adapter
                )[1]
            found.append(tokens / seconds)
            peaks[name].append((resident() - before) / MIB)
            print(f"round {number + 1}  {method}  {name:12s} {found[-1]:7.0f} tokens/s", flush=True)
    medians = {name: statistics.median(each) for name, each in speeds.items()}
    ratio = medians["tunesmith"] / medians["TRL default"]
    for name, speed in medians.items():
        print(f"{method}  {name:12s} {speed:9.0f} tokens/s  peak {statistics.median(peaks[name]):6.0f} MiB")
    print(f"{method}  {ratio:.2f} times TRL's tokens per second, goal {options.goal}")
    return ratio >= options.goal or method != "dpo"


if __name__ == "__main__":
    sys.exit(main())

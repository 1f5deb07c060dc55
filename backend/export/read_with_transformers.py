"""Read a Hugging Face export with plain transformers and peft, in a process of its own.

Run as ``python -I read_with_transformers.py``: a job as JSON on standard input, a file of answers out. This program
imports nothing of Tunesmith, so it reads what any other user would read. Weights are taken as they are stored and
computed in float32, so that only their precision counts.
"""

from __future__ import annotations

import atexit
import gc
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any


def read(job: dict[str, Any]) -> dict[str, Any]:
    """Render, force through and answer every row; ``readers.py`` describes the job and the answers."""
    import torch  # noqa: PLC0415 - this file is a program; imported, it does nothing
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig  # noqa: PLC0415

    torch.set_num_threads(job["threads"])
    export = Path(job["export"])
    tokenizer = AutoTokenizer.from_pretrained(export)
    model = AutoModelForCausalLM.from_pretrained(job["base"] or export, dtype=torch.float32)
    name = f"transformers {version('transformers')}"
    if job["base"]:
        from peft import PeftModel  # noqa: PLC0415

        model = PeftModel.from_pretrained(model, export)
        name += f" and peft {version('peft')}"
    rules = GenerationConfig.from_pretrained(export)
    ends = rules.eos_token_id if isinstance(rules.eos_token_id, list) else [rules.eos_token_id]

    def render(row: dict[str, Any]) -> list[int]:
        if row["messages"] is None:
            return list(tokenizer(row["text"])["input_ids"])
        ids = tokenizer.apply_chat_template(
            row["messages"],
            tools=row.get("tools"),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
        )
        return list(ids["input_ids"])

    @torch.inference_mode()
    def weigh(prompt_ids: list[int], forced: list[int]) -> list[list[list[float]]]:
        fed = torch.tensor([[*prompt_ids, *forced[:-1]]])
        logits = model(input_ids=fed, logits_to_keep=len(forced)).logits[0]
        best = torch.log_softmax(logits.float(), -1).topk(min(job["top"], logits.shape[-1]))
        return [
            [list(pair) for pair in zip(*part, strict=True)]
            for part in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    @torch.inference_mode()
    def look(row: dict[str, Any]) -> dict[str, Any]:
        prompt = render(row)
        tops = weigh(row["prompt_ids"], row["forced"])
        given = torch.tensor([prompt])
        ids = model.generate(
            input_ids=given,
            attention_mask=torch.ones_like(given),
            generation_config=rules,
            do_sample=False,
            max_new_tokens=job["max_new_tokens"],
        )[0, len(prompt) :].tolist()
        text = tokenizer.decode(ids, skip_special_tokens=True)
        return {"prompt_ids": prompt, "tops": tops, "ids": ids, "ended": ids[-1] in ends, "text": text}

    return {
        "reader": name,
        "rows": [look(row) for row in job["rows"]],
        "shapes": [render({"messages": messages}) for messages in job["shapes"]],
        "texts": [tokenizer(text, add_special_tokens=False)["input_ids"] for text in job["texts"]],
        "long": weigh(**job["long"]) if job["long"] and job["long"]["forced"] else [],
    }


def main() -> None:
    """Read the job, write the answers."""
    gc.set_threshold(
        100_000, 50, 100
    )  # as process_utils.collect_rarely: imports create many objects that stay
    atexit.register(gc.freeze)  # no collection at exit
    job = json.load(sys.stdin)
    Path(job["answers"]).write_text(json.dumps(read(job)), encoding="utf-8")


if __name__ == "__main__":
    main()

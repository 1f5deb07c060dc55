"""Read an ONNX export with onnxruntime, and its tokenizer with transformers, in a process of its own.

Run as ``python -I read_with_onnxruntime.py``: a job as JSON on standard input, a file of answers out. This program
imports nothing of Tunesmith. Answers are generated token by token through the graph's own cache.
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
    import numpy as np  # noqa: PLC0415 - this file is a program; imported, it does nothing
    import onnxruntime  # noqa: PLC0415
    from transformers import AutoTokenizer, GenerationConfig  # noqa: PLC0415

    export = Path(job["export"])
    tokenizer = AutoTokenizer.from_pretrained(export)
    rules = GenerationConfig.from_pretrained(export)
    ends = rules.eos_token_id if isinstance(rules.eos_token_id, list) else [rules.eos_token_id]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job["threads"]
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "0"
    )  # idle threads must not burn cores
    session = onnxruntime.InferenceSession(export / "model.onnx", options, ["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    empty = {
        entry.name: np.zeros((1, entry.shape[1], 0, entry.shape[3]), np.float32)
        for entry in session.get_inputs()
        if entry.name.startswith("past_key_values.")
    }

    def call(ids: list[int], states: dict[str, Any], before: int) -> tuple[Any, dict[str, Any]]:
        """Return the log-probabilities ``[ids, vocabulary]`` and the cache after them."""
        whole = before + len(ids)
        fed = {
            "input_ids": np.array([ids]),
            "attention_mask": np.ones((1, whole), np.int64),
            "position_ids": np.arange(before, whole)[None],
        }
        logits, *kept = session.run(names, fed | states)
        top = logits[0].max(-1, keepdims=True)
        sums = np.log(np.exp(logits[0] - top).sum(-1, keepdims=True))
        return logits[0] - top - sums, dict(zip(empty, kept, strict=True))

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

    def answer(prompt: list[int]) -> list[int]:
        tokens: list[int] = []
        logprobs, states = call(prompt, empty, 0)
        while True:
            tokens.append(int(logprobs[-1].argmax()))
            if tokens[-1] in ends or len(tokens) == job["max_new_tokens"]:
                return tokens
            logprobs, states = call(tokens[-1:], states, len(prompt) + len(tokens) - 1)

    def weigh(prompt_ids: list[int], forced: list[int]) -> list[list[list[float]]]:
        logprobs, _ = call([*prompt_ids, *forced[:-1]], empty, 0)
        places = logprobs[len(prompt_ids) - 1 :]
        best = np.argsort(-places, -1, kind="stable")[:, : job["top"]]
        return [
            [[int(token), float(place[token])] for token in ids]
            for place, ids in zip(places, best, strict=True)
        ]

    def look(row: dict[str, Any]) -> dict[str, Any]:
        prompt = render(row)
        tops = weigh(row["prompt_ids"], row["forced"])
        ids = answer(prompt)
        text = tokenizer.decode(ids, skip_special_tokens=True)
        return {"prompt_ids": prompt, "tops": tops, "ids": ids, "ended": ids[-1] in ends, "text": text}

    return {
        "reader": f"onnxruntime {version('onnxruntime')}",
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

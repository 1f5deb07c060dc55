"""Rendering and tokenising beside the usual path, in one process, with the ids compared row by row.

    make bench-data

The peer is what TRL does for conversational prompt/completion rows: ``datasets.map`` over single rows, twice
``apply_chat_template(tokenize=True)``. Ours is ``encode_batch``: ids and mask. Rounds alternate; medians and the
ratio are printed. Exits 1 below --goal or when one id differs.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from typing import Any

import datasets
from transformers import AutoTokenizer

from backend.core.model_resolver import resolve_model
from backend.core.tokenizer import encode_batch, load_tokenizer

WORDS = (  # noqa: SIM905 - easier to read
    "the of and to in model data train learn small large table river city people water energy system number value "
    "result simple clear point time year idea question answer explain because example history music language code "
    "function list string error memory batch layer token weight step loss rate plan goal work help make find show"
).split()


def chats(count: int) -> list[list[dict[str, str]]]:
    """Made-up conversations of 20 to 300 words, half of them with a system prompt."""
    chance = random.Random(0)  # noqa: S311 - made-up text, no secret

    def text(words: int) -> str:
        return " ".join(chance.choices(WORDS, k=words)).capitalize() + "."

    rows = []
    for number in range(count):
        length = min(280, max(12, int(chance.lognormvariate(4.5, 0.6))))
        opening = (
            [{"role": "system", "content": "You are a careful assistant. Answer briefly."}]
            if number % 2
            else []
        )
        asked, answer = text(length // 2), text(length - length // 2)
        rows.append([*opening, {"role": "user", "content": asked}, {"role": "assistant", "content": answer}])
    return rows


def usual(rows: list[list[dict[str, str]]], tokenizer: Any) -> tuple[float, list[list[int]]]:
    """Rows a second and the ids of ``datasets.map`` with a chat template call for the prompt and one for the row."""

    def tokenise(row: dict[str, Any]) -> dict[str, Any]:
        messages = row["messages"]
        prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=True)
        whole = tokenizer.apply_chat_template(messages, return_dict=True)
        length = len(prompt["input_ids"])
        ids = whole["input_ids"]
        return {"input_ids": ids, "completion_mask": [0] * length + [1] * (len(ids) - length)}

    table = datasets.Dataset.from_list([{"messages": row} for row in rows])
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        mapped = table.map(tokenise, cache_file_name=f"{folder}/rows.arrow", load_from_cache_file=False)
        seconds = time.perf_counter() - started
        return len(rows) / seconds, mapped["input_ids"][:]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--goal", type=float, default=4.0)
    options = parser.parse_args()
    datasets.disable_progress_bars()
    folder = resolve_model("smollm2-135m")
    ours, peer = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    rows = chats(options.rows)
    speeds: dict[str, list[float]] = {"tunesmith": [], "datasets.map": []}
    differing = 0
    for number in range(options.rounds):
        started = time.perf_counter()
        encoded = encode_batch(ours, rows)
        speeds["tunesmith"].append(len(rows) / (time.perf_counter() - started))
        speed, expected = usual(rows, peer)
        speeds["datasets.map"].append(speed)
        # ours end with the last trained token: what the template prints after it teaches nothing
        differing += sum(
            e.input_ids != ids[: len(e.input_ids)] for e, ids in zip(encoded, expected, strict=True)
        )
        latest = "  ".join(f"{name} {values[-1]:,.0f}" for name, values in speeds.items())
        print(f"round {number + 1}  {latest} rows/s", flush=True)
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    ratio = medians["tunesmith"] / medians["datasets.map"]
    tokens = sum(len(e.input_ids) for e in encoded) / len(encoded)
    print(
        f"median of {options.rounds}: {medians['tunesmith']:,.0f} against {medians['datasets.map']:,.0f} rows/s"
    )
    print(f"{ratio:.1f}x on {len(rows):,} rows of {tokens:.0f} tokens; rows with other ids: {differing}")
    return 0 if ratio >= options.goal and not differing else 1


if __name__ == "__main__":
    sys.exit(main())

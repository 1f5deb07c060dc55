"""Read a GGUF export with llama.cpp, from the xllamacpp package, in a process of its own.

Run as ``python -I read_with_llama_cpp.py``: a job as JSON on standard input, a file of answers out. Template,
tokenizer and end tokens are those that llama.cpp finds in the file. This program imports nothing of Tunesmith. The
key-value cache is float32, so that only the weights' precision counts.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from importlib.metadata import version
from pathlib import Path
from typing import Any


def serve(job: dict[str, Any]) -> Any:
    """Start llama.cpp's server for the export, on a loopback port."""
    import xllamacpp as llama  # noqa: PLC0415 - this file is a program; imported, it does nothing

    longest = max(len(row["prompt_ids"]) for row in [*job["rows"], *([job["long"]] if job["long"] else [])])
    settings = llama.CommonParams()
    settings.model.path = job["base"] or job["export"]
    if job["base"]:
        adapter = llama.CommonAdapterLoraInfo()
        adapter.path = job["export"]
        settings.lora_adapters = [adapter]
    settings.n_ctx = longest + job["max_new_tokens"] + 64
    settings.n_parallel = 1
    settings.n_gpu_layers = 0
    settings.warmup = False
    settings.verbosity = 0
    settings.cache_type_k = settings.cache_type_v = llama.ggml_type.GGML_TYPE_F32
    settings.flash_attn_type = llama.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = job["threads"]
    return llama.Server(settings)


def read(job: dict[str, Any]) -> dict[str, Any]:
    """Render, force through and answer every row; ``readers.py`` describes the job and the answers."""
    server = serve(job)
    directly = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy cannot reach loopback

    def ask(path: str, **body: Any) -> Any:
        request = urllib.request.Request(  # noqa: S310 - our own loopback port
            f"{server.listening_address}{path}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with directly.open(request) as reply:
            return json.load(reply)

    def tokenize(text: str, *, whole: bool) -> list[int]:
        ids: list[int] = ask("/tokenize", content=text, add_special=whole, parse_special=True)["tokens"]
        return ids

    def render(row: dict[str, Any]) -> list[int]:
        if row["messages"] is None:
            return tokenize(row["text"], whole=True)
        tools = {"tools": row["tools"]} if row.get("tools") else {}
        return tokenize(ask("/apply-template", messages=row["messages"], **tools)["prompt"], whole=True)

    # The server reports no probabilities for a token that is half a character, so force it to generate "a".
    steered = [[tokenize("a", whole=False)[0], 1e6]]

    def top(ids: list[int]) -> list[list[float]]:
        options = {"n_predict": 1, "n_probs": job["top"], "temperature": 0, "logit_bias": steered}
        reply = ask("/completion", prompt=ids, cache_prompt=True, **options)
        found = reply["completion_probabilities"][0]["top_logprobs"]
        return [[part["id"], part["logprob"]] for part in found]

    def weigh(prompt_ids: list[int], forced: list[int]) -> list[list[list[float]]]:
        return [top(prompt_ids + forced[:count]) for count in range(len(forced))]

    def look(row: dict[str, Any]) -> dict[str, Any]:
        prompt = render(row)
        tops = weigh(row["prompt_ids"], row["forced"])
        reply = ask(
            "/completion", prompt=prompt, n_predict=job["max_new_tokens"], temperature=0, return_tokens=True
        )
        return {
            "prompt_ids": prompt,
            "tops": tops,
            "ids": reply["tokens"],
            "ended": reply["stop_type"] == "eos",
            "text": reply["content"],
        }

    return {
        "reader": f"llama.cpp (xllamacpp {version('xllamacpp')})",
        "rows": [look(row) for row in job["rows"]],
        "shapes": [render({"messages": messages}) for messages in job["shapes"]],
        "texts": [tokenize(text, whole=False) for text in job["texts"]],
        "long": weigh(**job["long"]) if job["long"] else [],
    }


def main() -> None:
    """Read the job, write the answers."""
    job = json.load(sys.stdin)
    Path(job["answers"]).write_text(json.dumps(read(job)), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Speed of answers beside transformers, llama.cpp and OpenVINO GenAI: one process, rounds in turns, medians.

    make bench-infer
    .venv/bin/python benchmarks/infer_speed.py --rounds 5 --prompts 200 --new 64

llama.cpp and OpenVINO take part where ``xllamacpp`` and ``openvino_genai`` are installed. Both read the bundled GGUF
file, whose weights have 4 bits; Tunesmith and transformers compute with the same values unpacked, or, if it is
``fast``, rounded to 8 bits.

``one`` is one conversation: new tokens after a prompt of about 110. ``file`` is many questions of terminal-helper at
once, WORDS tokens each at most. Both count new tokens by the second, the reading of the prompt included. Trust the
ratios, not one figure: a busy machine slows every contender alike. Peak memory is what a contender added while it was
loaded and ran for the first time.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the product's commands do

import torch
import transformers

from backend.core.device import memory_bytes
from backend.core.model_resolver import resolve_model
from backend.inferencer import Inferencer
from backend.run.model_names import MODEL_ALIASES
from backend.utils.machine_utils import available_cores

MODEL = "smollm2-135m"
WORDS = 24
CONVERSATION = "Write a long story about a fox, a crow and the sea. Use many details. " * 6
QUESTIONS = Path(__file__).resolve().parents[1] / "examples/terminal-helper/train.jsonl"
MIB = 2**20


@dataclass
class Contender:
    """Two ways to answer: one prompt, and many at once; both return the number of new tokens."""

    name: str
    one: Callable[[str, int], int]
    many: Callable[[Sequence[str], int], int]


def tunesmith(name: str, **options: Any) -> Contender:
    loaded = Inferencer(MODEL, **options)

    def many(prompts: Sequence[str], most: int) -> int:
        answers = loaded.infer_batch(list(prompts), max_new_tokens=most)
        return sum(len(loaded.tokenizer.encode(str(answer))) for answer in answers)

    return Contender(
        name, lambda prompt, most: len(loaded.answers(prompt, max_new_tokens=most)[0].tokens), many
    )


def with_transformers(name: str, dtype: torch.dtype, rows: int = 16) -> Contender:
    folder = Path(resolve_model(MODEL))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, padding_side="left")

    def many(prompts: Sequence[str], most: int) -> int:
        torch.set_num_threads(available_cores())
        count = 0
        for start in range(0, len(prompts), rows):
            chats = [[{"role": "user", "content": prompt}] for prompt in prompts[start : start + rows]]
            given = tokenizer.apply_chat_template(
                chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
            )
            with torch.inference_mode():
                written = model.generate(**given, max_new_tokens=most, do_sample=False)
            count += int((written[:, given["input_ids"].shape[1] :] != tokenizer.pad_token_id).sum())
        return count

    return Contender(name, lambda prompt, most: many([prompt], most), many)


def llama_cpp(name: str, file: Path, slots: int = 16) -> Contender:
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path, settings.n_ctx, settings.n_parallel = str(file), 512 * slots, slots
    settings.n_gpu_layers, settings.warmup, settings.verbosity = 0, False, 0
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = available_cores()
    server = xllamacpp.Server(settings)

    def ask(path: str, **body: Any) -> Any:
        request = urllib.request.Request(  # noqa: S310 - our own server
            server.listening_address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            return json.load(answer)

    def one(prompt: str, most: int) -> int:
        text = ask("/apply-template", messages=[{"role": "user", "content": prompt}])["prompt"]
        answer = ask("/completion", prompt=text, n_predict=most, temperature=0, cache_prompt=False)
        return int(answer["tokens_predicted"])

    def many(prompts: Sequence[str], most: int) -> int:
        with ThreadPoolExecutor(slots) as pool:
            return sum(pool.map(lambda prompt: one(prompt, most), prompts))

    return Contender(name, one, many)


def openvino(name: str, file: Path) -> Contender:
    import openvino_genai

    settings = openvino_genai.SchedulerConfig()
    settings.cache_size, settings.max_num_batched_tokens = 1, 1024
    pipeline = openvino_genai.ContinuousBatchingPipeline(str(file), settings, "CPU")
    tokenizer = transformers.AutoTokenizer.from_pretrained(Path(resolve_model(MODEL)))

    def many(prompts: Sequence[str], most: int) -> int:
        wanted = openvino_genai.GenerationConfig()
        wanted.max_new_tokens, wanted.do_sample, wanted.apply_chat_template = most, False, False
        chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
        texts = [
            tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False) for chat in chats
        ]
        answers = pipeline.generate(texts, [wanted] * len(texts))
        return sum(len(tokenizer.encode(each.m_generation_ids[0])) for each in answers)

    return Contender(name, lambda prompt, most: many([prompt], most), many)


def bundled() -> Path:
    """Return the GGUF file of the model that is installed with Tunesmith."""
    found = importlib.util.find_spec(MODEL_ALIASES[MODEL].package)
    (folder,) = found.submodule_search_locations or [] if found else []
    return next(Path(folder).rglob("*.gguf"))


def main() -> int:
    """Run all rounds and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=16, help="questions of the file")
    parser.add_argument("--new", type=int, default=32, help="new tokens of the conversation")
    parser.add_argument(
        "--gguf", type=Path, nargs="*", help="GGUF files for the others; the bundled one if left out"
    )
    asked = parser.parse_args()
    transformers.logging.set_verbosity_error()
    makers: list[tuple[Callable[..., Contender], tuple[Any, ...], dict[str, Any]]] = [
        (tunesmith, ("Tunesmith exact",), {}),
        (tunesmith, ("Tunesmith exact, weights in bfloat16",), {"dtype": "bfloat16"}),
        (tunesmith, ("Tunesmith fast",), {"precision": "fast"}),
        (with_transformers, ("transformers float32", torch.float32), {}),
        (with_transformers, ("transformers bfloat16", torch.bfloat16), {}),
    ]
    files = asked.gguf or [bundled()]
    if importlib.util.find_spec("xllamacpp"):
        makers += [(llama_cpp, (f"llama.cpp {file.stem}", file), {}) for file in files]
    if importlib.util.find_spec("openvino_genai"):
        makers += [(openvino, (f"OpenVINO {file.stem}", file), {}) for file in files]
    rows = [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()[: asked.prompts]]
    prompts = [row["messages"][0]["content"] for row in rows]
    contenders: list[Contender] = []
    memory: dict[str, float] = {}
    for make, named, options in makers:
        before = memory_bytes()
        contenders.append(make(*named, **options))
        contenders[-1].one(CONVERSATION, 4)
        memory[contenders[-1].name] = (memory_bytes() - before) / MIB
    speed: dict[tuple[str, str], list[float]] = {}
    for _ in range(asked.rounds):
        for each in contenders:
            for what, run in (
                ("one", lambda each=each: each.one(CONVERSATION, asked.new)),
                ("file", lambda each=each: each.many(prompts, WORDS)),
            ):
                started = time.perf_counter()
                count = run()
                speed.setdefault((each.name, what), []).append(count / (time.perf_counter() - started))
    base = {what: statistics.median(speed["transformers float32", what]) for what in ("one", "file")}
    print("| contender | one, tokens/s | ratio | file, tokens/s | ratio | memory, MiB |")
    print("|---|---|---|---|---|---|")
    for name, added in memory.items():
        cells = [
            f"{value:.1f} | {value / base[what]:.2f}x"
            for what in base
            for value in [statistics.median(speed[name, what])]
        ]
        print(f"| {name} | {' | '.join(cells)} | {added:.0f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())

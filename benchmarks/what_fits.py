"""Estimate which model fits where, for README and docs/hardware.md: memory and time by the formulas of ``estimate``.

The shapes are those of published models. Time is that of the demo, measured once (docs/figures.json), scaled by the
operations that a run needs; a step of the demo computes shared beginnings once, which rows of one's own may not have.
``make reference`` writes the tables.
"""

from __future__ import annotations

import json
from pathlib import Path

from backend.manager.planning.estimator import DataFigures, Work, work_of
from backend.manager.planning.model_shape import Linear, ModelShape
from backend.run.settings import parse_config

ROOT = Path(__file__).parents[1]
ROWS, TOKENS, TRAINED = 1000, 200, 100
"""Rows, tokens in each, and tokens of its answer."""
DEMO = DataFigures(rows=700, tokens=41_228, trained_tokens=4_900)
DEMO_DISTINCT, DEMO_STEP = 552, 937
"""Tokens computed in a step of the demo, and tokens of its rows; see docs/performance.md."""
SHAPES = {  # billions: width, layers, heads, key heads, inner width, vocabulary, whether both ends are one matrix
    "0.13 (SmolLM2-135M)": (576, 30, 9, 3, 1536, 49_152, True),
    "0.5 (Qwen2.5-0.5B)": (896, 24, 14, 2, 4864, 151_936, True),
    "1.2 (Llama-3.2-1B)": (2048, 16, 32, 8, 8192, 128_256, True),
    "3.2 (Llama-3.2-3B)": (3072, 28, 24, 8, 8192, 128_256, True),
    "8.0 (Llama-3.1-8B)": (4096, 32, 32, 8, 14_336, 128_256, False),
}
HEAD = """| billion weights | LoRA, 16-bit base | LoRA, 4-bit base | all weights | time with LoRA |
|---|---|---|---|---|"""


def table() -> str:
    """Return memory by method and the time of two epochs over 1,000 rows for models of five sizes."""
    speed = _demo_speed()
    lines = [HEAD]
    for name, shape in SHAPES.items():
        model = _llama(*shape)
        lora, packed, full = (_work(model, how) for how in ("lora", "qlora", "full"))
        memory = " | ".join(f"{one.memory_bytes / 1e9:.0f} GB" for one in (lora, packed, full))
        lines.append(f"| {name} | {memory} | {_words(lora.operations / speed)} |")
    return "\n".join(lines)


def _demo_speed() -> float:
    """Return operations per second, those of shared beginnings left out."""
    figures = json.loads((ROOT / "docs" / "figures.json").read_text(encoding="utf-8"))["figures"]
    seconds = float(figures["demo-steps"]["value"].split()[0])
    config = parse_config({"data": {"train": "rows.jsonl"}})
    work = work_of(config, _llama(*SHAPES["0.13 (SmolLM2-135M)"]), DEMO, dtype="bfloat16", lanes=2)
    return work.operations * DEMO_DISTINCT / DEMO_STEP / seconds


def _work(model: ModelShape, how: str) -> Work:
    packed = {"load_in_4bit": True, "use_bnb_nested_quant": True}
    config = parse_config(
        {
            "data": {"train": "rows.jsonl"},
            "model": packed if how == "qlora" else {},
            "tuning": {"method": "full" if how == "full" else "lora"},
        }
    )
    data = DataFigures(rows=ROWS, tokens=ROWS * TOKENS, trained_tokens=ROWS * TRAINED)
    return work_of(config, model, data, dtype="bfloat16", lanes=2)


def _llama(
    width: int, layers: int, heads: int, key_heads: int, inner: int, vocabulary: int, one_end: bool
) -> ModelShape:
    keys = width // heads * key_heads
    sizes = {
        "self_attn.q_proj": (width, width),
        "self_attn.o_proj": (width, width),
        "self_attn.k_proj": (width, keys),
        "self_attn.v_proj": (width, keys),
        "mlp.gate_proj": (width, inner),
        "mlp.up_proj": (width, inner),
        "mlp.down_proj": (inner, width),
    }
    linears = tuple(
        Linear(f"model.layers.{layer}.{name}", *size)
        for layer in range(layers)
        for name, size in sizes.items()
    )
    ends = vocabulary * width * (1 if one_end else 2)
    parameters = sum(one.inputs * one.outputs for one in linears) + ends
    return ModelShape(parameters, layers, width, inner, vocabulary, 4096, linears)


def _words(seconds: float) -> str:
    hours = seconds / 3600
    return f"{seconds / 60:.0f} min" if hours < 1.5 else f"{hours:.0f} h"


if __name__ == "__main__":
    print(table())

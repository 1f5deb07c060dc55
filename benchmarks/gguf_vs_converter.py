"""Our GGUF against llama.cpp's own converter, on the same merged model: every tensor byte by byte, every key.

    python benchmarks/gguf_vs_converter.py MERGED_FOLDER CONVERT_HF_TO_GGUF_PY [F32 F16 BF16 Q8_0]

The converter is not part of this project: give the path of ``convert_hf_to_gguf.py`` in a copy of llama.cpp.
Exit code 1 when a tensor differs.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from backend.core.gguf.file import read_gguf
from backend.core.model_loader import load_base
from backend.core.tokenizer import load_tokenizer
from backend.export.gguf_vocab import read_vocabulary
from backend.export.gguf_writer import write_gguf
from backend.export.trained import model_weights


def write_ours(merged: Path, target: Path, quantization: str) -> None:
    model, tokenizer = load_base(merged), load_tokenizer(merged)
    ends = model.generation_config.eos_token_id
    vocabulary = read_vocabulary(tokenizer, merged, rows=model.config.vocab_size, eos_token_ids=ends)
    write_gguf(
        target, model.config, model_weights(model), vocabulary, quantization=quantization, name=merged.name
    )


def write_theirs(merged: Path, target: Path, quantization: str, converter: Path) -> None:
    options = ["--outtype", quantization.lower(), "--outfile", str(target)]
    subprocess.run([sys.executable, str(converter), str(merged), *options], check=True, capture_output=True)


def compare(ours: Path, theirs: Path) -> int:
    """Print what differs; the number of tensors that do."""
    mine, other = read_gguf(ours), read_gguf(theirs)
    names = sorted(mine.tensors.keys() | other.tensors.keys())
    differing = [
        name
        for name in names
        if name not in mine.tensors
        or name not in other.tensors
        or mine.tensors[name].kind != other.tensors[name].kind
        or mine.tensors[name].shape != other.tensors[name].shape
        or mine.tensors[name].rows.tobytes() != other.tensors[name].rows.tobytes()
    ]
    print(f"tensors: {len(names)}, of which {len(differing)} differ {differing[:5]}")
    keys = sorted(mine.metadata.keys() | other.metadata.keys())
    same = [key for key in keys if mine.metadata.get(key) == other.metadata.get(key)]
    print(f"keys: {len(keys)}, of which {len(same)} are equal")
    for key in keys:
        if key not in same:
            print(f"  {key}: ours {short(mine.metadata.get(key))}, theirs {short(other.metadata.get(key))}")
    return len(differing)


def short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."


def main() -> int:
    merged, converter = Path(sys.argv[1]), Path(sys.argv[2])
    differing = 0
    with tempfile.TemporaryDirectory() as folder:
        for quantization in sys.argv[3:] or ["F16", "Q8_0"]:
            print(f"== {quantization}")
            ours, theirs = Path(folder, "ours.gguf"), Path(folder, "theirs.gguf")
            write_ours(merged, ours, quantization)
            write_theirs(merged, theirs, quantization, converter)
            differing += compare(ours, theirs)
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())

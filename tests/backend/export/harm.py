"""Ways in which exports are spoilt in the wild, done to one on purpose."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import onnx
import torch
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from safetensors.torch import load_file, save_file

from backend.core.model_loader import load_base
from backend.export.forms import write_model_gguf
from backend.export.trained import Trained

Tensors = dict[str, Any]


def rewrite(
    file: Path, *, settings: Mapping[str, Any] = {}, tensors: Callable[[Tensors], object] = lambda _: None
) -> None:
    """A GGUF file written again with other settings (None drops one) or tensors, by the gguf package alone."""
    reader = GGUFReader(file)
    writer = GGUFWriter(None, str(reader.fields["general.architecture"].contents()))
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture" or settings.get(name, 0) is None:
            continue
        kind = field.types[0]
        inner = field.types[1] if kind == GGUFValueType.ARRAY else None
        writer.add_key_value(name, settings.get(name, field.contents()), kind, inner)
    found = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    kinds = {tensor.name: tensor.tensor_type for tensor in reader.tensors}
    tensors(found)
    for name, data in found.items():
        writer.add_tensor(name, data, raw_dtype=kinds.get(name, gguf.GGMLQuantizationType.F32))
    aside = file.with_suffix(".aside")
    writer.write_header_to_file(aside)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    aside.replace(file)


def contents(file: Path, key: str) -> Any:
    """One setting of a GGUF file."""
    return GGUFReader(file).fields[key].contents()


def wrong_template(file: Path, _: Trained) -> None:
    template = contents(file, "tokenizer.chat_template")
    rewrite(file, settings={"tokenizer.chat_template": template.replace("Be brief and kind.", "Be long.")})


def lost_added_token(file: Path, _: Trained) -> None:
    """The token is in the vocabulary, and no longer known to be one that stands for itself."""
    kinds = contents(file, "tokenizer.ggml.token_type")
    kinds[contents(file, "tokenizer.ggml.tokens").index("<|im_start|>")] = int(gguf.TokenType.NORMAL)
    rewrite(file, settings={"tokenizer.ggml.token_type": kinds})


def wrong_eos_id(file: Path, _: Trained) -> None:
    rewrite(file, settings={"tokenizer.ggml.eos_token_id": 7})


def wrong_rope_base(file: Path, _: Trained) -> None:
    rewrite(file, settings={"llama.rope.freq_base": 500_000.0})


def unmerged(file: Path, trained: Trained) -> None:
    """The base model as it was, under the name of the tuned one."""
    write_model_gguf(trained, load_base(trained.base), file, "F32")


def unmerged_layer(file: Path, trained: Trained) -> None:
    base = load_base(trained.base).state_dict()["model.layers.1.mlp.down_proj.weight"].numpy()
    rewrite(file, tensors=lambda found: found.update({"blk.1.ffn_down.weight": base}))


def permuted_heads(file: Path, trained: Trained) -> None:
    """Queries in the order of Hugging Face, as if nobody had permuted them for llama.cpp."""
    weights = trained.merge().state_dict()["model.layers.0.self_attn.q_proj.weight"].numpy()
    rewrite(file, tensors=lambda found: found.update({"blk.0.attn_q.weight": weights}))


def wrong_scale(file: Path, _: Trained) -> None:
    rewrite(
        file, tensors=lambda found: found.update({"blk.0.ffn_up.weight": found["blk.0.ffn_up.weight"] * 2})
    )


def swapped_tensors(file: Path, _: Trained) -> None:
    gate, up = "blk.0.ffn_gate.weight", "blk.0.ffn_up.weight"
    rewrite(file, tensors=lambda found: found.update({gate: found[up], up: found[gate]}))


def shuffled_vocabulary(file: Path, _: Trained) -> None:
    tokens = contents(file, "tokenizer.ggml.tokens")
    tokens[300], tokens[301] = tokens[301], tokens[300]
    rewrite(file, settings={"tokenizer.ggml.tokens": tokens})


def missing_bias(file: Path, _: Trained) -> None:
    rewrite(file, tensors=lambda found: found.pop("blk.0.attn_k.bias"))


def missing_head(file: Path, _: Trained) -> None:
    """Without it, llama.cpp ties the head to the embeddings."""
    rewrite(file, tensors=lambda found: found.pop("output.weight"))


def cut_short(file: Path, _: Trained) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])


# --- the same in Hugging Face layout ----------------------------------------------------------------------


def edit_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | changes), "utf-8")


def lost_end_token(folder: Path, _: Trained) -> None:
    """Generation rules that name another token, so that an answer goes on after its end."""
    edit_json(folder / "generation_config.json", eos_token_id=5)


def no_template(folder: Path, _: Trained) -> None:
    other = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    (folder / "chat_template.jinja").write_text(other, "utf-8")


def unmerged_folder(folder: Path, trained: Trained) -> None:
    shutil.copyfile(trained.base / "model.safetensors", folder / "model.safetensors")


def adapter_of_zeros(folder: Path, _: Trained) -> None:
    file = folder / "adapter_model.safetensors"
    save_file({name: torch.zeros_like(values) for name, values in load_file(file).items()}, file)


def wrong_alpha(folder: Path, _: Trained) -> None:
    edit_json(folder / "adapter_config.json", lora_alpha=1)


def unmerged_graph(folder: Path, trained: Trained) -> None:
    """The base model's weights in one place of an ONNX graph, where they stand turned."""
    name = "model.layers.1.mlp.down_proj.weight"
    tuned, base = (model.state_dict()[name].numpy().T for model in (trained.merge(), load_base(trained.base)))
    graph = onnx.load(folder / "model.onnx")
    stored = graph.graph.initializer
    (lost,) = (tensor for tensor in stored if np.array_equal(onnx.numpy_helper.to_array(tensor), tuned))
    lost.CopyFrom(onnx.numpy_helper.from_array(base, lost.name))
    onnx.save(graph, folder / "model.onnx")

"""Check a model folder before any library opens it: safe, complete, a causal language model; and fingerprint it.

A config.json can make transformers run its author's code, and reading a pickle runs code. Both are refused here by
reading JSON only.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xxhash

from backend.errors import ModelError
from backend.utils.file_utils import DamagedFileError, read_json

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"

_CODE_KEYS = frozenset(
    {
        "auto_map",
        "trust_remote_code",
        "_attn_implementation_internal",
        "_experts_implementation_internal",
        "kernel_config",
        "custom_generate",
    }
)
_IMPLEMENTATION_KEYS = frozenset(
    {"attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation"}
)
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_HASH_WHOLE_BYTES = 2 * 2**30
_HASH_BLOCK_BYTES = 2**20
_HASH_BLOCKS = 64


def check_model_folder(folder: Path) -> dict[str, Any]:
    """Check that ``folder`` is safe, complete and a causal language model; return its config.json.

    Raises ModelError: ``no-config``, ``damaged-config``, ``remote-code``, ``not-causal``, ``no-weights``,
    ``pickled-weights``, ``missing-shard``, ``packed-weights``.
    """
    config = check_files(folder)
    _check_causal(folder, config)
    return config


def check_files(folder: Path) -> dict[str, Any]:
    """Check as ``check_model_folder`` does, except for ``not-causal``, which would import torch for seconds."""
    config = read_object(folder / "config.json", missing="no-config", damaged="damaged-config")
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        refuse_code(folder / name)
    _refuse_packed(folder, config)
    _check_weights(folder)
    return config


def read_object(path: Path, *, missing: str, damaged: str) -> dict[str, Any]:
    """Return the JSON object in ``path``; ``missing`` and ``damaged`` are the codes of the ModelErrors."""
    remedy = f"Give a folder in Hugging Face layout, with a whole {path.name}."
    try:
        value = read_json(path)
    except DamagedFileError as error:
        raise ModelError(f"{error}.", code=damaged, remedy=remedy) from error
    except OSError as error:
        raise ModelError(
            f"{path.parent} has no readable {path.name}.", code=missing, remedy=remedy
        ) from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds no JSON object.", code=damaged, remedy=remedy)
    return value


def refuse_code(path: Path) -> None:
    """Raise ModelError ``remote-code`` if the JSON file ``path`` asks a library to fetch or run code.

    An ``auto_map`` is accepted if transformers has its own class for the type: without trust_remote_code it uses that
    class.
    """
    if not path.is_file():
        return
    for holder, key, value in _items(read_object(path, missing="no-config", damaged="damaged-config")):
        if key == "auto_map" and value and _has_own_class(path.name, holder):
            continue
        kernel = key in _IMPLEMENTATION_KEYS and any(mark in str(value) for mark in "/:@")
        if value not in (None, False) and (key in _CODE_KEYS or "kernels" in key or kernel):
            raise ModelError(
                f"{path} asks to run code that is not part of the model ({key}).",
                code="remote-code",
                remedy="Use a model that needs no code of its own; Tunesmith never runs a model author's code.",
            )


def _has_own_class(file: str, holder: dict[str, object]) -> bool:
    """True if transformers has its own class for the model type or tokenizer class that ``holder`` names."""
    from transformers.models.auto.configuration_auto import (  # noqa: PLC0415 - torch loads here
        CONFIG_MAPPING_NAMES,
    )
    from transformers.models.auto.tokenization_auto import (  # noqa: PLC0415
        tokenizer_class_from_name,
    )

    named = holder.get(
        {"config.json": "model_type", "tokenizer_config.json": "tokenizer_class"}.get(file, "")
    )
    if not isinstance(named, str):
        return False
    return named in CONFIG_MAPPING_NAMES if file == "config.json" else bool(tokenizer_class_from_name(named))


def _items(value: object) -> Iterator[tuple[dict[str, object], str, object]]:
    """Yield (object, key, value) for every key in ``value``, at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield value, str(key), inner
            yield from _items(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _items(inner)


def _refuse_packed(folder: Path, config: dict[str, Any]) -> None:
    """Raise ModelError ``packed-weights`` if the folder holds weights as bitsandbytes packs them.

    transformers would load them into layers of bitsandbytes, whose gradients stop silently: see ``core.quantized``.
    """
    stored = config.get("quantization_config")
    named = stored if isinstance(stored, dict) else {}
    if named.get("quant_method") == "bitsandbytes" or named.get("load_in_4bit") or named.get("load_in_8bit"):
        raise ModelError(
            f"The weights in {folder} were saved in 4 or 8 bits by bitsandbytes.",
            code="packed-weights",
            remedy="Use the model that they were made from, with `model.load_in_4bit=true` or "
            "`model.load_in_8bit=true`.",
        )


def _check_causal(folder: Path, config: dict[str, Any]) -> None:
    from transformers.models.auto.modeling_auto import (  # noqa: PLC0415 - torch loads here
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    )

    kind = config.get("model_type")
    causal = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(str(kind))
    known = {causal} if isinstance(causal, str) else set(causal or ())
    named = config.get("architectures") or list(known)
    if not isinstance(named, list) or not known.intersection(map(str, named)):
        raise ModelError(
            f"{folder} is no causal language model that transformers knows (model_type {kind}, {named}).",
            code="not-causal",
            remedy="Choose a model whose architecture ends in ForCausalLM.",
        )


def _check_weights(folder: Path) -> None:
    if (folder / WEIGHTS).is_file():
        return
    index = folder / WEIGHTS_INDEX
    if index.is_file():
        _check_shards(index)
    elif pickles := sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern)):
        raise ModelError(
            f"{folder} has its weights only as {pickles[0]}, a pickle, which can run code when it is read.",
            code="pickled-weights",
            remedy="Convert it to safetensors, or use a revision of the model that has model.safetensors.",
        )
    else:
        raise ModelError(
            f"{folder} has no weights (no {WEIGHTS} and no {WEIGHTS_INDEX}).",
            code="no-weights",
            remedy="Download the model again, or give the folder that holds its weights.",
        )


def _check_shards(index: Path) -> None:
    shards = read_object(index, missing="no-weights", damaged="damaged-weights").get("weight_map")
    names = sorted(set(map(str, shards.values()))) if isinstance(shards, dict) else []
    absent = [name for name in names if Path(name).name != name or not (index.parent / name).is_file()]
    if absent or not names:
        raise ModelError(
            f"{index} lists {absent[0] if absent else 'no file'}, which is not there.",
            code="missing-shard",
            remedy="Download the model again.",
        )


# --- fingerprint ------------------------------------------------------------------------------------------


def model_fingerprint(folder: str | Path) -> str:
    """Return a fingerprint of a model's files, 32 hexadecimal digits.

    XXH3-128 over the name, size and content of every .json, .jinja and .safetensors file directly in the folder.
    Above 2 GiB in total, only the header and 64 evenly spread blocks of 1 MiB of each weight file are read: enough to
    tell models apart, not to find a flipped bit. Raises ModelError ``no-config`` if there is no such file.
    """
    folder = Path(folder)
    files = sorted(p for p in folder.glob("*") if p.suffix in {".json", ".jinja", ".safetensors"})
    whole = sum(path.stat().st_size for path in files) <= _HASH_WHOLE_BYTES
    if not files:
        raise ModelError(
            f"{folder} holds no model.", code="no-config", remedy="Give a folder in Hugging Face layout."
        )
    digest = xxhash.xxh3_128()
    for path in files:
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        for block in _blocks(path, whole=whole or path.suffix != ".safetensors"):
            digest.update(block)
    return str(digest.hexdigest())


def _blocks(path: Path, *, whole: bool) -> Iterator[bytes]:
    size = path.stat().st_size
    with path.open("rb") as stream:
        if whole or size <= _HASH_BLOCKS * _HASH_BLOCK_BYTES:
            while block := stream.read(_HASH_BLOCK_BYTES):
                yield block
            return
        (header_bytes,) = struct.unpack("<Q", stream.read(8))
        yield stream.read(min(header_bytes, size))
        for number in range(_HASH_BLOCKS):
            stream.seek((size - _HASH_BLOCK_BYTES) * number // (_HASH_BLOCKS - 1))
            yield stream.read(_HASH_BLOCK_BYTES)

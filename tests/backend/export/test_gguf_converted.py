"""Files of llama.cpp's converter, right and spoiled: backend/export/gguf_converted.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf.quants import quantize
from torch import Tensor

from backend.core.gguf.file import GgufFile, GgufTensor
from backend.export.gguf_converted import check_converted, lost_weights
from tests.exported import QWEN, build_tokenizer

TOKENIZER = build_tokenizer(QWEN)
NUMBERS = np.random.default_rng(0)
UP, DOWN, NORM = "blk.0.ffn_up.weight", "blk.0.ffn_down.weight", "blk.0.attn_norm.weight"


def tensor(name: str, values: np.ndarray, kind: Kind = Kind.F32) -> GgufTensor:
    values = np.ascontiguousarray(values)
    stored = values.astype(np.float32) if kind == Kind.F32 else quantize(values.astype(np.float32), kind)
    return GgufTensor(name, values.shape, kind, stored.reshape(-1, stored.shape[-1]).view(np.uint8))


VALUES = {UP: NUMBERS.normal(size=(8, 64)), DOWN: NUMBERS.normal(size=(8, 64)), NORM: NUMBERS.normal(size=64)}
KEYS = {
    "general.architecture": "odd",
    "odd.block_count": 1,
    "tokenizer.chat_template": TOKENIZER.chat_template,
}


def a_file(kind: Kind = Kind.F32, file_type: int = 0) -> GgufFile:
    kinds = {UP: kind, DOWN: kind, NORM: Kind.F32}
    tensors = {name: tensor(name, values, kinds[name]) for name, values in VALUES.items()}
    return GgufFile(Path("a.gguf"), {**KEYS, "general.file_type": file_type}, tensors)


@pytest.mark.parametrize(
    ("kind", "file_type", "precision"),
    [
        (Kind.F32, 0, "F32"),
        (Kind.F16, 1, "F16"),
        (Kind.BF16, 32, "BF16"),
        (Kind.Q8_0, 7, "Q8_0"),
        (Kind.Q4_0, 2, "Q4_0"),
    ],
)
def test_a_file_rounded_as_it_says_is_right(kind: Kind, file_type: int, precision: str) -> None:
    assert check_converted(a_file(kind, file_type), a_file(), TOKENIZER, precision) == []


def spoiled(**changes: GgufTensor | None) -> Callable[[GgufFile], GgufFile]:
    def spoil(file: GgufFile) -> GgufFile:
        tensors = {name: changes.get(name, each) for name, each in file.tensors.items()}
        more = {name: each for name, each in changes.items() if name not in tensors}
        return replace(file, tensors={name: each for name, each in {**tensors, **more}.items() if each})

    return spoil


def keyed(**changes: object) -> Callable[[GgufFile], GgufFile]:
    def spoil(file: GgufFile) -> GgufFile:
        found = {**file.metadata, **changes}
        return replace(file, metadata={key: value for key, value in found.items() if value is not None})

    return spoil


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoiled(**{UP: None}), f"the tensor {UP} is missing"),
        (spoiled(more=tensor("more", VALUES[UP])), "the tensor more does not belong there"),
        (spoiled(**{UP: tensor(UP, VALUES[DOWN])}), f"{UP} differs from the trained weight by 1"),
        (spoiled(**{UP: tensor(UP, VALUES[UP] * 1.001)}), f"{UP} differs from the trained weight by 0.1%"),
        (spoiled(**{UP: tensor(UP, VALUES[UP].T)}), f"{UP} has the shape [64, 8] instead of [8, 64]"),
        (keyed(**{"odd.block_count": 2}), "the key odd.block_count differs"),
        (keyed(**{"odd.block_count": None}), "the key odd.block_count is missing"),
        (keyed(**{"odd.rope": 2}), "the key odd.rope does not belong there"),
        (keyed(**{"general.file_type": 7}), "general.file_type is 7, but 0 for F32"),
    ],
)
def test_what_is_wrong_is_named(spoil: Callable[[GgufFile], GgufFile], said: str) -> None:
    problems = check_converted(spoil(a_file()), a_file(), TOKENIZER, "F32")
    assert len(problems) == 1
    assert problems[0].startswith(said)


def test_another_template_is_found_though_both_conversions_have_it() -> None:
    odd = keyed(**{"tokenizer.chat_template": "odd"})(a_file())
    assert check_converted(odd, odd, TOKENIZER, "F32") == [
        "its chat template differs from the one used in training"
    ]


def test_a_coarse_weight_may_be_off_only_by_its_rounding() -> None:
    right = a_file(Kind.Q4_0, 2)
    wrong = spoiled(**{UP: tensor(UP, np.roll(VALUES[UP], 1, axis=0), Kind.Q4_0)})(right)
    assert [UP in problem for problem in check_converted(wrong, a_file(), TOKENIZER, "Q4_0")] == [True]


def test_a_coarser_kind_than_the_precision_says_is_found() -> None:
    wrong = spoiled(**{UP: tensor(UP, VALUES[UP], Kind.Q4_0)})(a_file(Kind.Q8_0, 7))
    assert check_converted(wrong, a_file(), TOKENIZER, "Q8_0") == [f"{UP} is stored as Q4_0 instead of Q8_0"]


WEIGHTS: dict[str, Tensor] = {
    "up": torch.from_numpy(VALUES[UP]),
    "down": torch.from_numpy(VALUES[DOWN]),
    "norm": torch.from_numpy(VALUES[NORM]),
}


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("permuted", WEIGHTS["up"].flip(0)),
        ("turned", WEIGHTS["up"].T),
        ("stacked", torch.stack([WEIGHTS["up"], WEIGHTS["down"]])),
        ("split", WEIGHTS["up"][:3]),
        ("a norm less one", (WEIGHTS["norm"].float() - 1)),
        ("a vector in another order", WEIGHTS["norm"].flip(0)),
    ],
)
def test_weights_are_found_in_other_places(name: str, values: Tensor) -> None:
    file = a_file()
    shifted = (values.float() + 1).numpy() if name == "a norm less one" else VALUES[NORM]
    tensors = {**file.tensors, NORM: tensor(NORM, shifted)}
    assert lost_weights({name: values}, replace(file, tensors=tensors)) == []


def test_a_weight_that_is_nowhere_is_named() -> None:
    assert lost_weights({**WEIGHTS, "bias": torch.ones(64), "odd": WEIGHTS["up"] * 2}, a_file()) == [
        "bias",
        "odd",
    ]

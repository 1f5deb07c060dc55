"""Whole layers and rows of tokens beside LoRA: what moves, what stays, and that two ends of one matrix stay one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from backend.core.model_loader import load_base, merge_adapter
from backend.errors import ModelError
from backend.run.config import TrainingConfig
from backend.training.batching import pack
from backend.training.beside_lora import head_product, whole_layers, with_token_ids
from backend.training.forward import choose_forward
from backend.training.loop import train_steps
from backend.training.reach import Reach
from backend.training.tuning import check_tuning, make_trainable, trainable_parameters
from tests.backend.core.odd_models import with_vision
from tests.backend.core.rows import PLAN, lively_model, random_rows, start
from tests.backend.training.variants import tuning
from tests.tiny import Architecture, tiny_model, tiny_tokenizer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),  # peft asks for it
    pytest.mark.filterwarnings("ignore:fan_in_fan_out"),
]
THREE = TrainingConfig(max_steps=3, per_device_train_batch_size=4, learning_rate=1e-2)
ENDS = {"llama": "model.embed_tokens", "gpt2": "transformer.wte"}


def _trained(settings: Any, architecture: Architecture = "llama", **overrides: Any) -> Any:
    state = start(lively_model(architecture, **overrides), settings, THREE)
    for _ in train_steps(state, random_rows([9, 14, 20, 7]), THREE, PLAN, seed=0):
        pass
    return state.forward.model


@pytest.mark.parametrize(
    ("architecture", "names"),
    [
        ("llama", ["embed_tokens"]),
        ("llama", ["lm_head"]),
        ("llama", ["embed_tokens", "lm_head"]),
        ("gpt2", ["wte"]),
    ],
)
def test_one_matrix_for_both_ends_stays_one(architecture: Architecture, names: list[str]) -> None:
    model = _trained(tuning(modules_to_save=names), architecture)
    base = model.get_base_model()
    assert base.get_input_embeddings().weight is base.get_output_embeddings().weight
    merged = merge_adapter(model)
    assert merged.get_input_embeddings().weight is merged.get_output_embeddings().weight
    assert merged.config.tie_word_embeddings
    before = lively_model(architecture).get_input_embeddings().weight
    assert not torch.equal(merged.get_input_embeddings().weight, before)


def test_one_matrix_is_trained_once() -> None:
    learned = trainable_parameters(make_trainable(tiny_model(), tuning(modules_to_save=["lm_head"]), seed=0))
    assert [name for name in learned if ".modules_to_save." in name] == [
        "base_model.model.model.embed_tokens.modules_to_save.default.weight"
    ]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_only_the_rows_of_the_tokens_move(architecture: Architecture) -> None:
    tokens = [3, 17, 3]
    merged = merge_adapter(_trained(tuning(trainable_token_indices=tokens), architecture))
    now, before = (
        merged.get_input_embeddings().weight,
        lively_model(architecture).get_input_embeddings().weight,
    )
    moved = [row for row in range(len(now)) if not torch.equal(now[row], before[row])]
    assert moved == [3, 17]
    assert now is merged.get_output_embeddings().weight


def test_tokens_of_an_untied_model_learn_to_be_read_and_written() -> None:
    read = int(random_rows([9, 14, 20, 7])[0].input_ids[0])
    merged = merge_adapter(_trained(tuning(trainable_token_indices=[read]), tie_word_embeddings=False))
    before = lively_model(tie_word_embeddings=False)
    for end in ("get_input_embeddings", "get_output_embeddings"):
        now, then = getattr(merged, end)().weight, getattr(before, end)().weight
        assert [row for row in range(len(now)) if not torch.equal(now[row], then[row])] == [read]


@pytest.mark.parametrize(
    "settings",
    [
        tuning(modules_to_save=["embed_tokens", "lm_head", "norm"]),
        tuning(trainable_token_indices=[3, 5]),
        tuning(use_dora=True),
    ],
    ids=["whole layers", "tokens", "DoRA"],
)
@pytest.mark.parametrize("tie", [True, False], ids=["tied", "untied"])
def test_half_precision_trains_what_single_precision_does(settings: Any, tie: bool) -> None:
    ids = torch.arange(2, 30)[None]
    gradients, logits = [], []
    for dtype in (torch.float32, torch.bfloat16):
        model = make_trainable(lively_model(tie_word_embeddings=tie).to(dtype), settings, seed=0)
        output, learned = model(ids, labels=ids), trainable_parameters(model)
        assert {part.dtype for part in learned.values()} == {torch.float32}
        assert output.logits.dtype == dtype
        found = torch.autograd.grad(output.loss, list(learned.values()))
        gradients.append(torch.cat([part.flatten() for part in found]))
        logits.append(output.logits.float())
    assert F.cosine_similarity(*gradients, dim=0) > 0.9
    assert F.cosine_similarity(logits[0].flatten(), logits[1].flatten(), dim=0) > 0.999


@pytest.mark.parametrize(
    "settings",
    [
        tuning(modules_to_save=["lm_head"]),
        tuning(trainable_token_indices=[3, 5]),
    ],
    ids=["whole head", "tokens"],
)
@pytest.mark.parametrize("tie", [True, False], ids=["tied", "untied"])
def test_loss_and_gradient_are_those_of_the_model_itself(settings: Any, tie: bool) -> None:
    model = make_trainable(lively_model(tie_word_embeddings=tie), settings, seed=0)
    (row,) = random_rows([20])
    (batch,) = pack([row], budget=1 << 20, share_prefixes=True)
    learned = list(trainable_parameters(model).values())
    ids = torch.from_numpy(row.input_ids)[None]
    labels = torch.where(torch.from_numpy(row.trained)[None], ids, -100)
    theirs = F.cross_entropy(model(ids).logits[0, :-1], labels[0, 1:], ignore_index=-100, reduction="sum")
    expected = torch.autograd.grad(theirs, learned)
    ours = choose_forward(model, longest_row=64).loss_sum(batch)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, learned), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "said", "code"),
    [
        ({"modules_to_save": ["embed_token"]}, "did you mean embed_tokens?", "no-such-module"),
        ({"modules_to_save": ["mlp"]}, "no single layer", "no-such-module"),
        ({"modules_to_save": ["nonsense"]}, "no single layer", "no-such-module"),
        ({"trainable_token_indices": [400]}, "has 400, counted from 0", "unusable-tokens"),
        ({"trainable_token_indices": [-1]}, "names the token -1", "unusable-tokens"),
        ({"trainable_token_indices": ["<|im_strat|>"]}, "Did you mean <|im_start|>?", "unusable-tokens"),
        ({"trainable_token_indices": ["no single token"]}, "is no single token", "unusable-tokens"),
        (
            {"trainable_token_indices": [3], "modules_to_save": ["lm_head"]},
            "trained in another way",
            "unusable-tokens",
        ),
    ],
)
def test_what_fits_nothing_is_refused(
    settings: dict[str, Any], said: str, code: str, tiny_folder: Path
) -> None:
    for refuse in (
        lambda: make_trainable(
            load_base(tiny_folder), tuning(**settings), seed=0, tokenizer=tiny_tokenizer()
        ),
        lambda: check_tuning(tiny_folder, tuning(**settings)),
    ):
        with pytest.raises(ModelError) as caught:
            refuse()
        assert said in caught.value.message
        assert caught.value.remedy
        assert caught.value.code == code


def test_tokens_beside_an_adapter_on_the_same_end_are_refused() -> None:
    both = tuning(trainable_token_indices=[3], lora_target_modules=["q_proj", "embed_tokens"])
    with pytest.raises(ModelError, match=r"rows of model\.embed_tokens") as caught:
        make_trainable(tiny_model(tie_word_embeddings=False), both, seed=0)
    assert caught.value.code == "unusable-tokens"


def test_a_head_with_a_bias_takes_no_tokens() -> None:
    model = tiny_model(tie_word_embeddings=False)
    model.lm_head.bias = nn.Parameter(torch.zeros(512))
    with pytest.raises(ModelError, match="its head has a bias"):
        make_trainable(model, tuning(trainable_token_indices=[3]), seed=0)


def test_tokens_are_named_by_text_or_id(tiny_folder: Path) -> None:
    tokenizer = tiny_tokenizer()
    start_id = tokenizer.convert_tokens_to_ids("<|im_start|>")
    named = with_token_ids(tuning(trainable_token_indices=["<|im_start|>", 5, "a", "5"]), tokenizer)
    digit = tokenizer.convert_tokens_to_ids("5")
    assert named.trainable_token_indices == [start_id, 5, tokenizer.convert_tokens_to_ids("a"), digit]
    assert with_token_ids(tuning(trainable_token_indices=[7]), None).trainable_token_indices == [7]
    assert check_tuning(tiny_folder, tuning(trainable_token_indices=["<|im_start|>"])) is None


def test_a_token_text_needs_a_tokenizer() -> None:
    with pytest.raises(ValueError, match="needs a tokenizer"):
        make_trainable(tiny_model(), tuning(trainable_token_indices=["<tool>"]), seed=0)


def test_layers_that_no_text_reaches_are_not_named() -> None:
    model = with_vision()
    everywhere = whole_layers(model, ["embed_tokens"], Reach.everything())
    assert [name.rpartition(".")[2] for name in everywhere] == ["embed_tokens"]
    with pytest.raises(ModelError) as caught:
        whole_layers(model, ["patch_embedding"], Reach(frozenset({"lm_head.weight"})))
    assert caught.value.remedy == "Use some of lm_head."


def test_a_head_that_computes_more_is_no_product() -> None:
    head = nn.Linear(4, 6)
    weight, bias = head_product(head) or (None, None)
    assert weight is head.weight
    assert bias is head.bias
    assert head_product(nn.Sequential(head)) is None

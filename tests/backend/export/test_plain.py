"""The plain form of adapters: backend/export/plain.py, against peft's own arithmetic and programs that read less."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from backend.core.model_loader import load_adapter, load_base, merge_adapter
from backend.errors import ExportError
from backend.export.certificate import Light
from backend.export.check import check_updates
from backend.export.forms import Target, write_form
from backend.export.plain import WEIGHTS, PlainLora, check_plain, plain_form, update_errors
from backend.export.trained import Trained, load_trained
from backend.run.adapter_settings import ADAPTER_CONFIG, PLAIN, merged_only
from backend.training.checkpoint import write_weights
from backend.training.tuning import make_trainable
from backend.utils.warning_utils import unwarned
from tests.backend.export.conftest import Asked, ask, export_of
from tests.backend.export.families import family_folder
from tests.backend.export.results import by_peft, finished, finished_over
from tests.backend.training.variants import CASES, Case
from tests.tiny import Architecture, tiny_model

RANKS = {"q_proj": 2, r"model\.layers\.1\.mlp\.down_proj": 8}
ALPHAS = {"v_proj": 3, "down_proj": 20}
VARIANTS: dict[str, dict[str, Any]] = {
    "rslora": {"use_rslora": True},
    "ranks": {"rank_pattern": RANKS},
    "alphas": {"alpha_pattern": ALPHAS},
    "layers": {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1], "layers_pattern": "layers"},
    "excluded": {"exclude_modules": ["k_proj", "model.layers.0.mlp.up_proj"]},
    "all": {
        "use_rslora": True, "rank_pattern": RANKS, "alpha_pattern": ALPHAS, "exclude_modules": r".*\.0\..*gate_proj",
    },
    "ends": {
        "target_modules": ["q_proj", "embed_tokens", "lm_head"],
        "rank_pattern": {"embed_tokens": 6}, "use_rslora": True,
    },
}  # fmt: skip


def adapted(settings: dict[str, Any], architecture: Architecture = "llama") -> PeftModel:
    """A tiny model whose head stands apart, with an adapter by peft that changes every layer it is on."""
    model = by_peft(tiny_model(architecture, tie_word_embeddings=False), settings)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape) * parameter.requires_grad
    return model.eval()


def saved(model: PeftModel, folder: Path) -> Path:
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def law(plain: PlainLora) -> dict[str, Tensor]:
    """Each layer's update by vLLM's rule, by the layer's name: one scale for all, and no other setting is read.

    Source: ``PEFTHelper`` of vLLM, whose scale is lora_alpha / r, with use_rslora lora_alpha / √r.
    """
    root = math.sqrt if plain.config["use_rslora"] else float
    scale = plain.config["lora_alpha"] / root(plain.config["r"])
    found = {}
    for name, a in plain.weights.items():
        layer, _, side = name.rpartition(".lora_")
        match side:
            case "A.weight":
                found[layer] = scale * plain.weights[f"{layer}.lora_B.weight"] @ a
            case "embedding_A":
                found[layer] = (scale * plain.weights[f"{layer}.lora_embedding_B"] @ a).T
    return found


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_one_scale_gives_the_updates_that_peft_merges(
    settings: dict[str, Any], architecture: Architecture, tmp_path: Path
) -> None:
    model = adapted(settings, architecture)
    plain = plain_form(model, saved(model, tmp_path))
    before = tiny_model(architecture, tie_word_embeddings=False).state_dict()
    updates = law(plain)
    found = {name: part - before[name] for name, part in merge_adapter(model).state_dict().items()}
    for name, update in found.items():
        wanted = updates.get(f"base_model.model.{name.removesuffix('.weight')}", torch.zeros(()))
        assert torch.allclose(update, wanted.expand(update.shape), atol=2e-6), name
    assert len(updates) == sum(bool(update.any()) for update in found.values())


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_nothing_is_left_to_settings(settings: dict[str, Any], tmp_path: Path) -> None:
    model = adapted(settings)
    plain = plain_form(model, saved(model, tmp_path))
    assert {name: plain.config[name] for name in PLAIN} == PLAIN
    assert set(plain.folded) == {name for name in settings if name in PLAIN}
    assert plain.config["lora_alpha"] == plain.config["r"]
    ranks = {min(values.shape) for values in plain.weights.values()}
    assert ranks == {plain.config["r"]} == {max([4, *settings.get("rank_pattern", {}).values()])}


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_peft_reads_the_same_model_from_it(settings: dict[str, Any], tmp_path: Path) -> None:
    """The strict loader refuses an adapter that is on other layers than its settings say."""
    model = adapted(settings)
    plain = plain_form(model, saved(model, tmp_path / "trained"))
    (tmp_path / "plain").mkdir()
    save_file(dict(plain.weights), tmp_path / "plain" / WEIGHTS)
    (tmp_path / "plain" / ADAPTER_CONFIG).write_text(json.dumps(plain.config))
    again = load_adapter(tiny_model(tie_word_embeddings=False), tmp_path / "plain").eval()
    ids = torch.arange(40)[None]
    assert torch.allclose(again(ids).logits, model(ids).logits, atol=1e-6)


@pytest.mark.parametrize("settings", [{}, {"lora_alpha": 3}, {"target_modules": r".*\.1\..*_proj"}], ids=str)
def test_what_is_plain_already_is_left_as_it_is(settings: dict[str, Any], tmp_path: Path) -> None:
    model = adapted(settings)
    plain = plain_form(model, saved(model, tmp_path))
    stored = load_file(tmp_path / WEIGHTS)
    assert plain.folded == ()
    assert plain.config == json.loads((tmp_path / ADAPTER_CONFIG).read_text())
    assert all(torch.equal(values, stored[name]) for name, values in plain.weights.items())


def test_layers_that_are_not_all_adapted_are_named_one_by_one(tmp_path: Path) -> None:
    model = adapted(VARIANTS["excluded"])
    targets = plain_form(model, saved(model, tmp_path)).config["target_modules"]
    assert targets == ["down_proj", "gate_proj", "model.layers.1.mlp.up_proj", "o_proj", "q_proj", "v_proj"]


@settings(max_examples=12)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 100), st.integers(1, 100), st.booleans())
def test_ranks_and_scales_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, r: int, other: int, alpha: int, own: int, rslora: bool
) -> None:
    chosen = {"r": r, "lora_alpha": alpha, "use_rslora": rslora, "rank_pattern": {"q_proj": other},
              "alpha_pattern": {"q_proj": own}, "target_modules": ["q_proj", "v_proj"]}  # fmt: skip
    model = adapted(chosen)
    plain = plain_form(model, saved(model, tmp_path_factory.mktemp("any")))
    assert plain.config["r"] == max(r, other)
    assert max(update_errors(plain, model).values()) < 1e-6


KINDS = {name: case for name, case in CASES.items() if not merged_only(case[1].model_dump())}


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
@pytest.mark.parametrize("case", KINDS.values(), ids=KINDS)
def test_whatever_the_settings_of_a_run_may_be(case: Case, tmp_path: Path) -> None:
    """The adapters as the trainer makes and saves them; strict loading finds one on other layers."""
    architecture, tuning, overrides = case
    model = make_trainable(tiny_model(architecture, **overrides), tuning, seed=0)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape) * parameter.requires_grad
    (tmp_path / "trained").mkdir()
    write_weights(model, tmp_path / "trained")
    trained = load_adapter(tiny_model(architecture, **overrides), tmp_path / "trained").eval()
    plain = plain_form(trained, tmp_path / "trained")
    assert {name: plain.config[name] for name in PLAIN} == PLAIN
    assert max(update_errors(plain, trained).values()) < 1e-6
    (tmp_path / "plain").mkdir()
    save_file(dict(plain.weights), tmp_path / "plain" / WEIGHTS)
    (tmp_path / "plain" / ADAPTER_CONFIG).write_text(json.dumps(plain.config))
    again = load_adapter(tiny_model(architecture, **overrides), tmp_path / "plain").eval()
    ids = torch.arange(40)[None]
    assert torch.allclose(again(ids).logits, model.eval()(ids).logits, atol=1e-4)


PISSA = ["pissa", "pissa_niter_4", "olora"]


@pytest.mark.parametrize("start", PISSA)
def test_a_start_that_was_converted_is_plain_lora_of_doubled_rank(start: str, tmp_path: Path) -> None:
    base = tiny_model(tie_word_embeddings=False)
    model = by_peft(base, {"init_lora_weights": start})
    model.save_pretrained(tmp_path / "start")
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape) * parameter.requires_grad
    with unwarned():
        model.eval().save_pretrained(
            tmp_path / "end", path_initial_model_for_weight_conversion=tmp_path / "start"
        )
    again = load_adapter(tiny_model(tie_word_embeddings=False), tmp_path / "end").eval()
    plain = plain_form(again, tmp_path / "end")
    assert (plain.config["r"], plain.config["init_lora_weights"], plain.folded) == (8, True, ())
    ids = torch.arange(40)[None]
    assert torch.allclose(again(ids).logits, model(ids).logits, atol=1e-4)
    assert max(update_errors(plain, again).values()) < 1e-6


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"trainable_token_indices": [3, 4]}, "trainable_token_indices"),
        ({"lora_bias": True}, "lora_bias"),
        ({"bias": "all"}, "bias"),
        ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
        ({"of_a_later_peft": 3, "use_dora": True}, "of_a_later_peft, use_dora"),
        ({"peft_type": "IA3", "feedforward_modules": ["x"]}, "peft_type"),
    ],
    ids=str,
)
def test_what_matrices_cannot_hold_is_refused_with_the_way_out(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ExportError) as caught:
        check_plain({"peft_type": "LORA", "r": 4, "of_a_later_peft_and_off": None} | settings)
    assert caught.value.code == "merged-only"
    assert f"trained with {named}." in caught.value.message
    assert "`to=merged` or `to=gguf`" in caught.value.remedy


def test_a_weight_that_is_no_matrix_of_lora_is_refused(tmp_path: Path) -> None:
    model = adapted({})
    stored = load_file(saved(model, tmp_path) / WEIGHTS)
    save_file(stored | {"base_model.model.odd": torch.zeros(1)}, tmp_path / WEIGHTS)
    with pytest.raises(ExportError, match=r"base_model\.model\.odd"):
        plain_form(model, tmp_path)


# --- experts ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return family_folder(tmp_path_factory.mktemp("mixtral") / "model", "mixtral")


def test_experts_as_peft_makes_them_are_left_as_they_are(mixtral: Path, tmp_path: Path) -> None:
    trained = load_trained(finished_over(mixtral, tmp_path))
    plain = trained.plain()
    assert (plain.folded, plain.config["rank_pattern"]) == ((), {r".*\.gate_up_proj": 8})
    assert plain.weights.keys() == load_file(trained.result / WEIGHTS).keys()


@pytest.mark.parametrize("settings", [{"use_rslora": True}, {"rank_pattern": {"q_proj": 8}}], ids=str)
def test_experts_keep_their_ranks_and_have_one_scale(
    settings: dict[str, Any], mixtral: Path, tmp_path: Path
) -> None:
    model = by_peft(load_base(mixtral), settings)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape) * parameter.requires_grad
    plain = plain_form(model.eval(), saved(model, tmp_path / "trained"))
    assert plain.config["rank_pattern"] == plain.config["alpha_pattern"] != {}
    (tmp_path / "plain").mkdir()
    save_file(dict(plain.weights), tmp_path / "plain" / WEIGHTS)
    (tmp_path / "plain" / ADAPTER_CONFIG).write_text(json.dumps(plain.config))
    again = load_adapter(load_base(mixtral), tmp_path / "plain").eval()
    scales = {
        layer.scaling["default"]
        for layer in again.modules()
        if isinstance(getattr(layer, "scaling", 0), dict)
    }
    assert scales == {1.0}
    ids = torch.arange(20)[None]
    assert torch.allclose(again(ids).logits, model(ids).logits, atol=1e-5)


# --- exports ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    """A run with everything that the weights can hold, on the embeddings too; read only."""
    settings = VARIANTS["all"] | {"target_modules": r".*(_proj|embed_tokens|lm_head)"}
    return ask(finished(tmp_path_factory.mktemp("varied"), lora=settings, tie_word_embeddings=False))


@pytest.mark.usefixtures("read_here")
@pytest.mark.parametrize(
    ("target", "precision"), [("adapter", "float32"), ("lora-gguf", "F32"), ("merged", "float32")]
)
def test_every_reader_reads_the_trained_model(
    target: Target, precision: str, varied: Asked, tmp_path: Path
) -> None:
    certificate = export_of(varied, tmp_path, target, precision)[1]
    assert (certificate.light, certificate.reasons) == (Light.GREEN, [])
    assert certificate.figures["mean_divergence_nats"] < 1e-9


def test_the_export_is_the_plain_form(varied: Asked, tmp_path: Path) -> None:
    folder = write_form(varied.trained, "adapter", "float32", tmp_path, max_shard_size="5GB")[0]
    written = json.loads((folder / ADAPTER_CONFIG).read_text())
    assert written == {**varied.trained.plain().config, **varied.trained.naming}
    assert (written["r"], written["lora_alpha"]) == (8, 8)
    assert {min(values.shape) for values in load_file(folder / WEIGHTS).values()} == {8}


def test_what_went_into_the_weights_is_said(varied: Asked, llama: Asked) -> None:
    said = check_updates(varied.trained).finding
    assert "15 updates are the trained ones" in said
    assert said.endswith("use_rslora, rank_pattern, alpha_pattern, exclude_modules went into the weights.")
    assert "went into" not in check_updates(llama.trained).finding


def test_a_wrong_scale_is_red(varied: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = varied.trained.plain()
    name = next(name for name in plain.weights if name.endswith("lora_B.weight"))
    wrong = PlainLora(plain.config, {**plain.weights, name: plain.weights[name] * 1.01}, plain.folded)
    monkeypatch.setattr(Trained, "plain", lambda _: wrong)
    check = check_updates(varied.trained)
    assert check.light == Light.RED
    assert f"the update of {name.removesuffix('.lora_B.weight')} is 0.01 of its size off" in check.finding

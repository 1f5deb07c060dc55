"""Each optimizer steps as its library does, has its state as named tensors, and learns at the rates asked for."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, get_args

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from torch import nn

from backend.core import packages
from backend.errors import ModelError
from backend.run.config import TrainingConfig
from backend.run.methods import OPTIMS
from backend.training.optimizer import (
    build_optimizer,
    check_optimizer,
    embeddings_and_head,
    gradient_norm,
    load_optimizer_tensors,
    optimizer_tensors,
)
from backend.training.tuning import trainable_parameters
from backend.utils.warning_utils import unwarned
from tests.tiny import tiny_model

PEAK = 0.1
OWN = ("adamw_torch", "adafactor", "muon")
FOREIGN = ("adamw_8bit", "lion_32bit", "lion_8bit")
INSTALLED = find_spec("bitsandbytes") is not None
EVERY = [
    *OWN,
    *(
        pytest.param(name, marks=pytest.mark.skipif(not INSTALLED, reason="needs bitsandbytes"))
        for name in FOREIGN
    ),
]


def _parameters(**more: tuple[int, ...]) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"weight": (3, 4), "bias": (4,), "scale": (), **more}
    return {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}


def _build(
    parameters: dict[str, nn.Parameter], training: TrainingConfig, *, embeddings: Sequence[str] = ()
) -> torch.optim.Optimizer:
    return build_optimizer(parameters, training, peak=PEAK, embeddings=embeddings)


def _step(
    optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter], *, rate: float, seed: int
) -> None:
    """One step of ``optimizer``, which may own some of ``parameters`` only, at random gradients."""
    generator = torch.Generator().manual_seed(seed)
    for part in parameters.values():
        part.grad = torch.randn(part.shape, generator=generator)
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_factor", 1.0)
    optimizer.step()


def test_steps_are_those_of_adamw_with_decay_on_matrices_alone() -> None:
    training = TrainingConfig(weight_decay=0.3, adam_beta1=0.8, adam_beta2=0.95, adam_epsilon=1e-3)
    ours, theirs = _parameters(), _parameters()
    optimizer = _build(ours, training)
    options = {"betas": (0.8, 0.95), "eps": 1e-3, "lr": 0.1}
    reference = torch.optim.AdamW(
        [
            {"params": [theirs["weight"]], "weight_decay": 0.3},
            {"params": [theirs["bias"], theirs["scale"]], "weight_decay": 0.0},
        ],
        **options,
    )

    for seed in range(4):
        _step(optimizer, ours, rate=0.1, seed=seed)
        _step(reference, theirs, rate=0.1, seed=seed)

    for name, part in ours.items():
        torch.testing.assert_close(part, theirs[name], rtol=1e-5, atol=1e-6)


def test_without_a_gradient_only_matrices_shrink() -> None:
    parameters = _parameters()
    before = {name: part.detach().clone() for name, part in parameters.items()}
    optimizer = _build(parameters, TrainingConfig(weight_decay=0.5))

    for part in parameters.values():
        part.grad = torch.zeros_like(part)
    optimizer.step()

    torch.testing.assert_close(parameters["weight"], before["weight"] * 0.95)
    assert torch.equal(parameters["bias"], before["bias"])
    assert torch.equal(parameters["scale"], before["scale"])


@pytest.mark.parametrize("names", [["weight"], ["bias"]])
def test_matrices_alone_and_vectors_alone_are_no_problem(names: list[str]) -> None:
    parameters = {name: _parameters()[name] for name in names}

    assert len(_build(parameters, TrainingConfig()).param_groups) == 1


def test_the_state_is_whole_before_the_first_step() -> None:
    parameters = _parameters()

    tensors = optimizer_tensors(_build(parameters, TrainingConfig()), parameters)

    assert tensors.keys() == {
        f"{name}.{key}" for name in parameters for key in ("exp_avg", "exp_avg_sq", "step")
    }
    assert not any(tensor.any() for tensor in tensors.values())


@pytest.mark.parametrize("optim", EVERY)
def test_a_state_put_back_goes_on_to_the_same_bits(optim: str) -> None:
    training = TrainingConfig(weight_decay=0.1, optim=optim)
    straight = _parameters(large=(64, 80))
    optimizer = _build(straight, training)
    for seed in range(3):
        _step(optimizer, straight, rate=0.05, seed=seed)
    saved = {name: value.clone() for name, value in optimizer_tensors(optimizer, straight).items()}

    resumed = {name: nn.Parameter(part.detach().clone()) for name, part in straight.items()}
    fresh = _build(resumed, training)
    load_optimizer_tensors(fresh, resumed, saved)
    for seed in range(3, 6):
        _step(optimizer, straight, rate=0.05, seed=seed)
        _step(fresh, resumed, rate=0.05, seed=seed)

    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    ours, theirs = optimizer_tensors(optimizer, straight), optimizer_tensors(fresh, resumed)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_named_tensors_are_the_state_itself_and_no_copies() -> None:
    parameters = _parameters()
    optimizer = _build(parameters, TrainingConfig())

    tensors = optimizer_tensors(optimizer, parameters)
    _step(optimizer, parameters, rate=0.1, seed=0)

    assert tensors["weight.step"] == 1
    assert tensors["weight.exp_avg"].any()


@pytest.mark.parametrize(
    "change", [lambda t: t.pop("bias.exp_avg"), lambda t: t.update({"more.step": t["bias.step"]})]
)
def test_a_state_of_other_parameters_is_refused_untouched(change: object) -> None:
    parameters = _parameters()
    optimizer = _build(parameters, TrainingConfig())
    foreign = {
        name: torch.ones_like(value) for name, value in optimizer_tensors(optimizer, parameters).items()
    }
    change(foreign)

    with pytest.raises(KeyError, match="optimizer state differs"):
        load_optimizer_tensors(optimizer, parameters, foreign)

    assert not any(value.any() for value in optimizer_tensors(optimizer, parameters).values())


# --- the other optimizers ------------------------------------------------------------------------------------

_ADAM: dict[str, Any] = {"betas": (0.8, 0.95), "eps": 1e-3}
_LION: dict[str, Any] = {"betas": (0.9, 0.99)}
Groups = list[dict[str, Any]]


def _bnb(name: str, groups: Groups, **options: Any) -> torch.optim.Optimizer:
    optimizer: torch.optim.Optimizer = getattr(importlib.import_module("bitsandbytes.optim"), name)(
        groups, **options
    )
    return optimizer


# name -> the libraries' own optimizers over hidden matrices and over the rest
LIBRARIES: dict[str, Callable[[Groups, Groups], list[torch.optim.Optimizer]]] = {
    "adamw_torch": lambda hidden, rest: [torch.optim.AdamW([*hidden, *rest], **_ADAM, fused=True)],
    "adafactor": lambda hidden, rest: [torch.optim.Adafactor([*hidden, *rest], eps=(None, 1.0))],
    "muon": lambda hidden, rest: [
        torch.optim.Muon(hidden, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, **_ADAM, fused=True),
    ],
    "adamw_8bit": lambda hidden, rest: [
        _bnb("AdamW8bit", hidden, **_ADAM),
        torch.optim.AdamW(rest, **_ADAM, fused=True),
    ],
    "lion_32bit": lambda hidden, rest: [_bnb("Lion32bit", [*hidden, *rest], **_LION)],
    "lion_8bit": lambda hidden, rest: [_bnb("Lion8bit", hidden, **_LION), _bnb("Lion32bit", rest, **_LION)],
}


def test_every_choice_is_built_and_has_its_facts() -> None:
    choices = set(get_args(TrainingConfig.model_fields["optim"].annotation))

    assert set(OPTIMS) == set(LIBRARIES) == {*OWN, *FOREIGN} == choices


@pytest.mark.parametrize("optim", EVERY)
def test_steps_and_state_are_those_of_the_library_to_the_bit(optim: str) -> None:
    training = TrainingConfig(
        optim=optim, weight_decay=0.3, adam_beta1=0.8, adam_beta2=0.95, adam_epsilon=1e-3
    )
    ours, theirs = (_parameters(large=(64, 80), table=(80, 64)) for _ in range(2))
    optimizer = _build(ours, training, embeddings=["table"])
    hidden = [{"params": [theirs["weight"], theirs["large"]], "weight_decay": 0.3}]
    rest = [
        {"params": [theirs["table"]], "weight_decay": 0.3},
        {"params": [theirs["bias"], theirs["scale"]], "weight_decay": 0.0},
    ]
    libraries = LIBRARIES[optim](hidden, rest)

    for seed in range(5):
        _step(optimizer, ours, rate=PEAK / (seed + 1), seed=seed)
        for library in libraries:
            _step(library, theirs, rate=PEAK / (seed + 1), seed=seed)

    state = {part: values for library in libraries for part, values in library.state.items()}
    for name, part in theirs.items():
        assert torch.equal(ours[name], part)
        assert optimizer.state[ours[name]].keys() == state[part].keys()
        for key, value in state[part].items():
            assert torch.equal(torch.as_tensor(optimizer.state[ours[name]][key]), torch.as_tensor(value))


def test_adafactor_learns_at_the_rate_that_transformers_means() -> None:
    """Up to the place of its epsilon, which is a number of its own here and there."""
    ours, theirs = _parameters(), _parameters()
    optimizer = _build(ours, TrainingConfig(optim="adafactor"))
    reference = transformers.Adafactor(
        theirs.values(), lr=PEAK, scale_parameter=False, relative_step=False, warmup_init=False
    )
    ours["weight"].data.div_(10)
    theirs["weight"].data.div_(10)

    for seed in range(3):
        _step(optimizer, ours, rate=PEAK, seed=seed)
        _step(reference, theirs, rate=PEAK, seed=seed)

    torch.testing.assert_close(ours["weight"], theirs["weight"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optim", EVERY)
def test_a_zero_gradient_moves_nothing_by_itself(optim: str) -> None:
    """The A matrices of LoRA have none in the first step, since B is zero."""
    parameters = _parameters(large=(64, 80))
    before = {name: part.detach().clone() for name, part in parameters.items()}
    optimizer = _build(parameters, TrainingConfig(optim=optim))

    for part in parameters.values():
        part.grad = torch.zeros_like(part)
    optimizer.step()

    assert all(torch.equal(part, before[name]) for name, part in parameters.items())


@pytest.mark.parametrize("optim", FOREIGN)
def test_a_missing_package_is_named_with_what_brings_it(optim: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda _: None)

    with pytest.raises(ModelError, match="bitsandbytes") as caught:
        check_optimizer(TrainingConfig(optim=optim))

    assert caught.value.code == "needs-bitsandbytes"
    assert "pip install" in caught.value.remedy


@pytest.mark.parametrize("optim", OWN)
def test_the_others_need_no_package(optim: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda _: None)
    training = TrainingConfig(optim=optim)

    check_optimizer(training)

    assert _build(_parameters(), training).state


# --- learning rates of parts of a model ----------------------------------------------------------------------


def _adapted(**settings: Any) -> PeftModel:
    model = tiny_model(tie_word_embeddings=False)
    with unwarned((FutureWarning, "")):  # peft reads a deprecated property of transformers
        adapted = get_peft_model(model, LoraConfig(r=2, task_type="CAUSAL_LM", **settings))
    assert isinstance(adapted, PeftModel)
    return adapted


def _ends_of(model: PeftModel) -> frozenset[str]:
    return embeddings_and_head(model.get_base_model(), trainable_parameters(model))


def _rates(optimizer: torch.optim.Optimizer) -> dict[int, tuple[float, float]]:
    """(learning rate, weight decay) by the id of the parameter."""
    return {
        id(part): (float(f"{group['lr']:.12g}"), group["weight_decay"])
        for group in optimizer.param_groups
        for part in group["params"]
    }


@pytest.mark.parametrize(
    ("settings", "embedding_rate"),
    [
        ({"target_modules": "all-linear"}, None),
        ({"target_modules": ["q_proj", "embed_tokens"]}, 0.025),
        ({"target_modules": ["q_proj", "lm_head"]}, None),
        ({"target_modules": ["q_proj"], "bias": "all"}, None),
        ({"target_modules": ["q_proj"], "use_dora": True}, None),
    ],
)
def test_lora_plus_has_the_learning_rates_of_peft(
    settings: dict[str, Any], embedding_rate: float | None
) -> None:
    model = _adapted(**settings)
    training = TrainingConfig(loraplus_lr_ratio=16.0, embedding_learning_rate=embedding_rate)
    expected = create_loraplus_optimizer(
        model, torch.optim.AdamW, lr=PEAK, loraplus_lr_ratio=16.0, loraplus_lr_embedding=embedding_rate
    )

    optimizer = _build(trainable_parameters(model), training, embeddings=_ends_of(model))

    assert _rates(optimizer) == _rates(expected)


def test_only_matrices_b_learn_faster() -> None:
    model = _adapted(target_modules=["q_proj"])
    parameters = trainable_parameters(model)
    optimizer = _build(parameters, TrainingConfig(loraplus_lr_ratio=4.0, weight_decay=0.5))

    rates = _rates(optimizer)

    assert {rates[id(part)] for name, part in parameters.items() if "lora_A" in name} == {(PEAK, 0.5)}
    assert {rates[id(part)] for name, part in parameters.items() if "lora_B" in name} == {(4 * PEAK, 0.5)}


@pytest.mark.parametrize(
    ("architecture", "overrides", "ends"),
    [
        ("llama", {}, {"model.embed_tokens.weight"}),
        ("llama", {"tie_word_embeddings": False}, {"model.embed_tokens.weight", "lm_head.weight"}),
        ("gpt2", {}, {"transformer.wte.weight", "transformer.wpe.weight"}),
    ],
)
def test_embeddings_and_head_are_found_by_what_they_are(
    architecture: Any, overrides: dict[str, Any], ends: set[str]
) -> None:
    model = tiny_model(architecture, **overrides)

    assert embeddings_and_head(model, dict(model.named_parameters())) == ends


def test_saved_copies_and_adapters_of_embeddings_are_found_and_no_adapter_of_the_head() -> None:
    saved = _adapted(target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    adapted = _adapted(target_modules=["q_proj", "embed_tokens", "lm_head"])
    start = "base_model.model."

    assert _ends_of(saved) == {
        f"{start}model.embed_tokens.modules_to_save.default.weight",
        f"{start}lm_head.modules_to_save.default.weight",
    }
    assert _ends_of(adapted) == {
        f"{start}model.embed_tokens.lora_embedding_{matrix}.default" for matrix in "AB"
    }


@pytest.mark.parametrize("optim", EVERY)
def test_embeddings_have_a_learning_rate_of_their_own(optim: str) -> None:
    parameters = _parameters(table=(80, 64), large=(64, 80))
    training = TrainingConfig(optim=optim, embedding_learning_rate=0.03)

    rates = _rates(_build(parameters, training, embeddings=["table"]))

    assert rates[id(parameters["table"])] == (0.03, 0.0)
    assert {rates[id(part)] for name, part in parameters.items() if name != "table"} == {(PEAK, 0.0)}


def test_a_rate_of_embeddings_that_are_not_trained_is_refused() -> None:
    with pytest.raises(ModelError, match="embedding_learning_rate") as caught:
        _build(_parameters(), TrainingConfig(embedding_learning_rate=0.03))

    assert caught.value.code == "no-embeddings"


@pytest.mark.parametrize(
    ("gradients", "expected"),
    [
        ([[3.0, 4.0]], 5.0),
        ([[3.0], [4.0]], 5.0),
        ([[0.0]], 0.0),
        ([[1.0, 2.0], [2.0]], 3.0),
        ([[math.inf], [1.0]], math.inf),
    ],
)
def test_the_norm_is_that_of_all_gradients_as_one_vector(
    gradients: list[list[float]], expected: float
) -> None:
    assert gradient_norm([torch.tensor(values) for values in gradients]) == expected


def test_the_norm_of_no_number_is_no_number() -> None:
    assert math.isnan(gradient_norm([torch.tensor([1.0]), torch.tensor([math.nan])]))

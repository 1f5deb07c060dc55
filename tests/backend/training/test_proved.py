from __future__ import annotations

from pathlib import Path

import pytest

from backend.core.engine.decoder import Decoder
from backend.core.model_loader import load_base
from backend.run.config import RunConfig
from backend.run.environment import Facts
from backend.run.settings import parse_config
from backend.training import proved
from backend.training.batching import pack
from backend.training.forward import ForwardPass
from backend.training.proved import proved_forward
from backend.training.tuning import make_trainable
from tests.backend.core.rows import PLAN, random_rows
from tests.runs import settings, write_rows

FACTS = Facts(data={}, model="the tiny one")


@pytest.fixture
def config(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    monkeypatch.delenv("TUNESMITH_PROOFS", raising=False)
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path))
    rows = [{"prompt": "a", "completion": "b"}]
    return parse_config(settings(tiny_folder, write_rows(tmp_path / "rows.jsonl", rows)))


def _proved(config: RunConfig, facts: Facts = FACTS, layers: str = "auto") -> ForwardPass:
    model = make_trainable(load_base(config.model.model_name_or_path), config.tuning, seed=0)
    return proved_forward(model, config, facts, PLAN, layers)


def _refusing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> ForwardPass:
        raise AssertionError("proved anew")

    monkeypatch.setattr(proved, "choose_forward", refuse)


@pytest.mark.parametrize("layers", ["auto", "transformers"])
def test_the_second_time_it_is_known_and_the_same(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, layers: str
) -> None:
    first = _proved(config, layers=layers)
    _refusing(monkeypatch)
    again = _proved(config, layers=layers)
    (batch,) = pack(random_rows([9, 14, 7], vocab=100), budget=100)
    assert float(again.loss_sum(batch).detach()) == float(first.loss_sum(batch).detach())
    assert isinstance(again.layers, Decoder) == (layers == "auto")
    assert (again.packed, again.draws, again.layers_used) == (first.packed, first.draws, first.layers_used)


def test_another_model_or_setting_is_proved_anew(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    _proved(config)
    _refusing(monkeypatch)
    wider = config.tuning.model_copy(update={"lora_r": config.tuning.lora_r + 1})
    rewarded = config.objective.model_copy(update={"method": "grpo"})  # which trains without dropout
    for other, facts in (
        (config, Facts(data={}, model="another")),
        (config.model_copy(update={"objective": rewarded}), FACTS),
        (config.model_copy(update={"tuning": wider}), FACTS),
    ):
        with pytest.raises(AssertionError, match="proved anew"):
            _proved(other, facts)


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"packed": 1, "draws": False, "layers": "", "attention": "x"},
        {"packed": False, "draws": False, "layers": "", "attention": "tunesmith_packed"},
    ],
)
def test_what_does_not_fit_the_model_is_proved_anew(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, found: dict[str, object]
) -> None:
    monkeypatch.setattr(proved, "recall", lambda *_, **__: found)
    assert _proved(config).packed

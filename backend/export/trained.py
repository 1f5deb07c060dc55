"""Load the result of a run for an export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from backend.core.model_loader import load_adapter, load_dense, merge_adapter
from backend.core.q4_0 import round_model
from backend.core.quantized import Quantization
from backend.core.tokenizer import load_tokenizer, stop_token_ids
from backend.export.plain import PlainLora, plain_form
from backend.inference.model_source import find_model
from backend.run.checkpoints import step_name, step_of
from backend.run.config import RunConfig
from backend.run.folder import RunDir
from backend.run.model_names import HUB_ID, MODEL_ALIASES, cache_folder, converted_name
from backend.run.settings import run_config
from backend.utils.path_utils import user_path


@dataclass
class Trained:
    """The result of a run in float32: the base with its adapter, not merged, or the whole model.

    ``result`` is its folder in the run, ``base`` the folder of the base model, ``end_ids`` the tokens that end an
    answer. ``step`` is that of a checkpoint; None for the result. ``quantization`` is how the base was stored in
    training: its weights in ``model`` have the values they had then.
    """

    run: RunDir
    config: RunConfig
    result: Path
    base: Path
    tokenizer: PreTrainedTokenizerBase
    model: PreTrainedModel | PeftModel
    end_ids: set[int]
    step: int | None = None
    quantization: Quantization | None = None

    @property
    def full(self) -> bool:
        """True if every weight was trained, so that there is no adapter."""
        return self.config.tuning.trains_all

    @property
    def adapts_experts(self) -> bool:
        """Whether some adapters stand on parameters that are no modules, as experts and their routers are."""
        return isinstance(self.model, PeftModel) and bool(self.model.peft_config["default"].target_parameters)

    @property
    def slug(self) -> str:
        """The name in the run's id, without date and random end, and the name of the checkpoint, if it is one."""
        named = "-".join(self.run.id.split("-")[2:-1]) or self.run.id
        return named if self.step is None else f"{named}-{step_name(self.step)}"

    @property
    def base_name(self) -> str | None:
        """The Hub id of the base; None for a local folder or file, which others could not load by name."""
        named = self.config.model.model_name_or_path
        if named in MODEL_ALIASES:
            return MODEL_ALIASES[named].hub_id
        *_, repository, snapshots, _ = ("", "", "", *self.base.parts)
        if snapshots == "snapshots" and repository.startswith("models--"):  # the Hub's own cache
            return repository.removeprefix("models--").replace("--", "/", 1)
        return named if HUB_ID.match(named) and not user_path(named).exists() else None

    @property
    def naming(self) -> dict[str, Any]:
        """The keys of adapter_config.json that an export changes: the base, and that the adapter is for inference."""
        commit = self.base.name if self.base.parent.name == "snapshots" else None
        return {
            "base_model_name_or_path": self.base_name,
            "revision": self.config.model.revision or commit,
            "inference_mode": True,
        }

    @property
    def base_words(self) -> str:
        """The base as part of a sentence: its Hub id, or "a model in a local folder"."""
        folder = Path(self.config.model.model_name_or_path).name
        return self.base_name or f"a model in a local folder ({folder})"

    @property
    def rounded_base_note(self) -> str:
        """A sentence about a base that was trained over in 4 or 8 bits; "" for one that was not."""
        if self.quantization is None:
            return ""
        return (
            f"It was trained over {self.base_words} in {self.quantization.words}: over the weights as they were "
            "published it was not tested and may answer differently."
        )

    @property
    def base_place(self) -> str:
        """A sentence on how to load a base without a public name; "" if it has one."""
        facts = self.run.read_environment().facts
        known = f" Its fingerprint is {facts.model}." if facts else ""
        place = (
            f"The base is {self.base_words}: load the adapter onto exactly that model, by its path.{known}"
        )
        return "" if self.base_name else place

    @property
    def base_note(self) -> str:
        """A warning if the weights of the base are not those of its public name; else ""."""
        named = self.config.model.model_name_or_path
        if named not in MODEL_ALIASES or self.base != cache_folder() / converted_name(named):
            return ""
        package = MODEL_ALIASES[named].distribution
        return (
            f"It was trained on the weights in the package {package}, a GGUF file of lower precision. "
            f"With {self.base_words} from the Hub it was not tested and may answer differently."
        )

    def plain(self) -> PlainLora:
        """The adapter in its plain form; there is none after ``merge``. Raises ExportError ``merged-only``."""
        return plain_form(self.model, self.result)

    def load_base(self) -> PreTrainedModel:
        """Load the base once more, in float32, with the values that it had in training."""
        return load_dense(self.base, dtype=torch.float32, quantization=self.quantization)

    def merge(self) -> PreTrainedModel:
        """The model with its adapter added into the weights, in float32; the adapter is used up."""
        if isinstance(self.model, PeftModel):
            self.model = merge_adapter(self.model)
        return self.model

    def round_to(self, precision: str) -> None:
        """Round the weights if the last steps of training computed with those of a file in ``precision``."""
        if precision == self.config.tuning.qat_scheme:
            round_model(self.merge())

    def generation_config(self) -> GenerationConfig:
        """Rules of generation for others, see ``greedy_rules``."""
        return greedy_rules(self.tokenizer, self.end_ids)


def greedy_rules(tokenizer: PreTrainedTokenizerBase, end_ids: set[int]) -> GenerationConfig:
    """Return rules of generation that are greedy and name every token that ends an answer."""
    ends = sorted(end_ids)
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ends[0] if len(ends) == 1 else ends,
        pad_token_id=tokenizer.pad_token_id,
    )


def load_trained(
    run: RunDir, checkpoint: int | str | None = None, base_model: str | Path | None = None
) -> Trained:
    """Load the result of a finished run, or a ``checkpoint``; both parameters as in ``find_model``.

    Raises RunError (``unfinished-run``, ``damaged-checkpoint``, ``no-such-checkpoint``) and ModelError.
    """
    found = find_model(run, checkpoint=checkpoint, base_model=base_model)
    result = found.adapter.folder if found.adapter else found.base
    tokenizer = load_tokenizer(found.tokenizer, chat_template=found.chat_template, now=found.template_time)
    model = load_dense(found.base, dtype=torch.float32, quantization=found.quantization)
    ends = stop_token_ids(tokenizer, model.generation_config.eos_token_id)
    tuned = load_adapter(model, result) if found.adapter else model
    step = step_of(result.name)
    return Trained(
        run, run_config(run), result, found.base, tokenizer, tuned.eval(), ends, step, found.quantization
    )


def model_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return the weights of a model by name, each once: a head that is tied to the embeddings is left out."""
    weights: Mapping[str, Tensor] = model.state_dict()
    tied = model.config.tie_word_embeddings
    return {name: tensor for name, tensor in weights.items() if not (tied and name == "lm_head.weight")}

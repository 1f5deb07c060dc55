"""The local paths of a configuration made absolute, so that a run means the same from anywhere. Floor F0."""

from __future__ import annotations

from backend.config import RunConfig
from backend.model_names import MODEL_ALIASES
from backend.utils.path_utils import absolute_source, user_path


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """``config`` with absolute paths of data, reviewed paraphrases and, where it is no name, of the model."""
    data: dict[str, object] = {"train": absolute_source(config.data.train)}
    if isinstance(config.data.validation, str):
        data["validation"] = absolute_source(config.data.validation)
    review = config.augmentation.paraphrases
    model = config.model.model_name_or_path
    if model not in MODEL_ALIASES and user_path(model).exists():
        model = str(user_path(model).absolute())
    return config.model_copy(
        update={
            "data": config.data.model_copy(update=data),
            "augmentation": config.augmentation.model_copy(
                update={"paraphrases": absolute_source(review) if review else ""}
            ),
            "model": config.model.model_copy(update={"model_name_or_path": model}),
        }
    )

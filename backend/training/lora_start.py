"""PiSSA and OLoRA: LoRA matrices that start at the base's own directions, over a base that stays as it is.

Both methods take a part s·B0·A0 out of a weight W, freeze what is left, and train A and B from A0 and B0: PiSSA takes
the largest singular directions (Meng et al., 2024, arXiv:2404.02948), OLoRA the first ones of a QR decomposition
(Büyükakyüz, 2024, arXiv:2406.01775). W - s·B0·A0 + s·B·A is the same as W plus a LoRA of twice the rank, [A; A0] and
[B, -B0], of which one half is trained. That form is computed here. So the base keeps its bits in any precision, and
checkpoints and results are plain LoRA files for the plain base, as PEFT's conversion writes them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from backend.core.lanes import one_thread
from backend.core.quantized import dense_weight, is_packed
from backend.errors import ModelError


def doubled(settings: LoraConfig) -> LoraConfig:
    """Return ``settings`` for twice the rank and the same scales; ``settings`` is changed."""
    factor = math.sqrt(2) if settings.use_rslora else 2
    settings.r, settings.lora_alpha = 2 * settings.r, factor * settings.lora_alpha
    settings.rank_pattern = {key: 2 * rank for key, rank in settings.rank_pattern.items()}
    settings.alpha_pattern = {key: factor * alpha for key, alpha in settings.alpha_pattern.items()}
    return settings


@torch.no_grad()
def start_at_base(adapted: PeftModel, start: str) -> None:
    """Let the LoRA layers of ``adapted``, made with ``doubled`` settings, start as ``start`` says (pissa, olora …).

    The model computes what it did before. On the meta device the layers are only checked. Raises ModelError
    ``unusable-start`` for a layer that has no single matrix, or a smaller one than the rank.
    """
    for name, layer in adapted.named_modules():
        if not hasattr(layer, "lora_A") or not hasattr(layer, "r"):
            continue
        base, rank = layer.get_base_layer(), layer.r["default"] // 2
        if not (isinstance(layer, LoraLinear) or is_packed(base)):
            raise _unusable(start, name, "is no linear layer")
        if rank > min(layer.in_features, layer.out_features):
            raise _unusable(start, name, f"has only {min(layer.in_features, layer.out_features)} directions")
        if base.weight.is_meta:
            continue
        weight = dense_weight(base, torch.float32).float()
        with one_thread():  # the number of threads would decide the last bits
            a, b = _directions(weight.t() if isinstance(base, Conv1D) else weight, rank, start)
        if start != "olora":  # PiSSA takes the whole of these directions, whatever the scale
            root = math.sqrt(layer.scaling["default"])
            a, b = a / root, b / root
        layer.lora_A["default"], layer.lora_B["default"] = _Halves(a, 0, 1.0), _Halves(b, 1, -1.0)


def _directions(weight: Tensor, rank: int, start: str) -> tuple[Tensor, Tensor]:
    """Return A0 [rank, in] and B0 [out, rank] for ``weight`` [out, in]."""
    if start == "olora":
        q, r = torch.linalg.qr(weight)
        return r[:rank].contiguous(), q[:, :rank].contiguous()
    if start == "pissa":
        u, s, vh = torch.linalg.svd(weight, full_matrices=False)
        u, s, vh = u[:, :rank], s[:rank], vh[:rank]
    else:  # Halko et al., 2009, arXiv:0909.4061
        u, s, v = torch.svd_lowrank(weight, rank, niter=int(start.removeprefix("pissa_niter_")))
        vh = v.t()
    return s.sqrt()[:, None] * vh, u * s.sqrt()


class _Halves(nn.Module):
    """A LoRA matrix of twice the rank in the place of PEFT's: one half is trained, the other stays where both start.

    ``dim`` is that of the rank. In files it is one matrix called ``weight``.
    """

    bias = None

    def __init__(self, start: Tensor, dim: int, sign: float) -> None:
        super().__init__()
        self.trained = nn.Parameter(start.clone())
        self.register_buffer("start", sign * start)
        self._dim = dim

    @property
    def weight(self) -> Tensor:
        """Both halves as one matrix; a gradient reaches the trained one only."""
        return torch.cat([self.trained, self.get_buffer("start")], self._dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return x [..., n] times the matrix, transposed."""
        return F.linear(x, self.weight)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}weight"] = self.weight if keep_vars else self.weight.detach()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        *_, missing_keys, _, error_msgs = others
        name = f"{prefix}weight"
        if name not in state_dict:
            missing_keys.append(name)
        elif state_dict[name].shape != self.weight.shape:
            error_msgs.append(f"{name} has another shape: {tuple(state_dict[name].shape)}")
        else:
            trained, start = state_dict[name].chunk(2, self._dim)
            with torch.no_grad():
                self.trained.copy_(trained)
                self.get_buffer("start").copy_(start)


def _unusable(start: str, name: str, why: str) -> ModelError:
    return ModelError(
        f"tuning.init_lora_weights {start} cannot start {name.removeprefix('base_model.model.')}, which {why}.",
        remedy="Leave it out of tuning.lora_target_modules, lower tuning.lora_r, or leave init_lora_weights out.",
        code="unusable-start",
    )

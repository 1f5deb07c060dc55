"""How a model generates while it trains: by the engine where that is proved, else as transformers can."""

from __future__ import annotations

from weakref import WeakSet

from peft import PeftModel
from transformers import PreTrainedModel

from backend.core.device import ComputePlan
from backend.core.lanes import Lanes
from backend.inference.decode_proof import prove_decoding
from backend.inference.decoding import for_inference
from backend.inference.engines import add_engine_of_trained, engine_of
from backend.training.forward import ForwardPass
from backend.training.proof import moved

_known: WeakSet[PreTrainedModel | PeftModel] = WeakSet()
"""Models of which is known how they are decoded."""


def decoding_lanes(forward: ForwardPass, plan: ComputePlan) -> Lanes:
    """Return the lanes that decode: one of all threads for the engine, whose bits do not depend on their number."""
    engine = engine_of(forward.model)
    if engine is None or not engine.native:
        return Lanes(plan.lanes, plan.threads)
    return Lanes(1, plan.lanes * plan.threads)


def prove_generation(model: PreTrainedModel | PeftModel) -> None:
    """Find out how to decode a model that trains, once: by the engine where that agrees, else as transformers can.

    Raises ModelError ``cannot-generate`` if neither does.
    """
    if model in _known:
        return
    with for_inference(model), moved(model):
        without_engine = add_engine_of_trained(model)
    if without_engine:
        prove_decoding(model)
    _known.add(model)

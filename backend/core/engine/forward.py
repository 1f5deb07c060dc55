"""One pass of the model over the next tokens of several sequences: native, and its twin in plain torch."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_float, c_int64, c_void_p
from dataclasses import dataclass, fields
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from backend.core.engine.block import Block
from backend.core.engine.library import function
from backend.core.engine.matrix import Matrix, MatrixStruct, pointer
from backend.core.engine.norm import rms_norm_twin
from backend.core.engine.seat import Seat
from backend.core.engine.weights import LayerWeights, Weights

MOST_THREADS = 64
"""As in native/pool.h: every thread has scores of its own."""
_LOWERED = 3
"""As in native/forward.c: so many products have one input."""
_ACTIVATIONS = {"silu": 0, "gelu_tanh": 1}
_WORK = ("x", "normed", "queries", "keys", "values", "attended", "gated", "upped")


@dataclass(frozen=True)
class Reading:
    """The next ``tokens`` of the sequence in ``seat``; ``asks`` if the logits after the last of them are wanted."""

    seat: Seat
    tokens: Sequence[int]
    asks: bool = True


class LayerStruct(ctypes.Structure):
    """``layer`` of native/forward.c."""

    _fields_ = [
        *((name, MatrixStruct) for name in ("query", "key", "value", "output", "gate", "up", "down")),
        *((name, c_void_p) for name in ("input_norm", "attended_norm", "query_norm", "key_norm")),
        ("rotates", c_int64),
    ]


class ModelStruct(ctypes.Structure):
    """``model`` of native/forward.c."""

    _fields_ = [
        ("layers", c_void_p),
        *((name, c_int64) for name in ("depth", "hidden", "heads", "kv_heads", "head_width", "inner", "activation")),
        *((name, c_float) for name in ("eps", "attention_scale", "embedding_scale")),
        ("embedding", MatrixStruct),
        ("head", MatrixStruct),
        ("norm", c_void_p),
        ("rank", c_int64),
    ]  # fmt: skip


class BatchStruct(ctypes.Structure):
    """``batch`` of native/forward.c."""

    _fields_ = [
        ("count", c_int64),
        *((name, c_void_p) for name in ("tokens", "positions", "caches", "capacities", "cosines", "sines")),
        ("asked", c_int64),
        *((name, c_void_p) for name in ("asked_rows", "logits", *_WORK, "scores")),
        ("longest", c_int64),
        ("lowered", c_void_p),
    ]


class NativeModel:
    """``weights`` as C sees them; holds what it points to."""

    def __init__(self, block: Block, weights: Weights) -> None:
        layers = (LayerStruct * block.depth)()
        for made, layer, rotates in zip(layers, weights.layers, block.rotates, strict=True):
            for part in fields(LayerWeights):
                given = getattr(layer, part.name)
                setattr(made, part.name, given.struct if isinstance(given, Matrix) else pointer(given))
            made.rotates = rotates
        self._held = layers, weights
        sizes = (block.depth, block.hidden, block.heads, block.kv_heads, block.head_width, block.inner)
        self.struct = ModelStruct(
            ctypes.addressof(layers), *sizes, _ACTIVATIONS[block.activation],
            block.eps, block.attention_scale, block.embedding_scale,
            Matrix(weights.embedding).struct, weights.head.struct, pointer(weights.norm), weights.rank,
        )  # fmt: skip


def forward(
    block: Block,
    native_model: NativeModel,
    readings: Sequence[Reading],
    rotary: tuple[Tensor, Tensor],
    threads: int,
) -> Tensor:
    """Read all tokens of ``readings``; return the logits of those that ask, float32 [asking, V], in their order.

    Seats have room for their tokens and are lengthened. The bits of a row depend on its tokens alone: neither on the
    other rows, nor on the pieces in which its tokens are read, nor on ``threads``.
    """
    native = function("forward", c_void_p, c_void_p, c_int64)
    tokens = torch.tensor([token for reading in readings for token in reading.tokens], dtype=torch.int64)
    places = [
        (reading.seat, reading.seat.length + index)
        for reading in readings
        for index in range(len(reading.tokens))
    ]
    positions = torch.tensor([position for _, position in places], dtype=torch.int64)
    addresses = torch.tensor([seat.cache.data_ptr() for seat, _ in places], dtype=torch.int64)
    capacities = torch.tensor([seat.capacity for seat, _ in places], dtype=torch.int64)
    asked = _asked_rows(readings)
    longest = max((position + 1 for _, position in places), default=0)
    logits = torch.empty(len(asked), block.vocabulary)
    kv_width, inner = block.kv_heads * block.head_width, block.inner
    query_width = block.heads * block.head_width
    widths = (block.hidden, block.hidden, query_width, kv_width, kv_width, query_width, inner, inner)
    work = [torch.empty(len(tokens), width) for width in widths]
    scores = torch.empty(MOST_THREADS, longest)  # memory that no thread touches is never taken
    lowered = torch.empty(_LOWERED, len(tokens), native_model.struct.rank)
    cosines, sines = rotary
    given = (tokens, positions, addresses, capacities, cosines, sines)
    batch = BatchStruct(
        len(tokens), *map(pointer, given), len(asked), pointer(asked), pointer(logits),
        *map(pointer, work), pointer(scores), longest, pointer(lowered),
    )  # fmt: skip
    native(ctypes.addressof(native_model.struct), ctypes.addressof(batch), threads)
    _lengthen(readings)
    return logits


def forward_twin(
    block: Block,
    weights: Weights,
    readings: Sequence[Reading],
    rotary: tuple[Tensor, Tensor],
    compute: torch.dtype = torch.float32,
) -> Tensor:
    """``forward`` in plain torch; matrix products are computed in ``compute``, all else in float32.

    Large products make it the faster of the two for prompts, where this processor multiplies matrices in hardware.
    """
    tokens = torch.tensor([token for reading in readings for token in reading.tokens], dtype=torch.int64)
    counts = [len(reading.tokens) for reading in readings]
    starts = [reading.seat.length for reading in readings]
    spans = [slice(end - count, end) for count, end in zip(counts, accumulate(counts), strict=True)]
    positions = torch.cat([torch.arange(a, a + n) for a, n in zip(starts, counts, strict=True)])
    cosines, sines = (table[positions][:, None] for table in rotary)
    x = weights.embedding[tokens].float() * block.embedding_scale
    for depth, layer in enumerate(weights.layers):
        normed = rms_norm_twin(x, layer.input_norm, block.eps)
        queries, keys, values = (
            _linear(part, normed, compute).view(len(tokens), -1, block.head_width)
            for part in (layer.query, layer.key, layer.value)
        )
        if layer.query_norm is not None and layer.key_norm is not None:
            queries = rms_norm_twin(queries, layer.query_norm, block.eps)
            keys = rms_norm_twin(keys, layer.key_norm, block.eps)
        if block.rotates[depth]:
            queries, keys = (_rotated(part, cosines, sines) for part in (queries, keys))
        attended = [
            _attend(block, reading.seat.cache[depth], start, queries[rows], keys[rows], values[rows], compute)
            for reading, start, rows in zip(readings, starts, spans, strict=True)
        ]
        x = x + _linear(layer.output, torch.cat(attended), compute)
        normed = rms_norm_twin(x, layer.attended_norm, block.eps)
        gate = _linear(layer.gate, normed, compute)
        gated = F.silu(gate) if block.activation == "silu" else F.gelu(gate, approximate="tanh")
        x = x + _linear(layer.down, gated * _linear(layer.up, normed, compute), compute)
    last = rms_norm_twin(x[_asked_rows(readings)], weights.norm, block.eps)
    _lengthen(readings)
    return _linear(weights.head, last, compute)


def _linear(matrix: Matrix, x: Tensor, compute: torch.dtype) -> Tensor:
    weight = matrix.data if matrix.data.dtype == compute else matrix.dense().to(compute)
    y = F.linear(x.to(compute), weight).float()
    if matrix.adapter is not None:
        down, up = matrix.adapter
        y = y.addmm(x @ down.data.t(), up.data.t())
    return y if matrix.bias is None else y + matrix.bias


def _rotated(heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    left, right = heads.chunk(2, -1)
    return heads * cosines + torch.cat([-right, left], -1) * sines


def _attend(
    block: Block,
    cache: Tensor,
    start: int,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    compute: torch.dtype,
) -> Tensor:
    """Write keys and values into ``cache`` [2, kv heads, capacity, width] from ``start`` on; return what is attended.

    Queries [tokens, heads, width] see all tokens up to their own.
    """
    end = start + len(queries)
    cache[0, :, start:end], cache[1, :, start:end] = keys.transpose(0, 1), values.transpose(0, 1)
    mask = None
    if len(queries) > 1:
        mask = torch.ones(len(queries), end, dtype=torch.bool).tril(start)
    seen, told = (part[None, :, :end].to(compute) for part in (cache[0], cache[1]))
    attended = F.scaled_dot_product_attention(
        queries.transpose(0, 1)[None].to(compute), seen, told,
        attn_mask=mask, scale=block.attention_scale, enable_gqa=True,
    )  # fmt: skip
    return attended[0].transpose(0, 1).reshape(len(queries), -1).float()


def _asked_rows(readings: Sequence[Reading]) -> Tensor:
    """Return the numbers of the last rows of those readings that ask for logits."""
    rows, last = [], -1
    for reading in readings:
        last += len(reading.tokens)
        rows += [last] * reading.asks
    return torch.tensor(rows, dtype=torch.int64)


def _lengthen(readings: Sequence[Reading]) -> None:
    for reading in readings:
        reading.seat.length += len(reading.tokens)

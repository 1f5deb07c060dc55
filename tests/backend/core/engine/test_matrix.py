from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from backend.core.engine.matrix import Matrix, product, product_twin, quantised

SHAPES = [(1, 1), (4, 16), (5, 63), (9, 64), (33, 130), (64, 577)]


def _matrix(kind: str, rows: int, width: int, *, bias: bool = False) -> Matrix:
    weight, added = torch.randn(rows, width), torch.randn(rows) if bias else None
    if kind == "int8":
        return quantised(weight, added)
    return Matrix(weight.to(getattr(torch, kind)), None, added)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [0, 1, 2, 7, 13])
def test_kernel_and_twin_agree_with_torch(kind: str, shape: tuple[int, int], count: int) -> None:
    matrix, x = _matrix(kind, *shape, bias=count % 2 == 1), torch.randn(count, shape[1])
    expected = F.linear(
        x.double(), matrix.dense().double(), None if matrix.bias is None else matrix.bias.double()
    )
    for multiply in (product, product_twin):
        torch.testing.assert_close(multiply(matrix, x).double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8"])
def test_the_bits_of_a_row_do_not_depend_on_the_others(kind: str) -> None:
    matrix, x = _matrix(kind, 37, 100), torch.randn(17, 100)
    whole = product(matrix, x)
    for start, end in ((0, 1), (3, 5), (4, 10), (1, 17)):
        part = product(matrix, x[start:end].contiguous())
        torch.testing.assert_close(part, whole[start:end], rtol=1e-5, atol=1e-5)
    alone = torch.cat([product(matrix, row[None].contiguous()) for row in x])
    assert torch.equal(alone, whole)


def test_what_the_kernel_cannot_read_goes_to_the_twin() -> None:
    matrix, x = _matrix("float32", 6, 8), torch.randn(8, 3).t()
    torch.testing.assert_close(product(matrix, x), x @ matrix.data.t())
    turned = Matrix(matrix.data.t().contiguous().t())
    torch.testing.assert_close(product(turned, x.contiguous()), x @ matrix.data.t())


def test_another_width_is_refused() -> None:
    with pytest.raises(RuntimeError, match="shape"):
        product(_matrix("float32", 4, 8), torch.randn(2, 7))


def test_what_is_no_number_stays_in_its_row() -> None:
    x = torch.randn(3, 70)
    x[1, 69] = torch.nan
    y = product(_matrix("int8", 5, 70), x)
    assert y[1].isnan().all()
    assert y[[0, 2]].isfinite().all()


def test_eight_bits_are_off_by_half_a_step_of_their_group() -> None:
    weight = torch.randn(7, 200) * torch.logspace(-3, 2, 200)
    matrix = quantised(weight)
    assert matrix.data.dtype == torch.int8
    assert matrix.scale is not None
    assert matrix.scale.shape == (7, 4)
    step = matrix.scale.repeat_interleave(64, 1)[:, :200]
    assert ((matrix.dense() - weight).abs() <= step / 2 * 1.0001).all()
    assert matrix.bytes == 7 * 200 + 7 * 4 * 4


def test_a_row_of_zeros_stays_one() -> None:
    assert torch.equal(quantised(torch.zeros(2, 5)).dense(), torch.zeros(2, 5))

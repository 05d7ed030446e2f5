"""Float32 products by oneDNN: the numbers of every memory layout, and torch's own afterwards."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from peftkit import LoRA
from peftkit.bases import products
from peftkit.bases.devices import device_name
from peftkit.bases.products import fast_products, one_dnn_is_faster, product_library
from peftkit.run import run

pytestmark = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="torch was built without oneDNN"
)


@pytest.fixture(autouse=True)
def on_such_a_processor(monkeypatch):
    """Tests run oneDNN on every processor, and count its products."""
    monkeypatch.setattr(products, "one_dnn_is_faster", lambda: True)


@pytest.fixture
def called(monkeypatch) -> list[tuple[int, int, int]]:
    """Rows, inner size and columns of each product of oneDNN."""
    found: list[tuple[int, int, int]] = []
    one_dnn = products._one_dnn

    def counted(one: Tensor, two: Tensor, bias: Tensor | None) -> Tensor:
        found.append((*one.shape, two.shape[1]))
        return one_dnn(one, two, bias)

    monkeypatch.setattr(products, "_one_dnn", counted)
    return found


def layouts(rows: int, columns: int) -> Iterator[Tensor]:
    """Matrices of a shape that lie in memory in different ways."""
    torch.manual_seed(rows + columns)
    yield torch.randn(rows, columns)
    yield torch.randn(columns, rows).T
    yield torch.randn(rows, columns + 9)[:, 7 : 7 + columns]
    yield torch.randn(columns, rows + 3)[:, :rows].T
    yield torch.randn(rows, 2 * columns)[:, ::2]
    yield torch.randn(1, columns).expand(rows, columns)


@pytest.mark.parametrize(
    "shape",
    [(150, 128, 120), (900, 8, 300), (900, 300, 8), (8, 900, 300), (1, 1500, 1500), (40, 1, 60000)],
)
def test_every_layout_gives_the_numbers_of_float64(shape, called):
    rows, inner, columns = shape
    bias = torch.randn(2 * columns)[::2]
    for one, two in itertools.product(layouts(rows, inner), layouts(inner, columns)):
        wanted = one.double() @ two.double()
        size = one.double().abs() @ two.double().abs()  # rounding grows with it
        with fast_products():
            product, added = one @ two, torch.addmm(bias, one, two)
        assert ((product - wanted).abs() <= 2e-6 * size).all()
        assert ((added - wanted - bias).abs() <= 2e-6 * (size + bias.abs())).all()
    dense = [m for m in layouts(inner, columns) if m.is_contiguous() or m.T.is_contiguous()]
    assert len(called) == (2 * 6 * len(dense) if rows >= products.FEWEST_ROWS else 0)
    assert 2 <= len(dense) < 6  # oneDNN would take a thousand times as long for the others


def test_gradients_are_those_of_torch(called):
    torch.manual_seed(0)
    x = torch.randn(4, 64, 256, requires_grad=True)
    weight, bias = torch.randn(384, 256, requires_grad=True), torch.randn(384, requires_grad=True)
    toward = torch.randn(4, 64, 384)
    wanted = torch.autograd.grad((F.linear(x, weight, bias) * toward).sum(), (x, weight, bias))
    with fast_products():
        found = torch.autograd.grad((F.linear(x, weight, bias) * toward).sum(), (x, weight, bias))
    assert called == [(256, 256, 384), (256, 384, 256), (384, 256, 256)]
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=2e-4)


def test_other_numbers_are_left_to_torch(called):
    with fast_products():
        for dtype in (torch.bfloat16, torch.float64, torch.int64):
            assert (torch.ones(64, 384).to(dtype) @ torch.ones(384, 500).to(dtype))[0, 0] == 384
        assert (torch.ones(0, 384) @ torch.ones(384, 8000)).shape == (0, 8000)
        torch.testing.assert_close(
            torch.addmm(torch.ones(300, 400), torch.ones(300, 90), torch.ones(90, 400), alpha=2),
            torch.full((300, 400), 181.0),
        )
        with torch.autocast("cpu", torch.bfloat16):
            assert (torch.ones(300, 90) @ torch.ones(90, 400)).dtype == torch.bfloat16
        with pytest.raises(RuntimeError, match="cannot be multiplied"):
            torch.ones(1000, 30) @ torch.ones(40, 500)
    assert not called


def test_blocks_nest_and_give_torch_its_products_back(called):
    one, two = torch.ones(256, 128), torch.ones(128, 300)
    with fast_products():
        with fast_products():
            assert product_library() == "oneDNN"
            one @ two
        assert device_name(torch.device("cpu")).endswith(", oneDNN")
        one @ two
    assert product_library() == ""
    assert "oneDNN" not in device_name(torch.device("cpu"))
    one @ two
    assert len(called) == 2
    with pytest.raises(KeyError), fast_products():
        raise KeyError
    assert product_library() == ""


@pytest.mark.parametrize(
    ("vendor", "capability", "faster"),
    [
        ("AuthenticAMD", "AVX512", True),
        ("AuthenticAMD", "AVX2", False),
        ("GenuineIntel", "AVX512", False),
    ],
)
def test_the_processor_decides(vendor, capability, faster, tmp_path, monkeypatch):
    (file := tmp_path / "cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    assert one_dnn_is_faster(file) is faster
    assert not one_dnn_is_faster(tmp_path / "missing")


def test_a_run_multiplies_fast_and_records_it(tmp_path, make_recipe):
    done = run(make_recipe(max_steps=1, method=LoRA(r=2)), str(tmp_path / "r"))
    assert done.record.device.endswith(", oneDNN")
    assert product_library() == ""

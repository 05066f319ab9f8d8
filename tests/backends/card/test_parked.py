"""Storages that go to RAM and come back: on a CPU the same walk and the same copies as on a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from backends.base import Refused
from backends.card import parked
from backends.card.parked import Parked

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


class Model(torch.nn.Module):
    """Tied weights, a view, a buffer, a plain attribute, tensors in a list and in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(50, 16)
        self.head = torch.nn.Linear(16, 50, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("table", torch.randn(7, 3))
        self.plain = torch.randn(5)
        self.several = [torch.randn(4), {"deep": torch.randn(2, 2)}]
        self.view = self.embed.weight.detach()[3:5]

    def all(self) -> list[torch.Tensor]:
        return [self.embed.weight, self.head.weight, self.table, self.plain, self.view,
                self.several[0], self.several[1]["deep"]]  # type: ignore[index,list-item]  # fmt: skip


def emptied(tensor: torch.Tensor) -> bool:
    return tensor.untyped_storage().nbytes() == 0


def test_everything_comes_back_at_its_place_and_tied_weights_stay_tied() -> None:
    model = Model()
    before = [t.detach().clone() for t in model.all()]
    kept = Parked(model, device="cpu")
    assert kept.bytes == 4 * (50 * 16 + 21 + 5 + 4 + 4), "each storage once"
    assert all(emptied(t) for t in model.all())
    kept.restore()
    assert all(torch.equal(a, b) for a, b in zip(model.all(), before, strict=True))
    assert model.head.weight is model.embed.weight
    model.embed.weight.data[3, 0] = 42
    assert model.view[0, 0] == 42, "a view is still a view"
    assert not kept.pieces and not kept.storages


def test_what_lies_across_several_pieces_comes_back_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parked, "PIECE", 64)
    tensors = [torch.randint(0, 255, (n,), dtype=torch.uint8) for n in (1, 63, 64, 65, 200, 3)]
    before = [t.clone() for t in tensors]
    kept = Parked(tensors, device="cpu")
    assert len(kept.pieces) > 5 and all(emptied(t) for t in tensors)
    kept.restore()
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))


@pytest.mark.parametrize("quantisation", ["nf4", "int8"])
def test_quantised_weights_take_their_tables_with_them(quantisation: str) -> None:
    import bitsandbytes as bnb

    torch.manual_seed(0)
    if quantisation == "nf4":
        layer: Any = bnb.nn.Linear4bit(
            128, 128, bias=False, compute_dtype=torch.float32, quant_type="nf4",
            compress_statistics=True,
        )  # fmt: skip
    else:
        layer = bnb.nn.Linear8bitLt(128, 128, bias=False, has_fp16_weights=False)
    layer = layer.to("cpu") if quantisation == "nf4" else layer.half().to("cpu")
    sound = torch.randn(3, 128)
    layer(sound)
    before = layer(sound)
    tables = [layer.weight.data]
    if quantisation == "nf4":
        state = layer.weight.quant_state
        tables += [state.absmax, state.code, state.state2.absmax, state.state2.code]
    else:
        tables += [layer.state.SCB]
    kept = Parked(layer, device="cpu")
    assert all(emptied(t) for t in tables)
    kept.restore()
    assert torch.equal(layer(sound), before)


def test_where_ram_is_short_nothing_has_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model()

    def full(*args: Any, **more: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(Parked, "_piece", full)
    with pytest.raises(Refused, match="not enough memory in the computer"):
        Parked(model, device="cpu")
    assert not any(emptied(t) for t in model.all())
    monkeypatch.undo()
    monkeypatch.setattr(parked, "SPARE_BYTES", 2**60)
    with pytest.raises(Refused, match="not enough memory in the computer"):
        Parked(model, device="cpu")
    assert not any(emptied(t) for t in model.all())


def test_where_the_gpu_is_short_all_of_it_stays_parked_and_comes_back_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Model()
    before = [t.detach().clone() for t in model.all()]
    kept = Parked(model, device="cpu")

    def full(back: bool) -> None:
        kept.storages[0].fill_(1)  # half-way
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(kept, "_copy_all", full)
        with pytest.raises(Refused, match="GPU has not enough memory left"):
            kept.restore()
    assert all(emptied(t) for t in model.all())
    kept.restore()
    assert all(torch.equal(a, b) for a, b in zip(model.all(), before, strict=True))


def test_other_devices_are_left_alone() -> None:
    model = Model()
    kept = Parked(model, device="cuda")  # there is none of it there
    assert kept.bytes == 0 and not any(emptied(t) for t in model.all())

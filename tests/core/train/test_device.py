"""What a member computes on, and in which precision."""

from types import SimpleNamespace
from uuid import UUID

import psutil
import pytest
import torch

from legion.config import ClusterConfig
from legion.train import device
from legion.train.device import (
    autocast,
    best_device,
    card_problem,
    card_uuid,
    describe,
    multiplies_bf16,
    peak_rss_bytes,
)

CPU = torch.device("cpu")


def product(config: ClusterConfig) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(64, 64, generator=generator), torch.randn(64, 64, generator=generator)
    with autocast(config, CPU):
        return a @ b


def test_the_device_at_hand_is_described() -> None:
    found = best_device()
    described = describe(found)
    assert described.kind == found.type
    assert described.memory_bytes > 0
    assert described.name
    assert describe(CPU).memory_bytes == psutil.virtual_memory().total


def test_only_what_may_be_used_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (torch.backends.mps, torch.xpu, torch.cuda):
        monkeypatch.setattr(kind, "is_available", lambda: True)
    assert best_device().type == best_device(("cuda",)).type == "cuda"
    assert (best_device(("mps",)).type, best_device(("xpu",)).type) == ("mps", "xpu")
    assert best_device(()).type == "cpu"
    assert card_problem() is card_problem(()) is card_problem(("mps",)) is None


def test_why_no_card_is_chosen_is_told_where_one_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (torch.backends.mps, torch.xpu, torch.cuda):
        monkeypatch.setattr(kind, "is_available", lambda: False)
    assert card_problem(()) is None
    assert "finds no MPS device" in str(card_problem(("mps",)))
    monkeypatch.setattr(device, "cuda_problem", lambda: "too old")
    assert card_problem() == card_problem(("cuda",)) == "too old"


def test_only_a_card_of_nvidias_has_the_name_that_its_driver_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    card, properties = torch.device("cuda"), SimpleNamespace(uuid=UUID(int=7))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(torch.version, "hip", None)
    assert card_uuid(card) == "GPU-00000000-0000-0000-0000-000000000007"
    assert card_uuid(CPU) is card_uuid(torch.device("mps")) is None
    monkeypatch.setattr(torch.version, "hip", "6.2")
    assert card_uuid(card) is None


def test_precision_is_what_the_run_says() -> None:
    assert product(ClusterConfig(precision="fp32")).dtype is torch.float32
    assert product(ClusterConfig(precision="bf16")).dtype is torch.bfloat16


@pytest.mark.parametrize("native", [True, False])
def test_auto_is_bf16_where_it_is_native(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    monkeypatch.setattr(device, "multiplies_bf16", lambda _: native)
    assert product(ClusterConfig(precision="auto")).dtype is (torch.bfloat16 if native else torch.float32)


def test_a_cpu_is_asked_what_it_can() -> None:
    assert multiplies_bf16(CPU) == torch.cpu._is_amx_tile_supported()


def test_casts_of_weights_are_not_kept() -> None:
    """A cached bf16 copy of every weight would survive its unit's release."""
    weight, used = torch.nn.Parameter(torch.ones(8, 8)), torch.ones(8, 8)
    with autocast(ClusterConfig(precision="bf16"), CPU):
        assert not torch.is_autocast_cache_enabled()
        before = used @ weight
        with torch.no_grad():
            weight.fill_(2.0)
        after = used @ weight
    assert (after == 2 * before).all()


def test_peak_memory_only_grows_and_sees_an_allocation() -> None:
    before = peak_rss_bytes()
    assert before >= psutil.Process().memory_info().rss * 0.5
    block = torch.ones((before + (64 << 20)) // 4)
    assert peak_rss_bytes() >= before + (32 << 20)
    del block
    assert peak_rss_bytes() >= before + (32 << 20)

"""Large models give memory back, small ones keep it."""

from legion.config import ModelConfig
from legion_client.agent import allocator


def test_only_large_models_change_the_allocator() -> None:
    assert allocator.variables(ModelConfig(preset="tiny")) == {}
    assert "MALLOC_MMAP_THRESHOLD_" in allocator.variables(ModelConfig(preset="gpt2"))
    assert "MALLOC_MMAP_THRESHOLD_" in allocator.variables(ModelConfig(preset="llama-1b"))

"""Large models give memory back, small ones keep it."""

from legion.config import ModelConfig
from legion_client.agent import allocator


def test_only_large_models_give_memory_back_at_once() -> None:
    assert allocator.variables(ModelConfig(preset="tiny")) == {"THP_MEM_ALLOC_ENABLE": "1"}
    assert "MALLOC_MMAP_THRESHOLD_" in allocator.variables(ModelConfig(preset="gpt2"))
    assert "MALLOC_MMAP_THRESHOLD_" in allocator.variables(ModelConfig(preset="llama-1b"))

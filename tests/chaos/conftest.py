"""Real programs for what befalls a run: engines as the engine's tests have them."""

from tests.client.engine.conftest import engines, text_data

__all__ = ["engines", "text_data"]

"""Real programs for what befalls a run: engines as the engine's tests have them, servers and clients as e2e has."""

from tests.client.engine.conftest import engines, text_data
from tests.e2e.conftest import run

__all__ = ["engines", "run", "text_data"]

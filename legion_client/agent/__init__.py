"""What this computer does, decided and carried out; for as long as the program runs, and so in little memory."""

import sys
from types import ModuleType

# httpx imports its own command line, and with that rich, pygments and click: 5 MB that no agent needs. An entry of None
# is an ImportError to it, as on computers that do not have them.
_modules: dict[str, ModuleType | None] = sys.modules  # type: ignore[assignment]
_modules.setdefault("httpx._main", None)

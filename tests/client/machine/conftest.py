"""Where there is D-Bus, the fixtures that need it; elsewhere the tests that use them are not collected."""

import sys

if sys.platform == "linux":
    from tests.client.machine.linux_fixtures import message_bus, screen, serve, window_manager

    __all__ = ["message_bus", "screen", "serve", "window_manager"]
else:
    collect_ignore = [f"test_{name}.py" for name in ("bus", "idle_linux", "notices", "sensors", "x11")]

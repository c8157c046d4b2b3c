"""A tray as KDE's protocol has it: StatusNotifierWatcher and host, scripted, on a bus of its own."""

from tests.client.machine.fake_service import FakeService, Values

WATCHER = "org.kde.StatusNotifierWatcher"
REGISTERED = f"{WATCHER}.RegisterStatusNotifierItem"
INTERFACE = f"""<node><interface name="{WATCHER}">
<method name="RegisterStatusNotifierItem"><arg direction="in" type="s"/></method>
<property name="IsStatusNotifierHostRegistered" type="b" access="read"/>
</interface></node>"""


def fake_tray(socket: str) -> FakeService:
    """`REGISTERED in asked` once an icon is in it."""
    service = FakeService(socket, WATCHER).method("RegisterStatusNotifierItem", Values("", ()))
    service.property(WATCHER, "IsStatusNotifierHostRegistered", "b", True)
    return service.on("org.freedesktop.DBus.Introspectable", "Introspect", Values("s", (INTERFACE,)))

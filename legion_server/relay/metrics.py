"""What a relay has counted, as Prometheus asks for it; for this machine alone, over plain HTTP on the relay's port."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from legion_server.relay.routes import Routes

REQUEST = b"GET /metrics "
HEAD = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n"


class _Counted:
    def __init__(self, routes: Routes, carried_bytes: int) -> None:
        self._routes = routes
        self._carried_bytes = carried_bytes

    def collect(self) -> Iterator[Metric]:
        routes = self._routes
        yield GaugeMetricFamily("legion_relay_workers", "Workers that are registered", len(routes.seats))
        yield GaugeMetricFamily("legion_relay_sessions", "Connections between workers", routes.sessions.total())
        yield GaugeMetricFamily("legion_relay_waiting", "Callers whose worker has not answered yet", len(routes.calls))
        yield CounterMetricFamily("legion_relay_carried_bytes", "Both directions together", self._carried_bytes)
        yield CounterMetricFamily(
            "legion_relay_doubled", "Registrations that took the place of another program's", routes.doubled_count
        )
        refusals = CounterMetricFamily("legion_relay_refusals", "Connections that were refused", labels=["why"])
        for why, count in sorted(routes.refusals.items()):
            refusals.add_metric([why], count)
        yield refusals


def answer(routes: Routes, carried_bytes: int) -> bytes:
    """To an HTTP request."""
    registry = CollectorRegistry()
    registry.register(_Counted(routes, carried_bytes))
    body = generate_latest(registry)
    return HEAD.format(len(body)).encode() + body

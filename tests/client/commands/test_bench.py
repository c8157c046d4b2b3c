"""A real engine trains for a moment, and what it says of itself becomes a figure."""

from tests.client.commands.conftest import Client


def test_a_short_run_is_measured(client: Client) -> None:
    told = client.json("bench", "--seconds", "0.1")
    assert told["preset"] == "tiny"
    assert told["steps"] >= 1
    assert told["measured_s"] >= 0.1
    assert told["tokens_per_s"] > 0
    assert told["peak_rss_bytes"] > 1e8
    assert told["device"]
    assert not client.home.exists()

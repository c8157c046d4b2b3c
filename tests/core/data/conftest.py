"""What the data tests share."""

from collections.abc import Iterator
from functools import partial
from http.server import ThreadingHTTPServer
from threading import Thread

import huggingface_hub.constants
import pytest
from huggingface_hub import HfFileSystem

from tests.core.data.fake_hub import FakeHub, Handler


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """The hub that huggingface_hub speaks to during the test; empty at first."""
    fake = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, fake))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    monkeypatch.setattr(
        huggingface_hub.constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        url + "/{repo_id}/resolve/{revision}/{filename}",
    )
    yield fake
    HfFileSystem.clear_instance_cache()
    huggingface_hub.close_session()
    server.shutdown()
    server.server_close()
    thread.join()

"""How soon pages are painted in headless Chromium over loopback: first paint and first contentful paint, by page.

    PYTHONPATH=tests/server/web python benchmarks/pages.py [--loads 20]

Starts a server of its own with an empty run. Each page is loaded with an empty cache, and again with what the browser
has kept. Goal: first paint within 200 ms.
"""

import argparse
import asyncio
import statistics
import tempfile
from pathlib import Path

import uvicorn
from chromium import Tab, chromium

from legion_server.app import create_app
from legion_server.settings import Settings
from legion_server.transport import listen

PAGES = ("/", "/leaderboard", "/teams", "/join", "/status", "/sign-in")
PAINT = """new Promise(done => {
  const found = () => performance.getEntriesByName('first-contentful-paint')[0];
  const look = () => found() ? done(found().startTime) : requestAnimationFrame(look);
  look();
})"""


async def measure(tab: Tab, url: str, loads: int, *, cached: bool) -> list[float]:
    """First contentful paint of each load, in ms since its navigation began."""
    await tab.call("Network.setCacheDisabled", cacheDisabled=not cached)
    times = []
    for _ in range(loads):
        await tab.open(url)
        times.append(await tab.evaluate(PAINT))
    return sorted(times)


async def main(loads: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        app = create_app(Settings(data_dir=Path(scratch) / "server", host="127.0.0.1"))
        async with app.router.lifespan_context(app), chromium(Path(scratch) / "profile") as tab:
            listener = listen("127.0.0.1", 0)
            server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="error", ws="websockets-sansio"))
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            site = f"http://127.0.0.1:{listener.getsockname()[1]}"
            await tab.open(site)  # the first page of a process warms both
            print(
                f"{'page':14} {'cache':6} {'median ms':>10} {'worst ms':>9}   (first contentful paint, {loads} loads)"
            )
            for page in PAGES:
                for cached in (False, True):
                    times = await measure(tab, site + page, loads, cached=cached)
                    kept = "kept" if cached else "empty"
                    print(f"{page:14} {kept:6} {statistics.median(times):10.0f} {times[-1]:9.0f}", flush=True)
            server.should_exit = server.force_exit = True
            await serving


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loads", type=int, default=20)
    asyncio.run(main(parser.parse_args().loads))

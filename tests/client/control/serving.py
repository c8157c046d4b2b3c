"""A process that holds a home's control socket with a small desk, until it is asked to quit: python serving.py HOME"""

import asyncio
import sys
from pathlib import Path

from legion_client.control.server import serve
from legion_client.paths import Home

sys.path.insert(0, str(Path(__file__).parent))
from front_desk import FrontDesk


async def main() -> None:
    desk = FrontDesk(has_window="window" in sys.argv[2:])
    async with serve(Home(Path(sys.argv[1])), desk, loopback="loopback" in sys.argv[2:]):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await desk.ended.wait()


asyncio.run(main())

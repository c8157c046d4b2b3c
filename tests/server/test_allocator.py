"""Memory that a server's threads have freed."""

import subprocess
import sys

import pytest

from legion_server.allocator import ARENAS

# Eight threads allocate at the same time, and free it; glibc prints its arenas as XML.
PROGRAM = """
import ctypes, sys, threading
from legion_server import allocator

libc = ctypes.CDLL(None)
told = allocator.give_back() if sys.argv[1] == "told" else False
together = threading.Barrier(8)

def work():
    together.wait()
    for _ in range(20):
        kept = [bytes(100_000) for _ in range(100)]
        together.wait()

threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(told, flush=True)
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_threads_share_few_arenas() -> None:
    arenas = {}
    for how in ("told", "untold"):
        output = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True).stdout
        assert output.startswith(str(how == "told"))
        arenas[how] = output.count("<heap nr=")
    assert arenas["told"] <= ARENAS < arenas["untold"]

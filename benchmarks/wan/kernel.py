"""What Python has no call for: network namespaces of threads, TUN devices, and children that end with their parent.

Standard library only: the peers of other projects import it too.
"""

import ctypes
import fcntl
import os
import signal
import struct

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1
_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_CHECKSUMS, _TCP_V4 = 0x01, 0x02

VNET_HEADER_BYTES = 10  # before every packet


def _require(code: int) -> None:
    if code:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def leave_network() -> int:
    """The calling thread gets a namespace of its own; a descriptor of it. It ends when nobody is in it or holds it."""
    _require(_libc.unshare(_CLONE_NEWNET))
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY)


def enter_network(descriptor: int) -> None:
    """For the calling thread and the threads and processes that it starts from now on."""
    _require(_libc.setns(descriptor, _CLONE_NEWNET))


def end_with_parent() -> None:
    """SIGKILL when the thread that started us ends, whatever ended it."""
    _require(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))


def open_tun(name: str) -> int:
    """A non-blocking TUN in the thread's namespace that takes TCP segments in batches of up to 64 KiB.

    The kernel gives and takes them whole, so that a hub in Python keeps up with hundreds of Mbit/s at any MTU.
    """
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    flags = _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    fcntl.ioctl(descriptor, _TUNSETOFFLOAD, _CHECKSUMS | _TCP_V4)
    return descriptor

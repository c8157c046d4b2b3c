"""A command in a network namespace.

python enter.py NAMESPACE COMMAND [ARGUMENT ...]    (NAMESPACE: a path that can be opened, such as /proc/PID/fd/N)
"""

import os
import sys

from kernel import enter_network

if __name__ == "__main__":
    namespace = os.open(sys.argv[1], os.O_RDONLY | os.O_CLOEXEC)
    enter_network(namespace)
    os.execvp(sys.argv[2], sys.argv[2:])

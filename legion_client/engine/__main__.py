"""python -m legion_client.engine: see `main`."""

import sys

from legion_client.engine.main import main

if __name__ == "__main__":
    sys.exit(main())

"""`python -m legion_server`: the same as the script `legion-server`."""

from legion_server.cli import main

if __name__ == "__main__":
    main()

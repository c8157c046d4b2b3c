"""`python -m legion_client`: the same as the script `legion-client`."""

from legion_client.cli import main

if __name__ == "__main__":
    main()

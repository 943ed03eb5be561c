"""`python -m aioray` is the command `aioray`."""

from aioray.cli import main

if __name__ == "__main__":
    main()

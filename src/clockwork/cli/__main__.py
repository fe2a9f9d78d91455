"""Runs the command line, so that ``python -m clockwork.cli`` does the same as ``clockwork``."""

from clockwork.cli import main

if __name__ == "__main__":
    main()

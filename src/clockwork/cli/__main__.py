"""Makes ``python -m clockwork.cli`` the same as ``clockwork``."""

from clockwork.cli import main

if __name__ == "__main__":
    main()

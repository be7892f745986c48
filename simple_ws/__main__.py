"""`python -m simple_ws`."""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())

"""The command line, `simple-ws` and `python -m simple_ws`."""

from .main import main

__all__ = ["main"]

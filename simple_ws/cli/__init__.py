"""The command line, `simple-ws` and `python -m simple_ws`."""

from ..older_package import refuse_older

refuse_older()  # before what needs the rest of the package

from .main import main  # noqa: E402

__all__ = ["main"]

"""Arguments about the process that serves: restarts, variables, and what it logs."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from . import env_file
from .values import UsageError

__all__ = ["add_process", "set_up_process"]

#: As in most programs, from the most to the least that is logged.
_LOG_LEVELS = ("debug", "info", "warning", "error", "critical")


def add_process(parser: argparse.ArgumentParser) -> None:
    """Add the arguments to a command."""
    parser.add_argument(
        "--reload", action="store_true", help="restart when a source file changes"
    )
    parser.add_argument(
        "--env-file",
        type=Path,
        metavar="FILE",
        help="set the variables in this file (NAME=value), unless they are set already",
    )
    parser.add_argument(
        "--log-level", choices=_LOG_LEVELS, help="log this and worse; default: info"
    )


def set_up_process(options: argparse.Namespace) -> None:
    """Do what `--log-level` and `--env-file` say.

    Raises:
        UsageError: `--verbose` is given besides a level, or the file is wrong.
    """
    if options.log_level is not None:
        if options.verbose:
            raise UsageError("either --verbose or --log-level")
        logging.getLogger().setLevel(options.log_level.upper())
    if options.env_file is not None:
        env_file.load(options.env_file)

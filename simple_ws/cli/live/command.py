"""The command `live`: its arguments, and the log."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path
from typing import Any

from ..running import run_server
from ..values import UsageError, count, port
from .files import read_file
from .reader import Settings, read_settings
from .site import build

__all__ = ["add_live"]

_LOG = logging.getLogger("simple_ws")
_LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
    "none": logging.CRITICAL + 1,
}
_INSECURE = {
    "client.insecure": "all clients may do everything",
    "http_api.insecure": "whoever reaches the server may call its API",
}


def add_live(commands: Any) -> None:
    """Add the command to a parser."""
    live = commands.add_parser(
        "live",
        help="serve SDKs of Centrifugo, with a configuration file of its",
        description="Serve SDKs of Centrifugo, as a configuration file of Centrifugo "
        "says. Variables of the environment such as CENTRIFUGO_CLIENT_INSECURE "
        "override it, and arguments override these.",
        epilog="example: simple-ws live --config config.json --port 8000",
    )
    live.add_argument(
        "-c",
        "--config",
        type=Path,
        metavar="FILE",
        help="JSON, TOML, or YAML if PyYAML is installed; default: none",
    )
    live.add_argument(
        "--host", help="address to listen on; default: that of the file, or all"
    )
    live.add_argument(
        "-p",
        "--port",
        type=port,
        help="default: that of the file, or 8000; 0 picks a free one",
    )
    live.add_argument(
        "--workers", type=count, metavar="N", default=1, help="processes; default: 1"
    )
    live.add_argument(
        "--check", action="store_true", help="only check the configuration"
    )
    live.set_defaults(run=_live)


def _live(options: argparse.Namespace) -> int:
    tree = {} if options.config is None else read_file(options.config)
    arguments = {
        "http_server.address": options.host,
        "http_server.port": options.port,
    }
    try:
        settings = read_settings(tree, os.environ, arguments)
    except UsageError as error:
        raise UsageError(f"{options.config or 'configuration'}: {error}") from None
    _set_log(settings, options.verbose)
    for warning in settings.warnings:
        _LOG.warning("%s", warning)
    for key, text in _INSECURE.items():
        if settings[key]:
            _LOG.warning("%s is on: %s", key, text)
    server = build(settings, workers=options.workers)
    return 0 if options.check else run_server(server)


def _set_log(settings: Settings, verbose: bool) -> None:
    root = logging.getLogger()
    if not verbose:
        root.setLevel(_LEVELS[settings["log.level"]])
    if settings["log.file"]:
        try:
            handler = logging.FileHandler(settings["log.file"])
        except OSError as error:
            raise UsageError(f"log.file: {error}") from None
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        root.handlers[:] = [handler]

"""`--env-file`: variables of the environment, a line each, as Docker and systemd do."""

from __future__ import annotations

import os
import re
from pathlib import Path

from .values import UsageError

__all__ = ["load", "parse"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def load(file: Path) -> None:
    """Set the variables of a file that the environment does not have.

    Raises:
        UsageError: The file cannot be read, or a line of it is malformed.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--env-file {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"--env-file {file}: it is not UTF-8") from None
    for name, value in parse(text, str(file)).items():
        os.environ.setdefault(name, value)


def parse(text: str, source: str) -> dict[str, str]:
    """Names and values of lines such as `NAME=value`, `export NAME="a value"`.

    Empty lines, and those that begin with #, are skipped. A value may be in quotes of
    either kind, which are taken off; nothing in it is replaced. Later lines win.

    Args:
        text: the lines.
        source: their file, for errors.

    Raises:
        UsageError: A line is malformed. Its value is not shown.
    """
    values = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.removeprefix("export ").partition("=")
        name, value = name.strip(), value.strip()
        if not equals or not _NAME.fullmatch(name):
            raise UsageError(f"{source}:{number}: expected NAME=value")
        values[name] = _unquoted(value, f"{source}:{number}: {name}")
    return values


def _unquoted(value: str, where: str) -> str:
    if value[:1] not in ('"', "'"):
        return value
    if len(value) < 2 or value[-1] != value[0] or value[0] in value[1:-1]:
        raise UsageError(f"{where}: the quotes do not match")
    return value[1:-1]

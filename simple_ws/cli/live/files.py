"""Reads a configuration file: JSON, TOML, or YAML if PyYAML is installed."""

from __future__ import annotations

import importlib
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..values import UsageError

__all__ = ["read_file"]


def read_file(path: Path) -> dict[str, Any]:
    """Read a configuration file; its name says in which form it is.

    Raises:
        UsageError: It is not there, cannot be read, or is not in this form.
    """
    read = _FORMS.get(path.suffix.lower())
    if read is None:
        raise UsageError(f"{path}: the name must end with {', '.join(_FORMS)}")
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8") from None
    try:
        tree = read(text)
    except UsageError:
        raise
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: {error}") from None
    if tree is None:  # an empty YAML file
        return {}
    if not isinstance(tree, dict):
        raise UsageError(f"{path} must have keys and values at the top")
    return tree


def _read_json(text: str) -> Any:
    return json.loads(text) if text.strip() else {}


def _read_yaml(text: str) -> Any:
    try:
        yaml = importlib.import_module("yaml")
    except ModuleNotFoundError:
        raise UsageError(
            "reading YAML needs PyYAML: pip install pyyaml, or use JSON or TOML"
        ) from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


_FORMS: dict[str, Callable[[str], Any]] = {
    ".json": _read_json,
    ".toml": tomllib.loads,
    ".yaml": _read_yaml,
    ".yml": _read_yaml,
}

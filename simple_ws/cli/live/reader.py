"""`read_settings`: a tree of keys and the environment, checked against `keys`.

The environment overrides the file, as in Centrifugo. What is not honoured is named in
one warning each, and what is wrong in an error.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..values import UsageError
from .keys import CHANNEL_KEYS, KEYS, V5_NAMES, ChannelOptions, Key

__all__ = ["Settings", "read_settings"]

_ENV = "CENTRIFUGO_"
_NAMESPACES = "channel.namespaces"
_NAME = re.compile(r"[-a-zA-Z0-9_.]{2,}")
#: The beginnings of the paths of all keys: groups of keys.
_GROUPS = {
    ".".join(parts[:length])
    for parts in (path.split(".") for path in (*KEYS, _NAMESPACES))
    for length in range(1, len(parts))
}
_OPTIONS = "channel.without_namespace."


@dataclass(frozen=True)
class Settings:
    """A configuration that was read.

    Attributes:
        values: by the path of each key of `KEYS`; those that were not given have their
            defaults.
        without_namespace: the options of channels without a namespace.
        namespaces: those of the others, by the name of the namespace.
        warnings: what is not honoured, one sentence each.
    """

    values: dict[str, Any]
    without_namespace: ChannelOptions
    namespaces: dict[str, ChannelOptions]
    warnings: tuple[str, ...]

    def __getitem__(self, path: str) -> Any:
        return self.values[path]


def read_settings(
    tree: Mapping[str, Any],
    environment: Mapping[str, str] | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Settings:
    """Check a configuration.

    Args:
        tree: as a file has it; the names of Centrifugo 6, or those of 5 that mean the
            same.
        environment: variables that begin with `CENTRIFUGO_` mean keys; others are
            passed over.
        arguments: values by their paths, that override all others.

    Raises:
        UsageError: A value is not allowed; the text names its key, the value unless it
            is secret, and what is allowed.
    """
    reader = _Reader(environment or {})
    reader.take_tree(tree)
    reader.take_environment()
    reader.take_arguments(arguments or {})
    return reader.settings()


class _Reader:
    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = {
            name: value
            for name, value in environment.items()
            if name.startswith(_ENV) and value
        }
        self._values: dict[str, Any] = {}
        self._namespaces: dict[str, dict[str, Any]] = {}
        self._warnings: list[str] = []

    # Files

    def take_tree(self, tree: Mapping[str, Any]) -> None:
        """Take the keys of a file."""
        for name, value in tree.items():
            path = V5_NAMES.get(name)
            # Some names are a value in 5, and a group of keys in 6.
            if path is not None and not isinstance(value, dict):
                self._take(path, name, value)
            else:
                self._walk(str(name), value)

    def _walk(self, path: str, value: Any) -> None:
        if path in KEYS or path == _NAMESPACES:
            self._take(path, path, value)
        elif path not in _GROUPS:
            self._pass_over(path, value, [*KEYS, *V5_NAMES])
        elif isinstance(value, dict):
            for name, below in value.items():
                self._walk(f"{path}.{name}", below)
        elif value is not None:
            # What stands there may be a secret.
            kind = type(value).__name__
            raise UsageError(f"{path} must be a group of keys, not {kind}")

    def _take(self, path: str, name: str, value: Any) -> None:
        if value is None:
            return
        if path == _NAMESPACES:
            self._take_namespaces(name, value)
        else:
            self._values[path] = _read(KEYS[path], name, value)

    def _take_namespaces(self, name: str, value: Any) -> None:
        if not isinstance(value, list) or not all(isinstance(n, dict) for n in value):
            raise _wrong(name, value, "a list of groups of keys, each with a name")
        self._namespaces = {}
        for number, given in enumerate(value):
            namespace = self._add_namespace(f"{name}[{number}].name", given.get("name"))
            for key, option in given.items():
                place = f"{name}[{number}].{key}"
                if key in CHANNEL_KEYS and option is not None:
                    namespace[key] = _read(CHANNEL_KEYS[key], place, option)
                elif key not in CHANNEL_KEYS and key != "name":
                    self._pass_over(place, option, CHANNEL_KEYS)

    def _add_namespace(self, place: str, name: Any) -> dict[str, Any]:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            wanted = "2 or more letters, digits, '-', '_' or '.'"
            raise _wrong(place, name, wanted)
        if name in self._namespaces:
            raise UsageError(f"{place}: there is a namespace {name!r} already")
        return self._namespaces.setdefault(name, {})

    def _pass_over(self, path: str, value: Any, known: Any) -> None:
        if not _is_on(value):
            return  # we have it not, and it is not wanted
        key = re.sub(r".*\]\.", "", path)
        near = difflib.get_close_matches(key, known, 1, 0.85)
        hint = f" (did you mean {near[0]}?)" if near else ""
        self._warnings.append(f"{path} is not supported and was ignored{hint}")

    # The environment

    def take_environment(self) -> None:
        """Take the variables of the environment; those of 6 override those of 5."""
        for name, path in V5_NAMES.items():
            self._take_variable(path, _variable(name))
        for path in KEYS:
            self._take_variable(path, _variable(path))
        self._take_variable(_NAMESPACES, _variable(_NAMESPACES))
        for namespace, options in self._namespaces.items():
            for key in CHANNEL_KEYS:
                variable = f"{_variable(_NAMESPACES)}_{_upper(namespace)}_{_upper(key)}"
                value = self._environment.pop(variable, None)
                if value is not None:
                    options[key] = _read(CHANNEL_KEYS[key], variable, value)
        for variable, value in self._environment.items():
            if _is_on(value):
                text = "is not supported and was ignored"
                self._warnings.append(f"the environment variable {variable} {text}")

    def _take_variable(self, path: str, variable: str) -> None:
        value: Any = self._environment.pop(variable, None)
        if value is not None and path == _NAMESPACES:
            self._take(path, variable, _namespaces(variable, value))
        elif value is not None:
            self._take(path, variable, value)

    def take_arguments(self, arguments: Mapping[str, Any]) -> None:
        """Take values by their paths."""
        for path, value in arguments.items():
            self._take(path, path, value)

    # All of it

    def settings(self) -> Settings:
        """What was read.

        Raises:
            UsageError: Values do not go together.
        """
        values = {path: key.default for path, key in KEYS.items()} | self._values
        options = {name: values[f"{_OPTIONS}{name}"] for name in CHANNEL_KEYS}
        settings = Settings(
            values,
            _options(_OPTIONS.rstrip("."), options),
            {
                name: _options(f"the namespace {name!r}", given)
                for name, given in self._namespaces.items()
            },
            tuple(self._warnings),
        )
        _check(settings)
        return settings


def _options(place: str, given: dict[str, Any]) -> ChannelOptions:
    options = ChannelOptions(**given)
    if bool(options.history_size) != bool(options.history_ttl):
        raise UsageError(f"{place}: history needs history_size and history_ttl, both")
    for name in ("force_recovery", "force_positioning"):
        if getattr(options, name) and not options.history_size:
            raise UsageError(f"{place}: {name} needs history_size and history_ttl")
    try:
        re.compile(options.channel_regex)
    except re.error as error:
        raise UsageError(f"{place}: channel_regex is malformed: {error}") from None
    return options


def _check(settings: Settings) -> None:
    interval, timeout = (
        settings["client.ping_interval"],
        settings["client.pong_timeout"],
    )
    if not 0 < timeout < interval:
        raise UsageError(
            f"client.pong_timeout must be more than 0 and less than "
            f"client.ping_interval, not {timeout:g} s and {interval:g} s"
        )
    personal = "client.subscribe_to_user_personal_channel"
    namespace = settings[f"{personal}.personal_channel_namespace"]
    wanted = settings[f"{personal}.enabled"] and namespace
    if wanted and namespace not in settings.namespaces:
        raise UsageError(
            f"{personal}.personal_channel_namespace: there is no namespace "
            f"{namespace!r}"
        )
    for path in KEYS:
        value = settings[path]
        if path.endswith(".handler_prefix") and not value.startswith("/"):
            raise _wrong(path, value, "a path that begins with '/'")


def _namespaces(variable: str, text: str) -> list[Any]:
    """Namespaces as JSON, or names with spaces between them."""
    if text.lstrip()[:1] not in ("[", "{"):
        return [{"name": name} for name in text.split()]
    try:
        found: list[Any] = json.loads(text)
    except ValueError as error:
        raise UsageError(f"{variable} is not JSON: {error}") from None
    return found


def _read(key: Key, name: str, value: Any) -> Any:
    try:
        return key.read(value)
    except ValueError as wanted:
        if key.is_secret:
            raise UsageError(
                f"{name} must be {wanted}, not {type(value).__name__}"
            ) from None
        raise _wrong(name, value, str(wanted)) from None


def _wrong(name: str, value: Any, wanted: str) -> UsageError:
    text = repr(value)
    shown = text if len(text) <= 80 else f"{text[:80]}…"
    return UsageError(f"{name} must be {wanted}, not {shown}")


def _is_on(value: Any) -> bool:
    """Whether anything is wanted: something that is switched off is not missed."""
    if isinstance(value, dict):
        return any(map(_is_on, value.values())) and value.get("enabled") is not False
    return bool(value) and value not in ("false", "0")


def _variable(path: str) -> str:
    return f"{_ENV}{_upper(path)}"


def _upper(name: str) -> str:
    return re.sub("[^A-Z0-9]", "_", name.upper())

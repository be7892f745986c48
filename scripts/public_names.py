"""Write docs/reference/names.md: every public name, its signature, the command line.

What the page lists stays (docs/versions.md); a test fails when the two differ. It is
written with the fallback, whose attributes have types.
usage: scripts/public_names.py
"""

from __future__ import annotations

import argparse
import dataclasses
import enum
import inspect
import os
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, ForwardRef

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    os.environ["SIMPLE_WS_EXTENSION"] = "0"
    sys.path.insert(0, str(ROOT))

from simple_ws import Deflate  # noqa: E402
from simple_ws.aio import AsyncConnectOptions  # noqa: E402
from simple_ws.cli.main import _parser  # noqa: E402
from simple_ws.client.options import ClientOptions, ConnectOptions  # noqa: E402
from simple_ws.connection.option_types import (  # noqa: E402
    HandlerOptions,
    ServerOptions,
)
from simple_ws.connection.options import Options  # noqa: E402
from simple_ws.live.sdk.thread import LiveOptions  # noqa: E402

PAGE = ROOT / "docs" / "reference" / "names.md"
COMMAND = "make reference"

#: All that users import from. What is elsewhere may change.
MODULES = [
    "simple_ws",
    "simple_ws.aio",
    "simple_ws.client",
    "simple_ws.errors",
    "simple_ws.http11",
    "simple_ws.live",
    "simple_ws.publisher",
    "simple_ws.schedule",
    "simple_ws.testing",
    "simple_ws.testing.engines",
    "simple_ws.testing.histories",
    "simple_ws.tokens",
    "simple_ws.types",
]

#: The special methods that users call by syntax: `with`, `for`, `await`, `[]`, `in`.
SPECIAL = {
    *("__enter__", "__exit__", "__aenter__", "__aexit__", "__await__", "__call__"),
    *("__iter__", "__next__", "__aiter__", "__anext__"),
    *("__len__", "__getitem__", "__contains__", "__bool__"),
}

#: Classes that programs receive, and do not make.
RECEIVED = {
    *("AsyncClient", "Client", "Request", "Call", "Worker", "Connection", "Job"),
    *("Live", "LiveClient", "LiveConnection", "Subscription", "ConnectRequest"),
    *("ClientInfo", "History", "Message", "Publication"),
    *("TestClient", "TestLive", "HTTPAnswer", "AsyncTestClient", "AsyncTestServer"),
    *("ServerFactory", "Transport", "EngineConformance", "HistoryConformance"),
    *("ConnectionClaims", "SubscriptionClaims", "Answers", "AnswersFuture", "Cluster"),
    *("HistoryFuture", "Join", "NodeInfo", "Present"),
}
#: Errors that programs raise; the others come from the package.
RAISED = {"HandshakeError", "LiveError"}
#: Members that only the package calls.
HIDDEN = re.compile(
    r"Client\.__call__|\w+Conformance\.(test_\w+|(setup|teardown)_method)"
)
#: Handlers of ours: what users call of them.
ONLY = {"Live": {"method"}}

WIDTH = 88
HEAD = f"""\
# Every public name

All that programs may rely on, with its signature; [what that means](../versions.md).
This page is written by `{COMMAND}`, and the tests fail when it is not what the package
has. Descriptions are on the pages of the [reference](index.md).
"""


# ---- Signatures ----------------------------------------------------------------------


def annotation_of(value: Any) -> str:
    """An annotation as it is written in the source."""
    if isinstance(value, ForwardRef):
        return value.__forward_arg__
    return value if isinstance(value, str) else inspect.formatannotation(value)


def default_of(value: Any) -> str:
    """A default as users would write it; `...` where it is an object of ours."""
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, type) or inspect.isroutine(value):
        return str(value.__qualname__)
    if isinstance(value, Deflate):
        return "True"
    shown = repr(value)
    return "..." if " at 0x" in shown or shown.startswith("<") else shown


def parameter_of(parameter: inspect.Parameter) -> str:
    """One parameter, with its annotation and default."""
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}
    text = stars.get(parameter.kind, "") + parameter.name
    has_type = parameter.annotation is not parameter.empty
    if has_type:
        text += f": {annotation_of(parameter.annotation)}"
    if parameter.default is not parameter.empty:
        text += (" = " if has_type else "=") + default_of(parameter.default)
    return text


def parameters_of(signature: inspect.Signature) -> list[str]:
    """All parameters but `self`, and the marks between them."""
    listed: list[str] = []
    starred = False
    before: inspect.Parameter | None = None
    for parameter in signature.parameters.values():
        if before is None and parameter.name in {"self", "cls"}:
            continue
        positional = parameter.POSITIONAL_ONLY
        if before and before.kind is positional is not parameter.kind:
            listed.append("/")
        starred |= parameter.kind is parameter.VAR_POSITIONAL
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            listed.append("*")
            starred = True
        listed.append(parameter_of(parameter))
        before = parameter
    return listed


def call_of(name: str, function: Any, indent: str) -> Iterator[str]:
    """A function or method: one line, or one for each parameter."""
    signature = inspect.signature(function)
    awaited = inspect.iscoroutinefunction(function)
    head = f"{indent}{'async ' if awaited else ''}{name}("
    tail = ")"
    if signature.return_annotation is not signature.empty:
        tail += f" -> {annotation_of(signature.return_annotation)}"
    parameters = parameters_of(signature)
    line = head + ", ".join(parameters) + tail
    if len(line) <= WIDTH:
        yield line
        return
    yield head
    yield from (f"{indent}    {parameter}," for parameter in parameters)
    yield indent + tail


# ---- Classes -------------------------------------------------------------------------


def is_ours(cls: type) -> bool:
    """Whether a class is of this package."""
    return cls.__module__.partition(".")[0] == "simple_ws"


def public_bases(cls: type, names: dict[type, str]) -> list[type]:
    """The nearest ancestors that are public themselves, or not of this package."""
    found: list[type] = []
    for base in cls.__bases__:
        if base in names or not is_ours(base):
            found.append(base)
        else:
            found += public_bases(base, names)
    hidden = {"object", "Generic", "Protocol"}
    return [b for b in dict.fromkeys(found) if b.__name__ not in hidden]


def described_attributes(cls: type) -> set[str]:
    """Names below *Attributes* in the docstring of a class."""
    _, _, section = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")
    section = section.partition("\n\n")[0]
    listed = re.findall(r"^    (\w[\w, ]*):", section, re.MULTILINE)
    return {name for names in listed for name in names.split(", ")}


def own_members(cls: type, names: dict[type, str]) -> dict[str, Any]:
    """What a class has, besides what its public ancestors have."""
    inherited: set[type] = set()
    for base in public_bases(cls, names):
        inherited.update(base.__mro__)
    owners = [owner for owner in cls.__mro__ if owner not in inherited]
    found: dict[str, Any] = {}
    for owner in reversed(owners):
        if owner is object or not is_ours(owner):
            continue
        found |= dict.fromkeys(described_attributes(owner))
        found |= vars(owner)
    return {name: found[name] for name in sorted(found) if is_shown(names[cls], name)}


def is_shown(owner: str, name: str) -> bool:
    """Whether a member is public."""
    if owner in ONLY:
        return name in ONLY[owner]
    is_public = not name.startswith("_") or name in SPECIAL
    return is_public and not HIDDEN.fullmatch(f"{owner}.{name}")


def type_of(cls: type, name: str, value: Any) -> str:
    """The type of an attribute, where the source says it."""
    if isinstance(value, property):
        returned = getattr(value.fget, "__annotations__", {}).get("return")
        return "" if returned is None else f": {annotation_of(returned)}"
    for owner in cls.__mro__:
        annotations = inspect.get_annotations(owner)
        if name in annotations:
            return f": {annotation_of(annotations[name])}"
    return ""


def member_of(cls: type, name: str, value: Any) -> Iterator[str]:
    """A method, or an attribute."""
    if isinstance(value, enum.Enum):
        yield f"    {name} = {value.value!r}"
        return
    function = (
        value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
    )
    if inspect.isroutine(function) and not inspect.isdatadescriptor(function):
        yield from call_of(name, function, "    ")
    else:
        yield f"    {name}{type_of(cls, name, value)}"


def class_of(cls: type, name: str, names: dict[type, str]) -> Iterator[str]:
    """A class: its ancestors, how it is made, and its members."""
    bases = [names.get(base, base.__name__) for base in public_bases(cls, names)]
    yield f"class {name}" + (f"({', '.join(bases)})" if bases else "")
    if is_made_by_users(cls, name):
        yield from call_of("__init__", cls, "    ")
    for member, value in own_members(cls, names).items():
        yield from member_of(cls, member, value)


def is_made_by_users(cls: type, name: str) -> bool:
    """Whether the constructor of a class is public."""
    if issubclass(cls, BaseException):
        return name in RAISED
    return name not in RECEIVED and not issubclass(cls, (enum.Enum, dict))


# ---- Modules, options, the command line ----------------------------------------------


def names_of_classes() -> dict[type, str]:
    """Every public class, by the name that it has in the first module that has it."""
    names: dict[type, str] = {}
    for module in map(import_module, MODULES):
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value):
                names.setdefault(value, name)
    return names


def module_of(module: Any, names: dict[type, str], seen: set[int]) -> Iterator[str]:
    """All names of a module; those that an earlier one has are only named."""
    again = []
    for name in sorted(module.__all__, key=lambda name: (name.lower(), name)):
        value = getattr(module, name)
        if id(value) in seen:
            again.append(name)
        elif inspect.isclass(value):
            yield from (*class_of(value, name, names), "")
        elif callable(value):
            yield from (*call_of(name, value, ""), "")
        else:
            yield from (f"{name}: {type(value).__name__}", "")
        seen.add(id(value))
    if again:
        yield from textwrap.wrap(f"also, as above: {', '.join(again)}", WIDTH)


def options_of(
    defaults: Mapping[str, Any], accepted: Any, besides: Any = None
) -> Iterator[str]:
    """Options with what may be given, and their defaults."""
    left_out = inspect.get_annotations(besides) if besides else {}
    for name, type_ in inspect.get_annotations(accepted).items():
        if name not in left_out and name in defaults:
            yield f"{name}: {annotation_of(type_)} = {default_of(defaults[name])}"


def keys_of(accepted: Any) -> Iterator[str]:
    """Options with what may be given."""
    for name, type_ in inspect.get_annotations(accepted).items():
        yield f"{name}: {annotation_of(type_)}"


def argument_of(action: argparse.Action) -> str:
    """One argument of a command, as its help writes it."""
    names = ", ".join(action.option_strings) or str(action.metavar or action.dest)
    if action.nargs != 0 and action.option_strings:
        choices = "|".join(map(str, action.choices or ()))
        names += f" {action.metavar or choices or action.dest.upper()}"
    if action.default and action.default != argparse.SUPPRESS:
        names += f" (default {action.default})"
    return names


def commands_of(parser: argparse.ArgumentParser, called: str) -> Iterator[str]:
    """A command with its arguments, and then its own commands."""
    yield called
    deeper: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            deeper = action.choices
        elif action.help != argparse.SUPPRESS and action.dest != "help":
            yield f"    {argument_of(action)}"
    for name, command in deeper.items():
        yield from commands_of(command, f"{called} {name}")


def block(title: str, lines: Iterator[str], language: str = "python") -> str:
    """A section of the page."""
    text = "\n".join(lines).strip("\n")
    return f"\n## {title}\n\n```{language}\n{text}\n```\n"


def page() -> str:
    """The whole page."""
    names = names_of_classes()
    seen: set[int] = set()
    of_servers = Options._field_defaults
    of_clients = {each.name: each.default for each in dataclasses.fields(ClientOptions)}
    parts = [
        HEAD,
        *(block(m, module_of(import_module(m), names, seen)) for m in MODULES),
        block("Options of handlers", options_of(of_servers, HandlerOptions)),
        block(
            "Options of servers, besides those of handlers",
            options_of(of_servers, ServerOptions, HandlerOptions),
        ),
        block("Options of clients", options_of(of_clients, ConnectOptions)),
        block("Options of simple_ws.aio.connect, too", keys_of(AsyncConnectOptions)),
        block("Options of simple_ws.live.connect, too", keys_of(LiveOptions)),
        block("Fixture of pytest", iter(["ws_server"])),
        block("Command line", commands_of(_parser(), "simple-ws"), "text"),
    ]
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

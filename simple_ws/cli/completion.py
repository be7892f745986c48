"""`completion`: a script by which a shell completes commands and options.

It is made of the parser itself, so that it knows each option.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from shlex import quote
from typing import Any, NamedTuple

__all__ = ["SHELLS", "add_completion", "commands_of", "script"]

SHELLS = ("bash", "zsh", "fish")

_BASH = """\
_simple_ws() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} index
    local command= options=
    for ((index = 1; index < COMP_CWORD; index++)); do
        if [[ ${{COMP_WORDS[index]}} != -* ]]; then
            command=${{COMP_WORDS[index]}}; break
        fi
    done
    case $command in
{cases}
    esac
    case $command:$before in
{values}
    *) if [[ -z $command || $word == -* ]]; then
           COMPREPLY=($(compgen -W "$options" -- "$word"))
       else
           compopt -o default; COMPREPLY=()
       fi ;;
    esac
}}
complete -F _simple_ws simple-ws
"""

_ZSH = """\
#compdef simple-ws
_simple_ws() {{
    local -a commands
    commands=({commands})
    if (( CURRENT == 2 )); then
        _describe command commands
        _arguments {options}
        return
    fi
    case $words[2] in
{cases}
    esac
}}
if [[ $funcstack[1] == _simple_ws ]]; then
    _simple_ws "$@"
else
    compdef _simple_ws simple-ws
fi
"""


class Option(NamedTuple):
    """An option of a command."""

    names: tuple[str, ...]
    help: str
    #: Whether a value follows.
    has_value: bool
    #: The only values, if they are known.
    choices: tuple[str, ...]


class Command(NamedTuple):
    """A command of the parser; the name "" is the program itself."""

    name: str
    help: str
    options: tuple[Option, ...]
    #: The only values of its argument, if they are known.
    choices: tuple[str, ...]


def add_completion(commands: Any, parser: argparse.ArgumentParser) -> None:
    """Add the command to a parser, which it completes."""
    command = commands.add_parser(
        "completion",
        help="print a script that lets a shell complete commands and options",
        description="Print a script that lets a shell complete commands and options.",
        epilog='example, for bash: eval "$(simple-ws completion bash)"',
    )
    command.add_argument("shell", choices=SHELLS)
    command.set_defaults(
        run=lambda options: print(script(options.shell, commands_of(parser)), end="")
    )


def commands_of(parser: argparse.ArgumentParser) -> list[Command]:
    """The program itself, and its commands."""
    assert parser._subparsers is not None
    actions: Any = parser._subparsers._group_actions[0]
    parsers: Mapping[str, argparse.ArgumentParser] = actions.choices
    helps = {choice.dest: choice.help for choice in actions._get_subactions()}
    return [
        _command("", "", parser),
        *(_command(name, helps[name] or "", one) for name, one in parsers.items()),
    ]


def _command(name: str, text: str, parser: argparse.ArgumentParser) -> Command:
    options: list[Option] = []
    choices: tuple[str, ...] = ()
    for action in parser._actions:
        values = tuple(map(str, action.choices or ()))
        if action.option_strings:
            option = Option(
                tuple(action.option_strings),
                action.help or "",
                action.nargs != 0,
                values,
            )
            options.append(option)
        elif not isinstance(action, argparse._SubParsersAction):
            choices = values
    return Command(name, text, tuple(options), choices)


def script(shell: str, commands: list[Command]) -> str:
    """The script for a shell."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](commands)


def _names(command: Command) -> list[str]:
    return [name for option in command.options for name in option.names]


def _bash(commands: list[Command]) -> str:
    program, *others = commands
    words = [*(command.name for command in others), *_names(program)]
    cases = [f'        "") options="{" ".join(words)}" ;;']
    values = []
    for command in others:
        words = [*_names(command), *command.choices]
        cases.append(f'        {command.name}) options="{" ".join(words)}" ;;')
        values += [_bash_value(command, o) for o in command.options if o.has_value]
        if command.choices:
            words = list(command.choices)
            values.append(
                f"    {command.name}:{command.name}) "
                f'COMPREPLY=($(compgen -W "{" ".join(words)}" -- "$word")) ;;'
            )
    return _BASH.format(cases="\n".join(cases), values="\n".join(values))


def _bash_value(command: Command, option: Option) -> str:
    pattern = "|".join(f"{command.name}:{name}" for name in option.names)
    if not option.choices:
        return f"    {pattern}) compopt -o default; COMPREPLY=() ;;"
    words = " ".join(option.choices)
    return f'    {pattern}) COMPREPLY=($(compgen -W "{words}" -- "$word")) ;;'


def _zsh(commands: list[Command]) -> str:
    program, *others = commands
    listed = " ".join(quote(f"{c.name}:{c.help}") for c in others)
    cases = []
    for command in others:
        specs = [_zsh_spec(option) for option in command.options]
        values = f"({' '.join(command.choices)})" if command.choices else "_files"
        specs.append(quote(f"*: :{values}"))
        cases.append(
            f"    {command.name}) shift words; (( CURRENT-- )); "
            f"_arguments {' '.join(specs)} ;;"
        )
    options = " ".join(map(_zsh_spec, program.options))
    return _ZSH.format(commands=listed, options=options, cases="\n".join(cases))


def _zsh_spec(option: Option) -> str:
    text = option.help.replace("[", "(").replace("]", ")").replace(":", "\\:")
    value = ""
    if option.has_value:
        value = f": :({' '.join(option.choices)})" if option.choices else ": :_files"
    return " ".join(quote(f"*{name}[{text}]{value}") for name in option.names)


def _fish(commands: list[Command]) -> str:
    program, *others = commands
    first = "complete -c simple-ws -n __fish_use_subcommand"
    lines = [f"{first} -f"]
    lines += [f"{first} -a {c.name} -d {quote(c.help)}" for c in others]
    lines += [_fish_option(o, "__fish_use_subcommand") for o in program.options]
    for command in others:
        seen = quote(f"__fish_seen_subcommand_from {command.name}")
        lines += [_fish_option(option, seen) for option in command.options]
        if command.choices:
            words = quote(" ".join(command.choices))
            lines.append(f"complete -c simple-ws -f -n {seen} -a {words}")
    return "\n".join(lines) + "\n"


def _fish_option(option: Option, condition: str) -> str:
    parts = [f"complete -c simple-ws -n {condition}"]
    parts.extend(
        f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}"
        for name in option.names
    )
    if option.choices:
        parts.append(f"-x -a {quote(' '.join(option.choices))}")
    elif option.has_value:
        parts.append("-r")
    return " ".join([*parts, f"-d {quote(option.help)}"])

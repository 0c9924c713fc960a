"""`agentmesh completion bash|zsh`: what a shell needs to complete commands and options, drawn from the parser itself.

A static script: completing runs nothing of ours.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from typing import Final

from attrs import frozen

from agentmesh.cli.command import SCRIPTS, Commands, add_command
from agentmesh.cli.text import Exit


@frozen
class _Level:
    """What may stand behind some words of a command line.

    Attributes:
        words: The commands so far, `audit verify`.
        commands: The commands that may follow, each with its line of help.
        options: The options, each with its line of help.
        choices: For an option that takes one of a few values, these.
    """

    words: str
    commands: dict[str, str]
    options: dict[str, str]
    choices: dict[str, tuple[str, ...]]


def add(commands: Commands, top: argparse.ArgumentParser) -> None:
    """Add `completion` to the command line that `top` parses."""
    parser = add_command(
        commands, "completion", partial(_completion, top),
        what="print a script that completes commands in a shell",
        description="Print a script for a shell, which then completes commands, options and file names. For bash: "
        "eval \"$(agentmesh completion bash)\". For zsh: write it to a file _agentmesh in a folder of $fpath.",
        example="bash",
        answers=False,
    )  # fmt: skip
    parser.add_argument("shell", choices=tuple(_SCRIPTS), help="which shell")


def _completion(top: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    print("\n".join(_SCRIPTS[arguments.shell](list(_levels(top, ())))))
    return Exit.OK


def _levels(parser: argparse.ArgumentParser, words: tuple[str, ...]) -> Iterator[_Level]:
    commands: dict[str, str] = {}
    below: dict[str, argparse.ArgumentParser] = {}
    options: dict[str, str] = {}
    choices: dict[str, tuple[str, ...]] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            below = dict(action.choices)
            commands = {choice.dest: choice.help or "" for choice in action._choices_actions}
        elif action.option_strings and action.help != argparse.SUPPRESS:
            options |= dict.fromkeys(action.option_strings, (action.help or "") % {"prog": parser.prog})
            if action.choices is not None:
                choices |= dict.fromkeys(action.option_strings, tuple(map(str, action.choices)))
        elif action.choices is not None:  # a word from a list, as the shell of `completion`
            commands = {str(choice): action.help or "" for choice in action.choices}
    yield _Level(" ".join(words), commands, options, choices)
    for name, inner in below.items():
        yield from _levels(inner, (*words, name))


# --- the scripts -----------------------------------------------------------------------------------------------------


def _bash(levels: list[_Level]) -> Iterator[str]:
    yield '# Completes agentmesh in bash: eval "$(agentmesh completion bash)"'
    yield "_agentmesh() {"
    yield "    local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} path= words= options= word"
    yield '    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do'
    yield f'        case "${{path:+$path }}$word" in {_paths(levels)}) path="${{path:+$path }}$word" ;; esac'
    yield "    done"
    yield "    case $path in"
    for level in levels:
        yield f"        {_quoted(level.words)})"
        yield f"            words={_quoted(' '.join(level.commands))}"
        yield f"            options={_quoted(' '.join(level.options))}"
        if level.choices:
            cases = " ".join(
                f"{option}) words={_quoted(' '.join(values))} options= current=${{current#-}} ;;"
                for option, values in level.choices.items()
            )
            yield f"            case $before in {cases} esac"
        yield "            ;;"
    yield "    esac"
    yield "    if [[ $current == -* ]]; then words=$options; fi"
    yield "    COMPREPLY=()"
    yield '    while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -W "$words" -- "$current")'
    yield "}"
    yield f"complete -o default -F _agentmesh {' '.join(SCRIPTS)}"


def _zsh(levels: list[_Level]) -> Iterator[str]:
    yield f"#compdef {' '.join(SCRIPTS)}"
    yield "_agentmesh() {"
    yield '    local current=${words[CURRENT]} before=${words[CURRENT-1]} path_="" word'
    yield "    local -a commands options values"
    yield '    for word in "${(@)words[2,CURRENT-1]}"; do'
    yield f'        case "${{path_:+$path_ }}$word" in ({_paths(levels)}) path_="${{path_:+$path_ }}$word" ;; esac'
    yield "    done"
    yield "    case $path_ in"
    for level in levels:
        yield f"        ({_quoted(level.words)})"
        yield f"            commands=({_described(level.commands)})"
        yield f"            options=({_described(level.options)})"
        if level.choices:
            cases = " ".join(
                f"({option}) values=({' '.join(map(_quoted, values))}) ;;" for option, values in level.choices.items()
            )
            yield f"            case $before in {cases} esac"
        yield "            ;;"
    yield "    esac"
    yield "    if (( $#values )); then compadd -a values"
    yield "    elif [[ $current == -* ]]; then _describe -o option options"
    yield "    elif (( $#commands )); then _describe command commands"
    yield "    else _files; fi"
    yield "}"
    yield 'if [[ $zsh_eval_context[-1] == loadautofunc ]]; then _agentmesh "$@"; else'
    yield f"    compdef _agentmesh {' '.join(SCRIPTS)}"
    yield "fi"


def _paths(levels: list[_Level]) -> str:
    return "|".join(_quoted(level.words) for level in levels if level.words)


def _described(words: dict[str, str]) -> str:
    return " ".join(_quoted(f"{word}:{' '.join(what.split())}") for word, what in words.items())


def _quoted(text: str) -> str:
    """Return `text` as one word of either shell."""
    return "'" + text.replace("'", "'\\''") + "'"


_SCRIPTS: Final = {"bash": _bash, "zsh": _zsh}

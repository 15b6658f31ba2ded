"""What a message calls an argument. Messages are written for the command line, by flags; where Python calls,
`names_arguments` puts the names of its arguments in their place. Standard library only.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Container
from typing import ParamSpec, TypeVar

from distill_ray.errors import ConfigError, DistillError, Problem

ParamsT = ParamSpec("ParamsT")
ResultT = TypeVar("ResultT")

_COMMAND = re.compile(r"`[^`]*`")  # a command line that somebody is to type stays one
_SWITCHES = ("overwrite", "force", "strict")
_FLAG = re.compile(r"(?<![\w-])--(no-)?([a-z][a-z-]*[a-z])(?:[ =](\d[\w.]*))?")


def names_arguments(function: Callable[ParamsT, ResultT]) -> Callable[ParamsT, ResultT]:
    """`function`, whose errors name arguments: "give overwrite=True" instead of "give --overwrite"."""
    parameters = inspect.signature(function).parameters
    takes_options = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())

    @functools.wraps(function)
    def wrapper(*args: ParamsT.args, **kwargs: ParamsT.kwargs) -> ResultT:
        try:
            return function(*args, **kwargs)
        except DistillError as error:
            if isinstance(error, ConfigError):
                error.problems = tuple(
                    _named(each, parameters, takes_options=takes_options) for each in error.problems
                )
                error.args = ("; ".join(map(str, error.problems)),)
            else:
                error.args = (in_arguments(str(error), parameters), *error.args[1:])
            raise

    return wrapper


def in_arguments(message: str, known: Container[str] = ()) -> str:
    """`message` with flags as arguments; `known` are the names of the function's own."""
    commands = [*_COMMAND.findall(message), ""]
    texts = (_FLAG.sub(lambda flag: _argument(flag, known), text) for text in _COMMAND.split(message))
    return "".join(text + command for text, command in zip(texts, commands, strict=True))


def _named(problem: Problem, known: Container[str], *, takes_options: bool) -> Problem:
    """A problem whose setting is one of the function's arguments goes by that name alone.

    takes_options: whether all options of a command are arguments.
    """
    if takes_options and problem.flag:
        name = in_arguments(problem.flag)
    else:
        last = problem.key.rpartition(".")[2]
        name = last if last in known else problem.key
    return Problem(name, in_arguments(problem.message, known))


def _argument(flag: re.Match[str], known: Container[str]) -> str:
    negated, words, value = flag.groups()
    name = words.replace("-", "_")
    if name == "out" and "out_dir" in known:
        name = "out_dir"
    if value:
        return f"{name}={value}"
    return f"{name}={not negated}" if negated or name in _SWITCHES else name

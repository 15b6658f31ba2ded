"""The options of a command that are settings, generated from `config/catalogue.py`.

Ranges are shown but not enforced here: the configuration checks all values together and names every wrong
one.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from distill_ray.config import catalogue
from distill_ray.errors import ConfigError

Settings = dict[str, object]
"""What the user gave, by dotted key."""
_PARAMETER = "settings"


def takes_settings(command: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a function the options of `command` in the place of its parameter `settings`.

    That gets what the user gave. A ConfigError that leaves the function names settings by the flags that they
    have in this command.
    """

    def decorated(function: Callable[..., None]) -> Callable[..., None]:
        options = catalogue.options_of(command)

        @functools.wraps(function)
        def with_options(**values: Any) -> None:
            given = {option.name: values.pop(option.name) for option in options}
            with own_flags(command):
                function(**{_PARAMETER: catalogue.overrides_of(command, given)}, **values)

        parameters = list(_parameters(function, options))
        signature = inspect.Signature(parameters, return_annotation=None)
        with_options.__signature__ = signature  # type: ignore[attr-defined]
        with_options.__annotations__ = {each.name: each.annotation for each in parameters}
        return with_options

    return decorated


def _parameters(
    function: Callable[..., None], options: tuple[catalogue.Option, ...]
) -> Iterator[inspect.Parameter]:
    hints = typing.get_type_hints(function, include_extras=True)
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name != _PARAMETER:
            yield parameter.replace(annotation=hints[parameter.name])
            continue
        for option in options:
            yield inspect.Parameter(
                option.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(option)
            )


def _annotation(option: catalogue.Option) -> Any:
    first = option.settings[0]
    declared = typer.Option(option.flag, help=option.help, metavar=option.metavar, show_default=False)
    return Annotated[(str if first.is_list else first.hint) | None, declared]


@contextmanager
def own_flags(command: str) -> Iterator[None]:
    """Name wrong settings by the flags that they have in `command`."""
    try:
        yield
    except ConfigError as error:
        named = [catalogue.as_flagged(each, command) for each in error.problems]
        # One option may be several settings, whose problems say the same.
        once = {(each.flag or each.key, each.message): each for each in reversed(named)}
        raise ConfigError(list(reversed(once.values()))) from error

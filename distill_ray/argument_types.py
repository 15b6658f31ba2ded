"""What an argument may be: `checks_arguments` refuses a wrong one in a sentence before anything begins.

Checked are plain kinds only (paths, numbers, texts, our own classes), by a function's annotations; arrays and
functions say themselves what is wrong with them. Standard library only.
"""

from __future__ import annotations

import functools
import inspect
import numbers
import os
import reprlib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

from distill_ray.errors import ConfigError, Problem

ParamsT = ParamSpec("ParamsT")
ResultT = TypeVar("ResultT")

_LONGEST = 60
_WORDS = {
    "LoadedVQModel": "a model, as distill_ray.load gives it",
    "Corpus": "a corpus, as distill_ray.open_corpus gives it",
}
_UNCHECKED = (object, type, inspect.Parameter.empty)


def checks_arguments(function: Callable[ParamsT, ResultT]) -> Callable[ParamsT, ResultT]:
    """`function`, which raises ConfigError for arguments of another kind than their annotations'.

    A model that `distill_ray.load` gave stands for its `loaded` where that is asked for.
    """
    signature = inspect.signature(function)

    @functools.cache
    def kinds() -> Mapping[str, tuple[Any, ...] | None]:
        # One by one: a name that is imported for type checkers alone is no reason to check none.
        return {name: _kinds(each.annotation, function) for name, each in signature.parameters.items()}

    @functools.wraps(function)
    def wrapper(*args: ParamsT.args, **kwargs: ParamsT.kwargs) -> ResultT:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:  # too few, too many, or a name that is none: Python's own words name the function
            return function(*args, **kwargs)
        problems: list[Problem] = []
        for name, value in bound.arguments.items():
            allowed = kinds()[name]
            if allowed is None or any(_is(value, kind) for kind in allowed):
                continue
            inner = getattr(value, "loaded", None)
            if inner is not None and any(_is(inner, kind) for kind in allowed):
                bound.arguments[name] = inner
                continue
            problems.append(Problem(name, f"{shown(value)} is not {_spoken_all(allowed)}"))
        if problems:
            raise ConfigError(problems)
        return function(*bound.args, **bound.kwargs)

    return wrapper


def shown(value: object) -> str:
    """A value in one short line; its type where that is not enough."""
    text = reprlib.repr(value)
    if "\n" in text or len(text) > _LONGEST or hasattr(value, "shape"):
        name = type(value).__name__
        return f"an {name}" if name[0] in "aeiouAEIOU" else f"a {name}"
    return text


def _kinds(annotation: object, function: Callable[..., Any]) -> tuple[Any, ...] | None:
    """The kinds that an annotation allows; None where any of them cannot be checked."""
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, function.__globals__)  # noqa: S307 - our own source
        except NameError:
            return None
    is_union = isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union
    kinds = typing.get_args(annotation) if is_union else (annotation,)
    checkable = [types.NoneType if kind is None else kind for kind in kinds]
    return tuple(checkable) if all(map(_is_checkable, checkable)) else None


def _is_checkable(kind: Any) -> bool:
    origin = typing.get_origin(kind)
    if origin is Sequence:
        return all(each is str or typing.get_origin(each) is os.PathLike for each in _elements(kind))
    if origin is os.PathLike:
        return True
    return isinstance(kind, type) and kind not in _UNCHECKED and not getattr(kind, "_is_protocol", False)


def _elements(kind: Any) -> tuple[Any, ...]:
    (element,) = typing.get_args(kind)
    return typing.get_args(element) or (element,)


def _is(value: object, kind: Any) -> bool:
    kind = typing.get_origin(kind) or kind
    if kind is Sequence:
        return isinstance(value, Sequence) and not isinstance(value, str)
    if kind is float:
        return isinstance(value, numbers.Real) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if kind is bool:
        return type(value).__name__ in ("bool", "bool_")  # NumPy's own too
    return isinstance(value, kind)


def _spoken_all(kinds: Sequence[Any]) -> str:
    others = [kind for kind in kinds if kind is not types.NoneType]
    if any(typing.get_origin(kind) is os.PathLike for kind in others):
        others = [kind for kind in others if kind is not str]  # "a path" says it
    return " or ".join(_spoken(kind) for kind in others)


def _spoken(kind: Any) -> str:
    kind = typing.get_origin(kind) or kind
    names = {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}
    paths = {os.PathLike: "a path", Sequence: "a list of paths"}
    return names.get(kind) or paths.get(kind) or _WORDS.get(kind.__name__) or f"a {kind.__name__}"

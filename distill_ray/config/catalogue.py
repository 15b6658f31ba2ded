"""All settings in one list, and which of them are options of which command.

Everything that names a setting outside of its own line is made from here: the options of commands
(`cli/settings.py`), the keys that a TOML file may have (`build.py`) and the reference of all settings
(`docs/settings.md`, from `all_settings`). A field that a section gets appears in all of them.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from distill_ray.config.adversarial import AdversarialConfig
from distill_ray.config.corpus import CorpusConfig
from distill_ray.config.generation import GenerationSettings, JudgeSettings, SamplingConfig
from distill_ray.config.health import HealthConfig
from distill_ray.config.pipeline import PipelineConfig
from distill_ray.config.prior import PriorConfig, PriorTrainingConfig
from distill_ray.config.setting import Section
from distill_ray.config.sweep import SweepConfig
from distill_ray.config.vqvae import AugmentConfig, LossConfig, SizeConfig, TrainingConfig, VQVAEConfig
from distill_ray.errors import ConfigError, Problem

CODEC: tuple[type[Section], ...] = (
    SizeConfig,
    VQVAEConfig,
    TrainingConfig,
    LossConfig,
    AugmentConfig,
    AdversarialConfig,
    HealthConfig,
)
PRIOR: tuple[type[Section], ...] = (PriorConfig, PriorTrainingConfig)
GENERATION: tuple[type[Section], ...] = (GenerationSettings, SamplingConfig)
SECTIONS: tuple[type[Section], ...] = (
    PipelineConfig,
    CorpusConfig,
    *CODEC,
    *PRIOR,
    SweepConfig,
    *GENERATION,
    JudgeSettings,
)
"""All sections, in the order of the work."""

OF_COMMAND: Mapping[str, tuple[type[Section], ...]] = {
    "prepare": (CorpusConfig,),
    "train": (CorpusConfig, *CODEC),
    "train-prior": (CorpusConfig, *PRIOR),
    "tune": (CorpusConfig, SweepConfig, *CODEC),
    "run": (PipelineConfig, CorpusConfig, SweepConfig, *CODEC, *PRIOR, GenerationSettings),
    "generate": GENERATION,
    "vary": GENERATION,
    "fill": GENERATION,
    "loop": GENERATION,
    "morph": (GenerationSettings,),
    "evaluate": (JudgeSettings, SamplingConfig),
}
"""The sections whose flags are options of a command."""
_NOT_OF_COMMAND: Mapping[str, tuple[str, ...]] = {
    "train-prior": ("corpus.sample_rate", "corpus.channels"),  # its codec has them
    "vary": ("generate.seconds", "sampling.start"),
    "fill": ("generate.seconds", "sampling.start"),
    "loop": ("sampling.start",),
    "morph": ("generate.seconds",),
}

_TYPES = {int: "whole number", float: "number", bool: "true or false", str: "text"}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One field of a section: what a command line, a TOML file and a reader need to know of it."""

    section: type[Section]
    name: str
    hint: Any
    """Its type, without None and without the list: the `int` of `tuple[int, ...]`."""
    is_list: bool
    default: Any
    meta: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Its key in TOML and in overrides: "model.codebook_size"."""
        return f"{self.section.table}.{self.name}"

    @property
    def flag(self) -> str:
        """Its flag, "--on/--off" for a switch; empty where it has none."""
        return self.meta["flag"] or ""

    @property
    def help(self) -> str:
        """What it means: a sentence."""
        text: str = self.meta["help"]
        return f"{text[0].upper()}{text[1:]}."

    @property
    def type(self) -> str:
        """Its type in words: "whole number", "list of numbers"."""
        return f"list of {_TYPES[self.hint]}s" if self.is_list else _TYPES[self.hint]

    @property
    def bounds(self) -> str:
        """Its range in words: "16 to 16384", "at least 1", "above 0, at most 1", "a, b"; empty for none."""
        low, high, above, choices = (self.meta[key] for key in ("low", "high", "above", "choices"))
        if choices:
            return ", ".join(choices)
        if low is not None and high is not None:
            return f"{low:g} to {high:.12g}"
        parts = (("at least", low), ("above", above), ("at most", high))
        return ", ".join(f"{word} {value:.12g}" for word, value in parts if value is not None)

    @property
    def default_text(self) -> str:
        """Its default in words: "0.3", "off", "64,128"; "automatic" where it is chosen for the run."""
        return "automatic" if self.meta["auto"] else _spoken(self.default) or "none"

    @property
    def flags(self) -> dict[str, str]:
        """Its flag in each command that takes it."""
        return {
            command: option.flag
            for command in OF_COMMAND
            for option in options_of(command)
            if self.key in option.keys
        }

    def default_in(self, command: str) -> Any:
        """What it is in `command` where the user does not say; None where that is chosen or there is none."""
        own = self.meta["run_default"] if command == "run" else None
        return own if own is not None else None if self.meta["auto"] else self.default

    def flag_in(self, command: str) -> str:
        """The flag that it has in a command that takes it."""
        return (command == "run" and self.meta["run_flag"]) or self.flag

    def parse(self, text: str) -> tuple[Any, ...]:
        """The value of a list from "64,128,256"; spaces are allowed. Raises ConfigError."""
        try:
            return tuple(self.hint(word.strip()) for word in text.split(","))
        except ValueError:
            example = {int: "64,128", float: "0.001,0.01"}[self.hint]
            message = f"{text!r} is not a {self.type} such as {example}"
            raise ConfigError([Problem(self.key, message, self.section.flag(self.name))]) from None


@dataclass(frozen=True, kw_only=True)
class Option:
    """An option of a command. It gives all its settings one value; the first says its type and meaning."""

    command: str
    settings: tuple[Setting, ...]

    @property
    def flag(self) -> str:
        """As in `Setting.flag`."""
        return self.settings[0].flag_in(self.command)

    @property
    def name(self) -> str:
        """The name of its value among those of the command: "codebook_size"."""
        return self.flag.partition("/")[0].lstrip("-").replace("-", "_")

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of its settings."""
        return tuple(setting.key for setting in self.settings)

    @property
    def help(self) -> str:
        """What it means, with range and default."""
        first = self.settings[0]
        default = _spoken(first.default_in(self.command)) or ("automatic" if first.meta["auto"] else "")
        bounds = "" if first.meta["choices"] else first.bounds
        limits = "; ".join(filter(None, (bounds, default and f"default: {default}")))
        return f"{first.help} [{limits}]" if limits else first.help

    @property
    def metavar(self) -> str | None:
        """What stands for the value in the help: "depth|grid" for choices, "64,128,…" for a list."""
        first = self.settings[0]
        if not first.is_list:
            return "|".join(first.meta["choices"] or ()) or None
        return ",".join([*map(str, first.default[:2] or ("A", "B")), "…"])


def settings_of(section: type[Section]) -> tuple[Setting, ...]:
    """The settings of a section, in its order."""
    return _settings_of(cast(Any, section))


@functools.cache
def _settings_of(section: Any) -> tuple[Setting, ...]:
    hints = typing.get_type_hints(section)
    return tuple(_setting(section, field, hints[field.name]) for field in dataclasses.fields(section))


def _setting(section: type[Section], field: dataclasses.Field[Any], hint: Any) -> Setting:
    if isinstance(hint, types.UnionType):
        hint = next(each for each in typing.get_args(hint) if each is not type(None))
    is_list = typing.get_origin(hint) is tuple
    return Setting(
        section=section,
        name=field.name,
        hint=typing.get_args(hint)[0] if is_list else hint,
        is_list=is_list,
        default=field.default,
        meta=field.metadata,
    )


def all_settings() -> Iterator[Setting]:
    """Every setting there is, table by table, in the order of the work."""
    for section in SECTIONS:
        yield from settings_of(section)


def setting_of(key: str) -> Setting:
    """The setting with a dotted key. Raises KeyError."""
    try:
        return next(setting for setting in all_settings() if setting.key == key)
    except StopIteration:
        raise KeyError(key) from None


def flag_of(key: str) -> str | None:
    """The flag of the setting with a dotted key; None where it has none, or there is no such setting."""
    return next((each.section.flag(each.name) for each in all_settings() if each.key == key), None)


def options_of(command: str) -> tuple[Option, ...]:
    """The options of a command that are settings: every flag of its sections.

    A setting that another one of the command `replaces` has none there.
    """
    others = _NOT_OF_COMMAND.get(command, ())
    taken = [
        setting
        for section in OF_COMMAND[command]
        for setting in settings_of(section)
        if setting.flag and setting.key not in others
    ]
    replaced = {setting.meta["replaces"] for setting in taken}
    by_flag: dict[str, list[Setting]] = {}
    for setting in taken:
        if setting.key not in replaced:
            alike = by_flag.setdefault(setting.flag_in(command), [])
            assert not alike or setting.meta["run_flag"], f"{command} has two settings {setting.flag}"
            alike.append(setting)
    return tuple(Option(command=command, settings=tuple(alike)) for alike in by_flag.values())


def overrides_of(command: str, values: Mapping[str, Any]) -> dict[str, object]:
    """The settings that a command line gives, by dotted key.

    values: those of the options by their name, None where the user did not give one. Raises ConfigError
    naming every list that is none.
    """
    overrides: dict[str, object] = {}
    problems: list[Problem] = []
    for option in options_of(command):
        value, first = values[option.name], option.settings[0]
        if value is None:
            continue
        try:
            overrides |= dict.fromkeys(option.keys, first.parse(value) if first.is_list else value)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return overrides


def as_flagged(problem: Problem, command: str) -> Problem:
    """The problem with the flag that its setting has in `command`, if any, instead of its usual one."""
    if problem.flag is None or problem.flag != flag_of(problem.key):
        return problem
    keys = {option.flag.partition("/")[0]: option.keys for option in options_of(command)}
    if command == "run":  # which without a search gives the value to what the search's setting replaces
        for each in settings_of(SweepConfig):
            if each.meta["replaces"] and not each.is_list:
                keys[each.flag] = (*keys.get(each.flag, ()), each.key, each.meta["replaces"])
    flag = next((flag for flag, of in keys.items() if problem.key in of), None)
    return dataclasses.replace(problem, flag=flag)


def _spoken(value: object) -> str:
    """A default in words; empty for none."""
    if value is None or isinstance(value, bool):
        return {None: "", False: "off", True: "on"}[value]
    return (
        ",".join(map(str, value))
        if isinstance(value, tuple)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )

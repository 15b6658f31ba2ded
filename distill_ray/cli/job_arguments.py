"""The command line of a job: read by the command's own parser on the client, written anew for the cluster.

What the command would refuse is refused here, before anything is sent; paths become absolute, a settings
file of this machine goes along, and the results are pointed to the storage.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill_ray.cli import options
from distill_ray.cli.places import check_places, expanded
from distill_ray.errors import UsageError

COMMANDS = ("train", "train-prior", "tune", "run")
_SETTINGS = "settings.toml"  # the name of a --config file in the job's own folder
_READ = ("data", "sources", "model", "resume")  # parameters that are paths or URIs of the cluster
_PLACES = (*_READ, "out")


@dataclass(frozen=True, kw_only=True)
class JobCommand:
    """A command that its own parser has read. `given`: the parameters that the user wrote, by their names."""

    name: str
    parser: Any
    values: Mapping[str, Any]
    given: frozenset[str]

    def takes(self, name: str) -> bool:
        return name in self.values

    def by_flag(self) -> dict[str, Any]:
        """What the user wrote, by flag; an argument by its name."""
        return {
            flag: self.values[param.name]
            for param in self.parser.params
            if param.name in self.given
            for flag in (param.opts or [param.name])
        }


@dataclass(frozen=True, kw_only=True)
class JobLine:
    """What to send: the arguments of `distill-ray` on the cluster, and what `JobRequest` says of the rest."""

    arguments: tuple[str, ...]
    files: Mapping[str, bytes]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    output: str


def read_command(words: Sequence[str]) -> JobCommand:
    """Parse the words after `--`. Raises UsageError, or the parser's own usage error."""
    from distill_ray.cli.main import parser_of

    example = "write it after --: distill-ray submit [OPTIONS] -- train DATA"
    if not words:
        raise UsageError(f"a command is missing; {example}")
    name = words[0]
    if name not in COMMANDS:
        raise UsageError(f"{name!r} cannot be submitted; there are {', '.join(COMMANDS)} ({example})")
    parser = parser_of(name)
    context = parser.make_context(f"distill-ray submit -- {name}", list(words[1:]))
    values = expanded(context.params)
    check_places(values)
    if "data" in values:
        options.data(values["data"], values["resume"] or None)
    given = frozenset(
        key for key in context.params if context.get_parameter_source(key).name == "COMMANDLINE"
    )
    for flag, key, instead in (
        ("--json", "as_json", "give it to submit, before --"),
        ("--address", "address", "the job uses the cluster that it is sent to"),
    ):
        if key in given:
            raise UsageError(f"leave out {flag} after --: {instead}")
    return JobCommand(name=name, parser=parser, values=values, given=given)


def write_command(command: JobCommand, *, name: str, storage: str | None) -> JobLine:
    """The line for the cluster. `storage` is the folder or URI below which the job `name` puts its results.

    Raises UsageError where the results would have no place, or --config cannot be read.
    """
    values = dict(command.values)
    given = set(command.given)
    for key in given.intersection(_PLACES):
        if isinstance(values[key], list):
            values[key] = [on_cluster(item) for item in values[key]]
        elif not isinstance(values[key], bool):
            values[key] = on_cluster(str(values[key]))
    files = {}
    if values.get("config") is not None:
        files[_SETTINGS] = _content(Path(values["config"]))
        values["config"] = _SETTINGS
    output, writes = _results(command, values, name, storage)
    if command.takes("out") and output != values.get("resume"):
        values["out"] = output
        given.add("out")
    if command.takes("name") and not isinstance(values.get("resume"), str):
        values["name"] = values["name"] or name
        given.add("name")
    reads = [values[key] for key in _READ if isinstance(values.get(key), str)]
    reads += values.get("sources") or []
    return JobLine(
        arguments=(command.name, *_words(command.parser, values, given)),
        files=files,
        reads=tuple(reads),
        writes=(writes,),
        output=output,
    )


def on_cluster(place: str) -> str:
    """A path or URI as it is sent: paths absolute, on the guess that the cluster shares this machine's."""
    from distill_ray.storage.filesystem import absolute

    return absolute(place)


def _results(
    command: JobCommand, values: Mapping[str, Any], name: str, storage: str | None
) -> tuple[str, str]:
    """Where the results will be, and the folder or URI that must be writable for them."""
    from distill_ray.storage.filesystem import folder_of, joined

    place = on_cluster(storage) if storage is not None else None
    if not command.takes("out"):  # train-prior writes into its model
        if place is not None:
            raise UsageError(f"{command.name} writes into the model that it is given; leave out --storage")
        return values["model"], folder_of(values["model"])
    resumed = values.get("resume")
    if isinstance(resumed, str):
        if place is not None:
            raise UsageError("--resume goes on where the run is; leave out --storage")
        return resumed, resumed
    if values.get("out") is not None:
        if place is not None:
            raise UsageError("--storage and --out both say where the results go; give one of them")
        return values["out"], values["out"]
    if place is None:
        raise UsageError(
            "say where the results go: --storage URI (s3://BUCKET/FOLDER, gs://…, or a folder that the "
            "cluster's nodes share), since what a node keeps to itself cannot be fetched"
        )
    return joined(place, name), place


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"--config {path} cannot be read: {error.strerror}") from None


def _words(parser: Any, values: Mapping[str, Any], given: set[str]) -> Iterator[str]:
    """The arguments that parse to `values`, as far as they were given."""
    positional: list[str] = []
    for param in parser.params:
        if param.name not in given or values[param.name] is None:
            continue
        value = values[param.name]
        several = list(value) if isinstance(value, list | tuple) else [value]
        if param.param_type_name == "argument":
            positional += map(str, several)
        elif getattr(param, "is_flag", False):
            yield param.opts[0] if value else param.secondary_opts[0]
        else:
            longest = max(param.opts, key=len)
            yield from (f"{longest}={item}" for item in several)
    if positional:
        yield "--"
        yield from positional


def spoken(arguments: Sequence[str]) -> str:
    """A command line for people."""
    return shlex.join(["distill-ray", *arguments])

"""`train` and `run` for notebooks and scripts: what the commands of these names do, in one call that returns
the model.

Progress is shown as the commands show it: live on a terminal, as lines in a notebook or a log.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from distill_ray.argument_names import names_arguments
from distill_ray.argument_types import checks_arguments
from distill_ray.cli.settings import own_flags
from distill_ray.config.catalogue import options_of, overrides_of
from distill_ray.errors import CancelledError, ConfigError, Problem, TrainingError
from distill_ray.storage.paths import AnyPath
from distill_ray.uri import is_uri

if TYPE_CHECKING:
    from distill_ray.cli.attended import Attended
    from distill_ray.generate.model import Model

_CANCELLED = 3


@names_arguments
@checks_arguments
def train(
    data: AnyPath,
    *,
    minutes: float | None = None,
    out: AnyPath | None = None,
    name: str | None = None,
    new: bool = False,
    progress: bool = True,
    report: bool = True,
    **settings: object,
) -> Model:
    """Train a codec on a folder of recordings or a prepared corpus, as `distill-ray train` does.

    minutes: for the training; None chooses its length from the recordings. out: the run's folder, by default
    the first free one of runs/NAME, or that of the same call that was interrupted, unless `new`. settings:
    the options of the command by name, such as `size="tiny"`, `channels=2`, `epochs=3`, `codebook_size=128`;
    `docs/commands.md` lists them. progress: show it on stderr.

    Ctrl-C ends the training with a usable model. Raises UsageError and its kinds for what cannot be used, and
    TrainingError for what failed.
    """
    from distill_ray.cli.options import run_name
    from distill_ray.pipeline.train import train_codec
    from distill_ray.runtime.plan import WorkerPlan

    overrides = _overrides("train", _with_minutes(settings, minutes))
    with _called("train", progress) as view:
        trained = train_codec(
            data=str(data),
            overrides=overrides,
            config_file=None,
            out=None if out is None else str(out),
            name=run_name(name, str(data)),
            resume=None,
            plan=WorkerPlan(),
            listener=view,
            new=new,
            report=report,
        )
    if progress:
        view.final_report({"model": trained.model_path, "report": trained.report_path})
    return _model(trained.model_path)


@names_arguments
@checks_arguments
def run(
    sources: AnyPath | Sequence[AnyPath],
    *,
    minutes: float | None = None,
    out: AnyPath | None = None,
    name: str | None = None,
    new: bool = False,
    tune: bool = True,
    progress: bool = True,
    report: bool = True,
    **settings: object,
) -> Model:
    """Everything from recordings to a model that generates, as `distill-ray run` does.

    sources: a folder, several, or one prepared corpus. minutes: what the option --max-minutes says. out: the
    folder of it all, by default the first free one of runs/NAME; an interrupted run of the same call goes on,
    unless `new`. tune: whether to search for the codec. settings: the options of the command by name, such as
    `size="tiny"`, `prior_minutes=5`, `samples=4`; `docs/commands.md` lists them. progress: show it on stderr.

    Raises UsageError and its kinds for what cannot be used, TrainingError and ClusterError for what failed,
    CancelledError for Ctrl-C before there is a model; what is done is kept in all cases.
    """
    from distill_ray.cli.options import run_name
    from distill_ray.display import trial_listener
    from distill_ray.pipeline.run import run_everything
    from distill_ray.runtime.plan import WorkerPlan

    several = [sources] if isinstance(sources, str) or hasattr(sources, "__fspath__") else list(sources)
    paths = [str(path) for path in several]
    overrides = _overrides("run", _with_minutes(settings, minutes))
    with _called("run", progress) as view:
        done = run_everything(
            sources=paths,
            overrides=overrides,
            config_file=None,
            out=None if out is None else str(out),
            name=None if name is None else run_name(name, ""),
            default_name=run_name(None, paths[0]) if paths else "distill",
            resume=None,
            tune=None if tune else False,
            plan=WorkerPlan(),
            address=None,
            listener=view,
            trial_listener=trial_listener,
            new=new,
            report=report,
        )
    if done.model_path is None:
        if done.exit_code == _CANCELLED:
            raise CancelledError(f"stopped before there was a model; out={str(done.output_dir)!r} goes on")
        raise TrainingError(f"no codec was found that could be used; {done.output_dir} holds what was tried")
    if progress:
        view.final_report({"model": done.model_path, "samples": done.samples_dir, "report": done.report_path})
    return _model(done.model_path)


def _with_minutes(settings: Mapping[str, object], minutes: float | None) -> dict[str, object]:
    if minutes is None:
        return dict(settings)
    if not minutes > 0:
        raise ConfigError([Problem("minutes", f"{minutes:g} must be greater than 0")])
    return {**settings, "max_minutes": minutes}


def _overrides(command: str, given: Mapping[str, object]) -> dict[str, object]:
    """Settings by dotted key of options by name. Raises ConfigError."""
    options = {option.name: option for option in options_of(command)}
    unknown = [name for name in given if name not in options]
    if unknown:
        raise ConfigError([Problem(name, _no_such(name, options)) for name in unknown])
    values: dict[str, object] = dict.fromkeys(options)
    lists: dict[str, object] = {}
    for name, value in given.items():
        if options[name].settings[0].is_list and value is not None and not isinstance(value, str):
            several = tuple(value) if isinstance(value, Iterable) else (value,)
            lists |= dict.fromkeys(options[name].keys, several)
        else:
            values[name] = value
    return overrides_of(command, values) | lists


def _no_such(name: str, options: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name, [*options, "minutes"], n=1)
    return "no such argument" + (f"; did you mean {close[0]}?" if close else "")


@contextmanager
def _called(command: str, progress: bool) -> Iterator[Attended]:
    """Who watches; wrong settings are named by the arguments that are the options of `command`."""
    from distill_ray.cli.attended import Attended, attended
    from distill_ray.display import EventLog, Listeners, ScalarLog

    view = attended() if progress else Attended(None, Listeners(), Listeners(EventLog(), ScalarLog()))
    with own_flags(command), view:
        yield view


def _model(path: Path | str) -> Model:
    from distill_ray.bundle.read import load_model_v2
    from distill_ray.generate.model import Model, load
    from distill_ray.runs.workspace import open_model

    return Model(load_model_v2(open_model(path).path)) if is_uri(path) else load(path)

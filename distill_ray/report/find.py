"""What lies in a folder (a run of `train`, `train-prior`, `tune` or `run`) or around a `.distill` file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill_ray.errors import DistillError, UsageError
from distill_ray.jsonable import parse_json
from distill_ray.regular_file import read_regular
from distill_ray.report.event_log import read_log
from distill_ray.runs.settings_file import RUN_SETTINGS, SEARCH_SETTINGS, Beginning, read_settings
from distill_ray.storage.names import checked_name

PIPELINE = "pipeline.json"
_SUFFIX = ".distill"


@dataclass(frozen=True, kw_only=True)
class Found:
    """The places of all that a report may show; None and empty for what there is not.

    `folder` is what was asked for, in which the report belongs; `made`: sounds of the finished model;
    `corpus`: the recordings as a run has prepared them; `is_file`: `model` alone was asked for.
    """

    folder: Path
    kind: str
    title: str
    model: Path | None = None
    codec: Path | None = None
    prior: Path | None = None
    search: Path | None = None
    sources: tuple[str, ...] = ()
    made: tuple[Path, ...] = ()
    corpus: Path | None = None
    is_file: bool = False


def find(place: Path) -> Found:
    """What `place`, a folder or a `.distill` file, holds. Raises UsageError where that is nothing of ours."""
    if not place.exists():
        raise UsageError(f"{place} does not exist; give the folder of a run or search, or a .distill file")
    if place.is_file():
        return _model(place)
    for name, look in ((PIPELINE, _pipeline), (SEARCH_SETTINGS, _search), (RUN_SETTINGS, _run)):
        if (place / name).exists():
            return look(place)
    raise UsageError(
        f"{place} holds no run, no search and no model; give the folder that train, tune, train-prior or run "
        "printed, or a .distill file"
    )


def _name(name: Any, place: Path) -> str:
    return checked_name(name, origin=f"the {PIPELINE} of {place}", folders=False)


def _pipeline(place: Path) -> Found:
    try:
        record = parse_json(read_regular(place / PIPELINE))
        name, stages = str(record["name"]), dict(record["stages"])
        sets = stages.get("samples", {}).get("sets", ())
        made = tuple(
            place / _name(item["folder"], place) / _name(file["name"], place)
            for item in sets[-1:]
            for file in item["files"]
        )
        sources = tuple(map(str, record["sources"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"the {PIPELINE} of {place} cannot be read ({error}); run it again") from error
    search = place / "search" if (place / "search" / SEARCH_SETTINGS).exists() else None
    codec = _trial(search) if search is not None else place / "codec"
    model = place / f"{name}{_SUFFIX}"
    return Found(
        folder=place,
        kind="A run from recordings to sounds",
        title=name,
        model=_there(model),
        codec=codec if codec is not None and (codec / RUN_SETTINGS).exists() else None,
        prior=_prior_of(model),
        search=search,
        sources=sources,
        made=tuple(path for path in made if path.is_relative_to(place) and path.exists()),
        corpus=_there(place / "corpus"),
    )


def _search(place: Path) -> Found:
    name = read_settings(place / SEARCH_SETTINGS).identity.get("name", place.name)
    model = place / f"{name}{_SUFFIX}"
    return Found(
        folder=place,
        kind="A search for the best codec",
        title=name,
        model=_there(model),
        codec=_trial(place),
        prior=_prior_of(model),
        search=place,
    )


def _run(place: Path) -> Found:
    begun = read_settings(place / RUN_SETTINGS)
    if "codec" in begun.identity:  # of a prior; its codec's run may be around
        model = place.with_suffix(_SUFFIX)
        around = _around(model)
        return Found(
            folder=place,
            kind="The training of a prior",
            title=place.stem,
            model=_there(model),
            prior=place,
            codec=around.codec if around is not None else None,
            search=around.search if around is not None else None,
        )
    name = begun.identity.get("name", place.name)
    model = place / f"{name}{_SUFFIX}"
    return Found(
        folder=place,
        kind="The training of a codec",
        title=name,
        model=_there(model),
        codec=place,
        prior=_prior_of(model),
    )


def _model(path: Path) -> Found:
    around = _around(path)
    if around is not None:
        return around
    return Found(
        folder=path.parent, kind="A model", title=path.stem, model=path, prior=_prior_of(path), is_file=True
    )


def _around(model: Path) -> Found | None:
    """What the model's folder holds, where that has made the model."""
    for name, look in ((PIPELINE, _pipeline), (SEARCH_SETTINGS, _search), (RUN_SETTINGS, _run)):
        if (model.parent / name).exists():
            try:
                found = look(model.parent)
            except DistillError:
                return None
            return found if found.model == model else None
    return None


def _trial(search: Path) -> Path | None:
    """The folder of the trial that a search has chosen."""
    complete = read_log(search).complete
    if complete is None or not complete.chosen:
        return None
    folder = search / "trials" / complete.chosen
    return folder if folder.parent == search / "trials" and folder.exists() else None


def _prior_of(model: Path) -> Path | None:
    folder = model.with_suffix(".prior")
    return folder if (folder / RUN_SETTINGS).exists() else None


def _there(path: Path) -> Path | None:
    return path if path.exists() else None


def settings_of(folder: Path | None) -> tuple[Beginning, ...]:
    """The recorded settings of a run or search; empty where they are not there or cannot be read."""
    if folder is None:
        return ()
    paths = [path for name in (RUN_SETTINGS, SEARCH_SETTINGS) if (path := folder / name).exists()]
    try:
        return tuple(read_settings(path) for path in paths)
    except DistillError:
        return ()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none that can be read."""
    try:
        document = parse_json(read_regular(path))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}

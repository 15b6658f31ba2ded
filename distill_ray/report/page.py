"""The page itself: facts → one HTML document with everything in it.

The template escapes all text; only drawings, which `svg.py` has made, go in as they are. The policy in its
head names the one style sheet and the one script by their hashes and allows pictures and sounds as data.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from distill_ray.foreign import printable
from distill_ray.jsonable import jsonable
from distill_ray.report.facts import ReportFacts, Sound, SoundGroup
from distill_ray.report.numbers import count
from distill_ray.report.parts import Part, parts
from distill_ray.report.players import Players
from distill_ray.report.plots import SPECTROGRAM_BOX, Plots
from distill_ray.uri import redacted
from distill_ray.version import __version__

MOST_AUDIO_BYTES = 12 << 20
"""Of base64, so that a page with its pictures and tables stays below 15 MB."""
MOST_SOUNDS = 72


@dataclass(frozen=True, kw_only=True)
class Page:
    """`audio_bytes`: what its sounds take of it; `late`: how many are left out for lack of time."""

    html: str
    sounds: int
    audio_bytes: int
    notes: tuple[str, ...]
    late: int = 0


@dataclass(frozen=True, kw_only=True)
class _Titled:
    title: str
    kind: str
    parts: tuple[Part, ...]


def make_page(
    facts: ReportFacts,
    *,
    most_audio_bytes: int = MOST_AUDIO_BYTES,
    most_sounds: int = MOST_SOUNDS,
    time_for: int | None = None,
) -> Page:
    """The report as HTML; sounds are left out or cut where there is no room for them, or time for only
    `time_for` of them, and a note says so.
    """
    facts, dropped = _bounded(facts, most_sounds)
    if dropped:
        facts = _noted(facts, f"{count(dropped, 'more sound')}: a page has at most {most_sounds}.")
    late = 0
    if time_for is not None:
        facts, late = _bounded(facts, time_for)
    if late:
        facts = _noted(
            facts, f"{count(late, 'more sound')}, for lack of time: `distill-ray report` shows all of them."
        )
    plots = Plots()
    sounds = list(_sounds(facts))
    players = Players(sounds, plots, most_bytes=most_audio_bytes)
    if players.cut:
        limit = f"{most_audio_bytes / 2**20:.3g} MB"
        note = f"The rest of {count(players.cut, 'sound')}, cut so that all of them fit into {limit}."
        facts = _noted(facts, note)
    html = _render(facts, parts(facts, players, plots))
    return Page(html=html, sounds=len(sounds), audio_bytes=players.bytes, notes=facts.notes, late=late)


def _noted(facts: ReportFacts, note: str) -> ReportFacts:
    return dataclasses.replace(facts, notes=(*facts.notes, note))


def _sounds(facts: ReportFacts) -> list[Sound]:
    groups = [sound for group in (*facts.excerpts, *facts.generated) for sound in group.sounds]
    pairs = facts.judged.nearest if facts.judged is not None else ()
    return groups + [sound for pair in pairs for sound in (pair.generated, pair.source) if sound is not None]


def _bounded(facts: ReportFacts, most: int) -> tuple[ReportFacts, int]:
    """At most so many sounds, and how many others are left out: half of them by the finished model, then
    excerpts.
    """
    left = most - 2 * (len(facts.judged.nearest) if facts.judged is not None else 0)
    finished, earlier = facts.generated[-1:], facts.generated[:-1]
    kept: dict[int, SoundGroup] = {}
    dropped = 0
    for group in (*finished, *facts.excerpts, *earlier):
        own = left - left // 2 if group in finished and facts.excerpts else left
        sounds = group.sounds[: max(0, own)]
        left, dropped = left - len(sounds), dropped + len(group.sounds) - len(sounds)
        if sounds:
            kept[id(group)] = dataclasses.replace(group, sounds=sounds)
    excerpts, generated = (
        tuple(kept[id(group)] for group in groups if id(group) in kept)
        for groups in (facts.excerpts, facts.generated)
    )
    return dataclasses.replace(facts, excerpts=excerpts, generated=generated), dropped


def _render(facts: ReportFacts, made: tuple[Part, ...]) -> str:
    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
    )
    numbers = itertools.count()
    environment.globals["next_number"] = lambda: next(numbers)
    css, script = ((folder / name).read_text("utf-8") for name in ("page.css", "page.js"))
    return environment.get_template("page.html.j2").render(
        page=_Titled(title=facts.title, kind=facts.kind, parts=made),
        version=__version__,
        css=Markup(css),  # noqa: S704 - a file of this package
        script=Markup(script),  # noqa: S704 - a file of this package
        policy=_policy(css, script),
        box=dict(zip(("left", "bottom", "width", "height"), SPECTROGRAM_BOX, strict=True))
        | {"top": round(1 - SPECTROGRAM_BOX[1] - SPECTROGRAM_BOX[3], 6)},
        figures=Markup(_json(facts)),  # noqa: S704 - JSON without <
    )


def _shown(value: object) -> object:
    """Text without what reverses or hides it (`foreign.py`), and without the credentials of URIs."""
    return printable(redacted(value)) if isinstance(value, str) and not isinstance(value, Markup) else value


def _policy(css: str, script: str) -> str:
    def sha256(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; style-src {sha256(css)}; script-src {sha256(script)}; img-src data:; "
        "media-src data:; base-uri 'none'; form-action 'none'"
    )


def _json(facts: ReportFacts) -> str:
    """The figures for programs, without the sounds; no `<` in it, so that no text can end its element."""
    text = json.dumps(jsonable(_without_sounds(facts)), allow_nan=False, ensure_ascii=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _without_sounds(value: Any) -> Any:
    if isinstance(value, Sound):
        return {"label": value.label, "seconds": value.seconds, "sample_rate": value.sample_rate}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _without_sounds(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _without_sounds(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_without_sounds(item) for item in value]
    return value

"""The parts of the page: what stands in which section, made of `facts.py`'s records.

`page.py` renders them; `curves.py` has the charts of a training and `candidates.py` those of a search.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from distill_ray.evaluate.judgement import (
    JUDGEMENT_HEADER,
    LEVEL_HEADER,
    Judgement,
    NearestMoment,
    level_rows,
)
from distill_ray.report.candidates import search_blocks
from distill_ray.report.curves import run_charts
from distill_ray.report.facts import Fact, Judged, ReportFacts, Setting, Table
from distill_ray.report.numbers import count, moment, number, percent, short_path
from distill_ray.report.players import Player, Players
from distill_ray.report.plots import Chart, Plots
from distill_ray.vqvae.health import CodeAgreement

_MOST_WARNINGS = 30
_KEPT = (
    ": “kept” is the share of codes that stay the same in held-out audio that is shifted by part of a code "
    "frame, has its polarity flipped, or is 3 dB louder or softer."
)
_NOT_HELD_OUT = "Nothing was held out: the model has been trained on these. "
_KINDS = {"vqvae": "Codec", "prior": "Prior"}


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Players side by side, and what the pair is called."""

    label: str
    sounds: tuple[Player, ...]


@dataclass(frozen=True, kw_only=True)
class Block:
    """A piece of a section; what is empty is not shown. `folded`: the tables open on a click of that name."""

    title: str = ""
    verdict: str = ""
    note: str = ""
    facts: tuple[Fact, ...] = ()
    lines: tuple[str, ...] = ()
    warning: bool = False
    sounds: tuple[Player, ...] = ()
    pairs: tuple[Pair, ...] = ()
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    folded: str = ""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A section; `id` is its anchor."""

    id: str
    title: str
    blocks: tuple[Block, ...]
    lead: str = ""


def parts(facts: ReportFacts, players: Players, plots: Plots) -> tuple[Part, ...]:
    """The sections of the page in their order, without empty ones."""
    made = (
        Part(id="trained", title="What was trained on what", blocks=(Block(facts=facts.overview),)),
        Part(id="warnings", title="Warnings", blocks=tuple(_warnings(facts))),
        Part(
            id="held-out",
            title="Held-out recordings" if facts.is_held_out else "Recordings",
            lead=("The model has not been trained on these. " if facts.is_held_out else _NOT_HELD_OUT)
            + "Each original is followed by what the codec makes of it, in the order of training; all "
            "pictures of a group have the same scale of levels.",
            blocks=tuple(
                Block(title=excerpt.title, sounds=players.group(excerpt.sounds, excerpt.title))
                for excerpt in facts.excerpts
            ),
        ),
        Part(
            id="generated",
            title="Generated sounds",
            lead="What the prior makes by itself, without a prompt.",
            blocks=tuple(
                Block(title=group.title, sounds=players.group(group.sounds, group.title))
                for group in facts.generated
            ),
        ),
        Part(id="judge", title="How near to the recordings", blocks=tuple(_judged(facts.judged))),
        Part(
            id="nearest",
            title="Nearest training moments",
            lead="Generated seconds, each beside the second of training audio that is nearest to it.",
            blocks=tuple(_nearest(facts.judged, players)),
        ),
        Part(
            id="curves",
            title="Curves",
            blocks=tuple(
                Block(title=_KINDS.get(run.kind, run.kind) if len(facts.runs) > 1 else "", charts=charts)
                for run in facts.runs
                if (charts := tuple(run_charts(run, plots)))
            ),
        ),
        Part(id="health", title="Codebook health", blocks=tuple(_health(facts))),
        Part(id="search", title="Search", blocks=tuple(_search(facts, plots))),
        Part(id="settings", title="Settings", blocks=tuple(_settings(facts.settings))),
        Part(id="provenance", title="Provenance", blocks=tuple(_provenance(facts))),
    )
    return tuple(part for part in made if any(_is_shown(block) for block in part.blocks))


def _is_shown(block: Block) -> bool:
    content = (block.facts, block.lines, block.sounds, block.pairs, block.charts, block.tables)
    return any((block.note, block.verdict, *content))


def _warnings(facts: ReportFacts) -> Iterator[Block]:
    left_out = len(facts.warnings) - _MOST_WARNINGS
    more = (f"and {left_out} earlier ones, in the run's events.jsonl",) if left_out > 0 else ()
    yield Block(lines=facts.warnings[-_MOST_WARNINGS:] + more, warning=True)


def _judged(judged: Judged | None) -> Iterator[Block]:
    if judged is None:
        return
    yield _judgement("Generated sound", judged.generated)
    yield Block(facts=tuple(_copy_facts(judged.generated)))
    yield _judgement("Held-out recordings, decoded by the codec", judged.decoded)
    yield Block(
        title="Levels",
        tables=(
            Table(
                caption="Drift compares the last third of long sounds with the first.",
                columns=LEVEL_HEADER,
                rows=tuple(level_rows(judged.generated, judged.decoded)),
                numeric=frozenset(range(1, len(LEVEL_HEADER))),
            ),
        ),
    )


def _judgement(title: str, found: Judgement) -> Block:
    low, high = found.ratio_interval.low, found.ratio_interval.high
    verdict = (
        f"{found.ratio:.2f} times the Fréchet distance of one half of the training audio from the other "
        f"(95\u00a0%: {low:.2f} to {high:.2f}; 1 could not be told from it)."
    )
    if found.floors.held_out is not None:
        real = found.floors.held_out.frechet / found.floors.halves.frechet
        verdict += f" Held-out recordings: {real:.2f} times."
    if found.copies is not None:
        verdict += f" Copies: {found.copies.verdict}."
    rows = tuple(tuple(number(cell) for cell in row) for row in found.rows())
    table = Table(
        caption=f"{count(found.windows, 'window')} of {count(found.sounds, 'sound')}, "
        f"{found.seconds:.0f} s in all. Distances and kernel: lower is better; coverage and density: higher. "
        "“halves” and “held out” are what real recordings reach.",
        columns=JUDGEMENT_HEADER,
        rows=rows,
        numeric=frozenset(range(1, len(JUDGEMENT_HEADER))),
    )
    return Block(title=title, verdict=verdict, lines=found.warnings, warning=True, tables=(table,))


def _copy_facts(found: Judgement) -> Iterator[Fact]:
    if found.copies is not None:
        yield Fact(name="seconds that count as copies", value=percent(found.copies.share))
        yield Fact(name="longest copied stretch", value=f"{found.copies.longest_s:.1f} s")
        yield Fact(
            name="the same share of audio that copies nothing",
            value=f"{percent(found.copies.false_positive_rate)} of "
            f"{count(found.copies.calibration_windows, 'window')}",
        )
    if found.exact_continuations is not None:
        yield Fact(name="training prompts continued exactly", value=percent(found.exact_continuations))
    if found.held_out_continuations is not None:
        yield Fact(name="held-out prompts continued exactly", value=percent(found.held_out_continuations))


def _nearest(judged: Judged | None, players: Players) -> Iterator[Block]:
    for pair in judged.nearest if judged is not None else ():
        found = pair.moment
        title = (
            f"{short_path(found.file)} at {moment(found.time_s)} – "
            f"{short_path(found.source)} at {moment(found.source_time_s)}"
        )
        sounds = tuple(sound for sound in (pair.generated, pair.source) if sound is not None)
        yield Block(
            title=title,
            note=_nearness(found),
            pairs=(Pair(label=title, sounds=players.group(sounds, title)),) if sounds else (),
        )


def _nearness(found: NearestMoment) -> str:
    distance = f"distance {number(found.distance)}"
    if found.ratio is None:
        return distance
    return f"{distance}, {found.ratio:.2f} times what held-out audio usually has (below 1: nearer)"


def _health(facts: ReportFacts) -> Iterator[Block]:
    if not facts.health:
        return
    columns = ("level", "codes in use", "perplexity", "dead codes", "entropy")
    kept = _kept(facts.agreement)
    table = Table(
        caption="Use of each RVQ level's codes by the weights that were kept"
        + (
            ", and how many codes stay the same when the sound is changed in ways that nobody hears"
            * bool(kept)
        )
        + ". Even use says nothing of whether codes can be predicted.",
        columns=(*columns, *(name for name, _ in kept)),
        rows=tuple(
            (
                str(level),
                percent(item.utilization),
                number(item.perplexity),
                number(item.dead_codes),
                f"{item.entropy:.3f}",
                *(percent(shares[level]) for _, shares in kept),
            )
            for level, item in enumerate(facts.health)
        ),
        numeric=frozenset(range(1, len(columns) + len(kept))),
    )
    yield Block(tables=(table,))


def _kept(codes: CodeAgreement | None) -> tuple[tuple[str, tuple[float, ...]], ...]:
    """What part of each level's codes stays under a change of the sound."""
    if codes is None:
        return ()
    return (
        ("kept at ⅛ frame", codes.shift_eighth),
        ("at ¼ frame", codes.shift_quarter),
        ("at ½ frame", codes.shift_half),
        ("at −1 ×", codes.polarity),
        ("at ± 3 dB", codes.gain_3db),
    )


def _search(facts: ReportFacts, plots: Plots) -> Iterator[Block]:
    if facts.search is None:
        return
    made = search_blocks(facts.search, plots)
    advice = (facts.search.advice,) if facts.search.advice else ()
    yield Block(lines=advice, warning=True)
    yield Block(facts=made.facts, charts=made.charts)
    yield Block(tables=made.tables[:1])
    yield Block(tables=made.tables[1:], folded="All trials")


def _settings(settings: Sequence[Setting]) -> Iterator[Block]:
    overrides = [each for each in settings if each.source == "override"]
    if overrides:
        yield Block(title="Given", tables=(_setting_table("Settings that were given", overrides),))
    tables = dict.fromkeys(each.table for each in settings)
    for name in tables:
        own = [each for each in settings if each.table == name]
        yield Block(tables=(_setting_table(f"[{name}]", own),), folded=f"[{name}], {len(own)} settings")


def _setting_table(caption: str, settings: Sequence[Setting]) -> Table:
    return Table(
        caption=caption,
        columns=("setting", "value", "source"),
        rows=tuple(
            (f"{each.table}.{each.name}", each.value, f"({each.source})" if each.source else "")
            for each in settings
        ),
    )


def _provenance(facts: ReportFacts) -> Iterator[Block]:
    yield Block(facts=facts.provenance)
    if facts.notes:
        yield Block(title="Not on this page", lines=facts.notes)

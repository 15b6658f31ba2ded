"""`distill-ray generate`: a model with a prior → new sound, or the continuation of a recording."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distill_ray.cli import options, sounds
from distill_ray.cli.device import Device
from distill_ray.cli.output import bytes_on_stdout, finish, shown_to_a_person
from distill_ray.cli.settings import Settings, takes_settings
from distill_ray.config.generation import GUIDANCE, GenerationSettings
from distill_ray.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from distill_ray.config.vqvae import VQVAEConfig
    from distill_ray.evaluate.novelty import NoveltyCheck
    from distill_ray.generate import GenerationReport


@takes_settings("generate")
def command(
    *,
    model: sounds.ModelFile,
    settings: Settings,
    prompt: Annotated[
        Path | None,
        typer.Option(
            "--prompt", help="Audio to continue; the output begins with it and -d counts it.", metavar="AUDIO"
        ),
    ] = None,
    out: sounds.Out = None,
    like: Annotated[
        list[str] | None,
        typer.Option(
            "--like",
            help="A control and standard deviations from the corpus's middle, -2 to 2: loudness, brightness, "
            "density (of onsets) or pitch; may be given for several.",
            metavar="CONTROL=±N",
            show_default=False,
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(
            "--label", help="Like the recordings of this folder.", metavar="NAME", show_default=False
        ),
    ] = None,
    guidance: Annotated[
        float,
        typer.Option(
            "--guidance",
            help="How firmly to follow --like and --label; 1: as learnt, 0: not at all; at most 20.",
        ),
    ] = GUIDANCE,
    check: Annotated[
        bool,
        typer.Option("--check", help="Name the nearest training moment of every second that was made."),
    ] = False,
    novel: Annotated[
        bool,
        typer.Option("--novel", help="Draw again what copies a training recording; checks too."),
    ] = False,
    corpus: Annotated[
        str | None,
        typer.Option(
            "--corpus",
            help="The recordings that the prior was trained on, for --check and --novel. [default: where "
            "they were then]",
            metavar="DATA",
            show_default=False,
        ),
    ] = None,
    stream: Annotated[
        bool,
        typer.Option("--stream", help="Write one sound to stdout while it is made, as wav: … | aplay"),
    ] = False,
    overwrite: options.Overwrite = False,
    device: Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Generate audio; the same seed on the same kind of device gives the same files.

    Without --seed another one is drawn each time; the names of the files and --json have it.

    With --stream, exit code 141 says that whoever read stdout has gone.
    """
    wanted, sampling = sounds.asked_for(settings, out)
    from distill_ray.generate.request import check_prior
    from distill_ray.generate.wish import Wish, parse_like

    wish = Wish(label=label, like=parse_like(like or ()), guidance=guidance)
    if stream:
        _refuse_beside_stream(wanted, out=out, as_json=as_json, check=check or novel)
    if corpus is not None and not (check or novel):
        raise UsageError("--corpus is of use only with --check or --novel; add one or leave it out")
    from distill_ray.bundle import choose_device, load_model_v2
    from distill_ray.cli.training_audio import novelty_check
    from distill_ray.display import Display
    from distill_ray.events.records import Notice
    from distill_ray.generate import generate_samples, generate_stream

    loaded = load_model_v2(model, device=choose_device(device))
    with Display() as display:
        if stream:
            blocks_CT = generate_stream(
                loaded,
                seconds=wanted.seconds,
                sampling=sampling,
                seed=wanted.seed,
                prompt=prompt,
                wish=wish,
                on_progress=display,
            )
            _play(blocks_CT, loaded.vqvae_config)
            return
        check_prior(loaded)
        wish.guided(loaded)  # before a corpus is read
        novelty = novelty_check(loaded, corpus, display, must_judge=novel) if check or novel else None
        report = generate_samples(
            loaded,
            count=wanted.count,
            seconds=wanted.seconds,
            sampling=sampling,
            seed=wanted.seed,
            prompt=prompt,
            wish=wish,
            accepts=None if novelty is None else _accepts(novelty, novel=novel),
            out_dir=out or Path("generated"),
            audio_format=wanted.audio_format,
            overwrite=overwrite,
            on_progress=display,
        )
        for notice in _notices(report, novelty):
            display(Notice(level="info", message=notice))
    document = report.to_json() | ({} if novelty is None else {"check": novelty.to_json()})
    finish(document, result=report.files, as_json=as_json)


def _accepts(novelty: NoveltyCheck, *, novel: bool) -> Callable[[Path, float], bool]:
    def accepts(path: Path, prompt_seconds: float) -> bool:
        return novelty(path, prompt_seconds).is_new or not novel

    return accepts


def _notices(report: GenerationReport, novelty: NoveltyCheck | None) -> Iterator[str]:
    """What became of what was asked for, file by file."""
    for number, file in enumerate(report.files):
        for name, found in report.controls[number].items() if report.controls else ():
            if found.asked is not None:
                yield f"{file}: {name} {found}"
        if report.draws[number] > 1:
            yield f"{file}: drawn {report.draws[number]} times; the others copied a training recording"
        if novelty is not None:
            yield from novelty.checked[Path(file)].lines()


def _refuse_beside_stream(
    wanted: GenerationSettings, *, out: Path | None, as_json: bool, check: bool
) -> None:
    if check:
        raise UsageError("--stream plays a sound before it could be checked; leave out --check and --novel")
    if as_json:
        raise UsageError("--stream puts the sound on stdout, where --json puts its document; leave one out")
    if wanted.count != 1:
        raise UsageError(f"--stream makes one sound and -n asks for {wanted.count}; leave one out")
    if out is not None:
        raise UsageError("--stream writes to stdout and -o names a folder; leave one out")
    if wanted.audio_format != "wav":
        raise UsageError(f"--stream writes wav and --format asks for {wanted.audio_format}; leave one out")
    if shown_to_a_person():
        raise UsageError("--stream writes wav to stdout, which is a terminal; add `| aplay` or `> FILE`")


def _play(blocks_CT: Iterator[Tensor], config: VQVAEConfig) -> None:
    from distill_ray.generate.audio import stream_wav

    with bytes_on_stdout() as stdout:
        stream_wav(stdout, blocks_CT, sample_rate=config.sample_rate, channels=config.channels)

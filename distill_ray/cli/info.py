"""`distill-ray info`: what a `.distill` file holds, and that it is whole. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distill_ray.cli import options
from distill_ray.cli.output import finish, labelled

if TYPE_CHECKING:
    from distill_ray.bundle import FileFacts, Manifest

_DIGEST = 12
"""Digits of a digest that are shown."""
_VERIFIED_MB = 200
"""Files up to here are read whole in less than a second."""
_WORDS = {
    "best_val_loss": "held-out loss",
    "exit_reason": "ended",
    "train_seconds": "seconds in training",
    "val_seconds": "seconds held out",
}


def command(
    model: Annotated[Path, typer.Argument(help="The .distill file.", metavar="MODEL")],
    verify: Annotated[
        bool | None,
        typer.Option(
            "--verify/--no-verify",
            help="Read all of it and check its sha256 sums. [default: up to 200 MB]",
            show_default=False,
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Show configs, corpus, codebook health and provenance of a model."""
    from distill_ray import bundle

    facts = bundle.file_facts(model)
    if verify is None:
        verify = facts.bytes <= _VERIFIED_MB * 1_000_000
    manifest = bundle.verify(model) if verify else bundle.read_manifest(model)
    document = {
        "model_path": str(model),
        "file_bytes": facts.bytes,
        "codec_parameters": facts.codec_parameters,
        "prior_parameters": facts.prior_parameters,
        "kbps": manifest.kbps,
        "verified": verify,
        **manifest.to_json(),
    }
    lines = labelled(list(_rows(model, manifest, facts, verify)))
    finish(document, result=lines, as_json=as_json)


def _rows(model: Path, manifest: Manifest, facts: FileFacts, verified: bool) -> Iterator[tuple[str, str]]:
    config, metadata = manifest.vqvae_config, manifest.metadata
    checked = "sha256 verified" if verified else "not verified: --verify reads all of it"
    yield "file", f"{model} ({facts.bytes / 1e6:.1f} MB, {checked})"
    yield "audio", f"{config.sample_rate} Hz, {config.channels} channel{'s'[: config.channels > 1]}"
    yield "codec", f"{facts.codec_parameters / 1e6:.2f} M values, sha256 {manifest.codec_sha256[:_DIGEST]}"
    yield (
        "codes",
        f"{config.num_quantizers} levels × {config.codebook_size}, {config.frame_rate:.1f} frames/s, "
        f"{manifest.kbps:.2f} kbps",
    )
    prior = manifest.prior
    if prior is None:
        yield "prior", f"none; `distill-ray train-prior {model} DATA` adds one"
    else:
        shape = f"{prior.config.num_layers} layers × {prior.config.hidden_size}, {prior.config.pattern}"
        yield "prior", f"{facts.prior_parameters / 1e6:.2f} M values, {shape}"
        if any(value != 1.0 for value in prior.temperatures):
            levels = ", ".join(f"{value:.2f}" for value in prior.temperatures)
            yield "temperatures", f"{levels} of the levels at --temperature 1"
        controls = prior.controls
        yield "controls", "none" if controls is None else ", ".join(controls.offered) or "none"
        if controls is not None and controls.labels:
            yield "labels", ", ".join(controls.labels)
        below = prior.metadata.get("below_histogram")
        if below is not None:
            yield "prior's gain", f"{below:.1%} below the codes' histogram on held-out audio"
    yield from _listed("corpus", metadata.get("corpus"))
    yield from _listed("training", metadata.get("training"))
    yield from _listed("provenance", metadata.get("provenance"))
    for level, item in enumerate(manifest.codebook_health):
        yield (
            f"level {level}",
            f"{item.utilization:.0%} of codes used, perplexity {item.perplexity:.1f}, {item.dead_codes} dead"
            + _kept(manifest, level),
        )


def _kept(manifest: Manifest, level: int) -> str:
    """How many codes stay the same in changed held-out audio; nothing where it was never measured."""
    agreement = manifest.code_agreement
    if agreement is None:
        return ""
    return (
        f"; kept at ¼ frame {agreement.shift_quarter[level]:.0%}, "
        f"other polarity {agreement.polarity[level]:.0%}, ±3 dB {agreement.gain_3db[level]:.0%}"
    )


def _listed(label: str, facts: Any) -> Iterator[tuple[str, str]]:
    if isinstance(facts, Mapping) and facts:
        shown = {_WORDS.get(key, key.replace("_", " ")): _short(value) for key, value in facts.items()}
        yield label, ", ".join(f"{key} {value}" for key, value in shown.items() if value != "None")


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return "(" + ", ".join(f"{key} {_short(item)}" for key, item in value.items()) + ")"
    text = str(value)
    return text[:_DIGEST] if len(text) == 64 and text.isalnum() else text  # a sha256

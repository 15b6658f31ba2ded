"""The recordings that a model's prior was trained on, found again to compare generated sound with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from distill_ray.cli.recordings import showing_findings
from distill_ray.config.corpus import CorpusConfig
from distill_ray.errors import UsageError
from distill_ray.uri import is_uri

if TYPE_CHECKING:
    from distill_ray.bundle import LoadedVQModel
    from distill_ray.display import Display
    from distill_ray.evaluate.novelty import NoveltyCheck


def novelty_check(
    loaded: LoadedVQModel, data: str | None, display: Display, *, must_judge: bool
) -> NoveltyCheck:
    """The check against the recordings at `data`, by default where the model's record says they were.

    Raises UsageError where they are not there, and with `must_judge` where there is too little of them to
    tell what is near.
    """
    from distill_ray.corpus import ensure_corpus
    from distill_ray.evaluate.novelty import NoveltyCheck
    from distill_ray.events.records import StageProgress
    from distill_ray.runs.inputs import on_report

    record = (loaded.prior_metadata or {}).get("corpus")
    known: Mapping[str, object] = record if isinstance(record, Mapping) else {}
    source = data if data is not None else known.get("source")
    if not isinstance(source, str) or (data is None and not is_uri(source) and not Path(source).exists()):
        where = f"are not at {source}" if isinstance(source, str) else "are not known"
        raise UsageError(
            f"the recordings that the prior of {loaded.path} was trained on {where}; name them with "
            "--corpus DATA"
        )
    codec = loaded.vqvae_config
    corpus = ensure_corpus(
        source,
        CorpusConfig(sample_rate=codec.sample_rate, channels=codec.channels),
        asked_by="the model is",
        on_progress=lambda done, total, note: display(
            StageProgress(stage="prepare", done=done, total=total, note=note)
        ),
        on_report=on_report(showing_findings(display)),
    )
    if corpus.digest != known.get("digest"):
        display.warn(
            f"{source} is not the corpus that the prior was trained on, as its record has it: what it learnt "
            "by heart elsewhere is not found"
        )
    novelty = NoveltyCheck(loaded, corpus, on_progress=display)
    if must_judge and not novelty.can_judge:
        raise UsageError(
            f"{source} has a single recording and nothing held out, so that nothing tells what is too near; "
            "leave out --novel"
        )
    return novelty

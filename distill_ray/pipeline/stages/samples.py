"""Stage `samples`: sounds that the finished model makes; each set of another kind has a folder of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill_ray.config.build import build_sections
from distill_ray.config.generation import GenerationSettings
from distill_ray.events.records import Notice, PlannedStage
from distill_ray.pipeline.budget import TOTAL
from distill_ray.pipeline.stages.context import PipelineContext, manifest, skipped, will_run


class Samples:
    """Sounds that the finished model makes; each set of another length has a folder of its own."""

    name = "samples"

    def __init__(self, context: PipelineContext) -> None:
        self._context = context

    def decide(self, after: str | None) -> PlannedStage:
        settings = self._settings()
        if after is not None:
            return will_run(self.name, f"after {after}")
        found = self._found(self._sets())
        if found is not None:
            seconds = found.get("made_seconds", settings.seconds)
            there = min(settings.count, len(found["files"]))
            late = f", of {settings.count} for lack of time" if there < settings.count else ""
            return skipped(self.name, f"{there} of {seconds:g} s with seed {settings.seed} are there{late}")
        cut = (self._context.record.folder / self._free_folder([])).is_dir()
        none = "they were not all made" if cut else "this model has made none yet"
        return will_run(self.name, "other ones are there" if self._sets() else none)

    def skip(self) -> None:
        found = self._found(self._sets())
        assert found is not None, "decide has found them"
        self._take(found)

    def run(self) -> int:
        from distill_ray.bundle import choose_device, load_model_v2
        from distill_ray.generate import generate_samples

        context, settings, sets = self._context, self._settings(), self._sets()
        identity = self._identity()
        same = next((item for item in sets if _same(item, identity)), None)
        folder = same["folder"] if same else self._free_folder(sets)
        loaded, budget = load_model_v2(context.record.model, device=choose_device("auto")), context.budget
        seconds = settings.seconds if budget is None else budget.seconds_of_sound(settings.seconds)
        report = generate_samples(
            loaded,
            count=settings.count,
            seconds=seconds,
            seed=settings.seed,
            out_dir=context.record.folder / folder,
            audio_format=settings.audio_format,
            overwrite=True,  # of these settings, cut short
            has_time=None if budget is None else budget.has_time_for_sound,
            on_progress=context.listener,
        )
        paths = [Path(path) for path in report.files]
        made = {
            **identity,
            "folder": folder,
            "files": [{"name": path.name, "bytes": path.stat().st_size} for path in paths],
        }
        if len(paths) < settings.count or seconds < settings.seconds:
            total = context.record.settings.get(TOTAL)
            made |= {"made_seconds": seconds, "asked": settings.count, "total": total}
            asked = f"samples: {len(paths)} of {settings.count} made, of {seconds:g} s each"
            message = f"{asked}, for lack of time: `distill-ray generate` makes more"
            context.listener(Notice(level="info", message=message))
        context.record.finish(self.name, {"sets": [*(item for item in sets if item is not same), made]})
        self._take(made)
        return 0

    def _settings(self) -> GenerationSettings:
        return build_sections((GenerationSettings,), self._context.record.settings)[GenerationSettings]

    def _identity(self) -> dict[str, Any]:
        """What decides how a sample sounds, but for its number."""
        model, settings = manifest(self._context.record.model), self._settings()
        return {
            "codec_sha256": model.codec_sha256,
            "prior_sha256": model.prior.sha256 if model.prior else None,
            "seconds": settings.seconds,
            "seed": settings.seed,
            "format": settings.audio_format,
        }

    def _sets(self) -> list[dict[str, Any]]:
        return list(self._context.record.done.get(self.name, {}).get("sets", ()))

    def _found(self, sets: list[dict[str, Any]]) -> dict[str, Any] | None:
        """The set that has all that is asked for, or that there was time for, whole on disk."""
        identity, count = self._identity(), self._settings().count
        late = {"asked": count, "total": self._context.record.settings.get(TOTAL)}
        for item in sets:
            is_all = _same(item, late) if "total" in item else len(item["files"]) >= count
            if _same(item, identity) and is_all and self._is_whole(item, count):
                return item
        return None

    def _is_whole(self, item: Mapping[str, Any], count: int) -> bool:
        folder = self._context.record.folder / item["folder"]
        sizes = {entry.name: entry.stat().st_size for entry in os.scandir(folder)} if folder.exists() else {}
        return all(sizes.get(file["name"]) == file["bytes"] for file in item["files"][:count])

    def _free_folder(self, sets: list[dict[str, Any]]) -> str:
        taken = {item["folder"] for item in sets}
        names = ("samples" if number == 1 else f"samples-{number}" for number in range(1, len(taken) + 2))
        return next(name for name in names if name not in taken)

    def _take(self, item: Mapping[str, Any]) -> None:
        folder, count = self._context.record.folder / item["folder"], self._settings().count
        self._context.samples = tuple(folder / file["name"] for file in item["files"][:count])


def _same(item: Mapping[str, Any], identity: Mapping[str, Any]) -> bool:
    return all(item.get(key) == value for key, value in identity.items())

"""What `vary`, `fill`, `loop` and `morph` share on the command line: options, and how an edit ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distill_ray.cli.output import finish, tell
from distill_ray.cli.settings import Settings
from distill_ray.cli.sounds import asked_for
from distill_ray.config.generation import GenerationSettings, SamplingConfig

if TYPE_CHECKING:
    from distill_ray.bundle import LoadedVQModel
    from distill_ray.generate.edit import Edit

Recording = Annotated[Path, typer.Argument(help="The recording, of any rate and format.", metavar="AUDIO")]


def run_edit(
    make: Callable[[LoadedVQModel, GenerationSettings, SamplingConfig], Edit],
    *,
    model: Path,
    settings: Settings,
    out: Path | None,
    overwrite: bool,
    device: str,
    as_json: bool,
) -> None:
    """Make and write what is asked for, settings by dotted key, and say how it is joined."""
    wanted, sampling = asked_for(settings, out)
    from distill_ray.bundle import choose_device, load_model_v2
    from distill_ray.display import Display
    from distill_ray.generate.edit import write_edits

    loaded = load_model_v2(model, device=choose_device(device))
    edit = make(loaded, wanted, sampling)
    with Display() as display:
        report = write_edits(
            loaded, edit, wanted, out or Path("generated"), overwrite=overwrite, on_progress=display
        )
    if report.seam_line:
        tell(report.seam_line)
    finish(report.to_json(), result=report.files, as_json=as_json)

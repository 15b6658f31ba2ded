"""Writers that are killed between two writes: `python killed_writes.py WRITER FOLDER` is what they do.

Each has what is there before, what it writes, and what the product's reader finds.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

RATE = 8_000


@dataclass(frozen=True, kw_only=True)
class Writer:
    """`before` fills an empty folder, `write` is killed, `read` gives what can be compared."""

    before: Callable[[Path], object]
    write: Callable[[Path], object]
    read: Callable[[Path], object]
    grows: bool = False
    """A tuple that is written item by item."""
    is_command: bool = False
    """`write` becomes a command and does not return."""


def record(folder: Path, spent_s: float) -> None:
    from distill_ray.pipeline.record import PipelineRecord

    made = PipelineRecord(
        folder=folder, shown=folder, name="m", tune=False, sources=("in",), settings={}, spent_s=spent_s
    )
    made.finish("prepare", {"note": "x" * 5_000})


def read_record(folder: Path) -> object:
    from distill_ray.pipeline.record import open_record

    return open_record(folder, folder).spent_s


def claim_settings(folder: Path) -> None:
    """As a run begins, or goes on by the same command."""
    from distill_ray.runs.going_on import is_asked_again
    from distill_ray.runs.run_folder import RunFolder, Start, new_run

    given: dict[str, object] = {"training.lr": 0.002, "training.epochs": 3}
    run = RunFolder(path=folder / "run")
    if is_asked_again(run, given):
        return
    start: Start[Any] = new_run(run, given)
    start.record(given, {"name": "m"}, overrides=frozenset(given), corpus={})


def read_settings(folder: Path) -> object:
    from distill_ray.runs import settings_file

    path = folder / "run" / "run.toml"
    return dict(settings_file.read_settings(path).settings) if path.exists() else None


def trial(folder: Path, epochs: int) -> None:
    from distill_ray.tune.folder import SweepFolder
    from distill_ray.tune.trial import TrialRecord, TrialSpec

    spec = TrialSpec(id="k16-q2", round="search", codebook_size=16, rvq_levels=2, depths=(2,))
    SweepFolder(path=folder).save(TrialRecord(spec=spec, state="running", epochs=epochs))


def read_trial(folder: Path) -> object:
    from distill_ray.tune.folder import SweepFolder

    return tuple(each.epochs for each in SweepFolder(path=folder).records())


def events(folder: Path, *messages: str) -> None:
    from distill_ray.display.log import EventLog
    from distill_ray.events.records import Notice, PipelinePlan

    with EventLog() as log:
        log(PipelinePlan(output_dir=str(folder), stages=()))
        for message in messages:
            log(Notice(level="warning", message=message))


def read_events(folder: Path) -> object:
    """What was said, of which no more than the last line may be torn."""
    from distill_ray.report.event_log import read_log

    told = read_log(folder)
    assert told.damaged <= 1
    return told.warnings


def recordings(folder: Path, *numbers: int) -> Path:
    import soundfile

    (folder / "in").mkdir(exist_ok=True)
    for number in numbers:
        signal_T = 0.1 * np.random.default_rng(number).standard_normal(RATE)
        soundfile.write(folder / "in" / f"{number}.wav", signal_T, RATE)
    return folder / "in"


def prepare(folder: Path) -> None:
    from distill_ray.config.corpus import CorpusConfig
    from distill_ray.corpus import prepare_corpus

    prepare_corpus([folder / "in"], folder / "out", config=CorpusConfig(sample_rate=RATE), workers=1)


def read_corpus(folder: Path) -> object:
    from distill_ray.corpus import open_corpus
    from distill_ray.errors import CorpusError

    if not (folder / "out" / "distill-corpus.json").exists():
        return None
    try:
        corpus = open_corpus(folder / "out")
    except CorpusError as error:
        return str(error)
    sums = []
    for file in (*corpus.files("train"), *corpus.files("val")):
        pcm_CT = np.empty((1, file.samples), np.int16)
        corpus.read_into(pcm_CT, file, 0)
        sums.append(int(pcm_CT.astype(np.int64).sum()))
    return (corpus.digest, *sums)


def before_second_prepare(folder: Path) -> None:
    recordings(folder, 1, 2)
    prepare(folder)
    recordings(folder, 3)
    (folder / "in" / "1.wav").unlink()


@dataclass(frozen=True)
class _File:
    sha256: str
    split: str
    samples: int


class _Noise:
    """A corpus to be encoded."""

    digest = "d" * 64
    files = tuple(_File(f"{number:064x}", "train", 200 * (number + 1)) for number in range(3))

    def read(self, file: _File) -> Any:
        import torch

        generator = torch.Generator().manual_seed(int(file.sha256, 16))
        return torch.randint(-32768, 32768, (1, file.samples), generator=generator).to(torch.int16)


def codes(folder: Path) -> Any:
    from distill_ray.prior import extract_code_sequences

    return extract_code_sequences(
        lambda audio_CT: ((audio_CT[:, ::8] + 1) * 7).long(),
        _Noise(),
        _Noise.files,
        cache=folder,
        model_hash="a" * 64,
        codebook_size=16,
        num_quantizers=1,
    )


def read_codes(folder: Path) -> object:
    """None without a shard; else all codes, and what was wrong with the shard."""
    if not [*folder.rglob("codes-*.parquet")]:
        return None
    store = codes(folder)
    sums = [(each.sha256, int(each.codes_QT.sum())) for each in store.sequences]
    return (sorted(sums), store.notices)


def checkpoint(folder: Path, value: int) -> None:
    import torch

    from distill_ray.storage.checkpoints import Checkpoints
    from distill_ray.training.checkpoint import write_json, write_state, write_weights

    def write(new: Path) -> None:
        weights = {"w": torch.full((20_000,), float(value))}
        write_state(new / "state.pt", {"model": weights})
        write_weights(new / "best.safetensors", weights)
        write_json(new / "run.json", {"value": value})

    assert Checkpoints(folder).keep(write)


def read_checkpoint(folder: Path) -> object:
    import torch

    from distill_ray.storage.uploaded import settle
    from distill_ray.training.checkpoint import read_json, read_state, read_weights

    newest = settle(folder)
    assert newest is not None
    state = read_state(newest / "state.pt", torch.device("cpu"))["model"]["w"]
    weights = read_weights(newest / "best.safetensors")["w"]
    value = int(read_json(newest / "run.json")["value"])
    return value if (state == value).all() and (weights == value).all() else "mixed"


def uploaded(folder: Path, value: int) -> None:
    from distill_ray.storage.uploaded import UploadedCheckpoints

    checkpoints = UploadedCheckpoints(folder / "near", (folder / "far").as_uri(), patience_s=30.0)
    checkpoints.settle()

    def write(new: Path) -> None:
        (new / "x").write_text(f"{value} " * 9_000)

    assert checkpoints.keep(write)
    checkpoints.flush()
    checkpoints.close()


def read_uploaded(folder: Path) -> object:
    """What another machine finds."""
    import shutil

    from distill_ray.storage.uploaded import settle

    away = folder / "away"
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(away)
    newest = settle(away, (folder / "far").as_uri())
    values = set((newest / "x").read_text().split()) if newest else set()
    return int(values.pop()) if len(values) == 1 else values


def model(folder: Path, seed: int, *, prior: bool) -> None:
    import torch

    from distill_ray.bundle import save_model_v2
    from distill_ray.config.vqvae import VQVAEConfig
    from distill_ray.prior import CodePrior
    from distill_ray.vqvae import VQVAE

    torch.manual_seed(seed)
    codec = VQVAE(
        VQVAEConfig(
            width=16, encoder_blocks=1, decoder_blocks=1, latent_dim=16, num_quantizers=2, codebook_size=16
        )
    )
    save_model_v2(
        folder / "m.distill",
        codec,
        metadata={},
        codebook_health=(),
        prior=CodePrior(_small_prior()) if prior else None,
        prior_metadata={},
    )


def _small_prior() -> Any:
    from distill_ray.config.prior import PriorConfig

    return PriorConfig(
        codebook_size=16, num_quantizers=2, hidden_size=16, num_layers=1, num_heads=2, context_frames=16
    )


def read_model(folder: Path) -> object:
    from distill_ray.bundle import load_model_v2

    loaded = load_model_v2(folder / "m.distill")
    return (loaded.codec_sha256, loaded.prior is not None)


def report(folder: Path) -> None:
    from distill_ray.report.write import write_report

    write_report(folder / "m.distill", folder / "report.html")


def before_report(folder: Path) -> None:
    model(folder, 1, prior=False)
    report(folder)
    model(folder, 2, prior=False)


def read_report(folder: Path) -> object:
    """Which model it is of, and whether it is whole."""
    text = (folder / "report.html").read_text()
    codec = str(read_model(folder)[0])  # type: ignore[index]
    return (text.rstrip().endswith("</html>"), codec[:12] in text)


def sound_folder(folder: Path) -> None:
    from distill_ray.storage.ours import make_marked_folder

    make_marked_folder(folder / "sounds")


def read_sound_folder(folder: Path) -> object:
    from distill_ray.storage.ours import is_ours

    made = folder / "sounds"
    return is_ours([path.name for path in made.iterdir()]) if made.exists() else None


def prior(folder: Path) -> None:
    import torch

    from distill_ray.bundle import save_prior_to_model
    from distill_ray.prior import CodePrior

    torch.manual_seed(3)
    save_prior_to_model(folder / "m.distill", CodePrior(_small_prior()), prior_metadata={})


def sound(folder: Path) -> None:
    import torch

    from distill_ray.generate.audio import write_audio

    write_audio(folder / "a.ogg", [torch.full((1, RATE), 0.25)], sample_rate=RATE, channels=1)


def read_sound(folder: Path) -> object:
    import soundfile

    path = folder / "a.ogg"
    return soundfile.info(path).frames if path.exists() else None


TRAIN = """
[corpus]
sample_rate = 8000
val_fraction = 0.3

[model]
width = 16
encoder_blocks = 1
decoder_blocks = 1
latent_dim = 16
n_fft = 256
hop = 64
codebook_size = 16
num_quantizers = 2

[training]
batch_size = 4
window_seconds = 0.25
min_epoch_steps = 4
warmup_steps = 4
val_seconds = 2.0
"""


def before_train(folder: Path) -> None:
    recordings(folder, 1, 2, 3, 4)
    (folder / "settings.toml").write_text(TRAIN)


def train(folder: Path) -> None:
    command = ["train", folder / "in", "--config", folder / "settings.toml", "--out", folder / "run"]
    command += ["--name", "m", "--epochs", "2", "--size", "tiny", "--num-workers", "0"]
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    os.execv(sys.executable, [sys.executable, "-m", "distill_ray", *map(str, command)])  # noqa: S606


def read_train(folder: Path) -> object:
    """The codec, which is the same to the last digit wherever its training was killed."""
    return read_model(folder / "run") if (folder / "run" / "m.distill").exists() else None


def nothing(folder: Path) -> None:
    """There was nothing before."""


WRITERS = {
    "record": Writer(
        before=lambda folder: record(folder, 1.0),
        write=lambda folder: record(folder, 2.0),
        read=read_record,
    ),
    "settings": Writer(before=nothing, write=claim_settings, read=read_settings),
    "trial": Writer(
        before=lambda folder: trial(folder, 1), write=lambda folder: trial(folder, 2), read=read_trial
    ),
    "events": Writer(
        before=lambda folder: events(folder, "one"),
        write=lambda folder: events(folder, "two", "three", "four"),
        read=read_events,
        grows=True,
    ),
    "sounds": Writer(before=nothing, write=sound_folder, read=read_sound_folder),
    "first corpus": Writer(before=lambda folder: recordings(folder, 1, 2), write=prepare, read=read_corpus),
    "second corpus": Writer(before=before_second_prepare, write=prepare, read=read_corpus),
    "codes": Writer(before=nothing, write=codes, read=read_codes),
    "checkpoint": Writer(
        before=lambda folder: checkpoint(folder, 1),
        write=lambda folder: checkpoint(folder, 2),
        read=read_checkpoint,
    ),
    "uploaded checkpoint": Writer(
        before=lambda folder: uploaded(folder, 1),
        write=lambda folder: uploaded(folder, 2),
        read=read_uploaded,
    ),
    "model": Writer(
        before=lambda folder: model(folder, 1, prior=False),
        write=lambda folder: model(folder, 1, prior=True),
        read=read_model,
    ),
    "prior": Writer(before=lambda folder: model(folder, 1, prior=False), write=prior, read=read_model),
    "sound": Writer(before=nothing, write=sound, read=read_sound),
    "train": Writer(before=before_train, write=train, read=read_train, is_command=True),
    "report": Writer(before=before_report, write=report, read=read_report),
}


if __name__ == "__main__":
    WRITERS[sys.argv[1]].write(Path(sys.argv[2]))

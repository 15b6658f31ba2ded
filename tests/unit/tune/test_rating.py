"""Objective generation: what a trained codec is worth, with made-up codecs, priors and judges."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from distill_ray.config.sweep import SweepConfig
from distill_ray.config.vqvae import AugmentConfig, LossConfig, TrainingConfig, VQTrainConfig, VQVAEConfig
from distill_ray.errors import AudioError
from distill_ray.evaluate.corpus_reference import Piece
from distill_ray.evaluate.sound import Sound
from distill_ray.events.records import CodecJudged, Event, GeneratedScore, StageProgress
from distill_ray.prior.memorization import COPIES
from distill_ray.runs.run_folder import RunFolder
from distill_ray.training.worker import StopFlag
from distill_ray.tune import rating
from distill_ray.tune.ranking import candidates, winner
from distill_ray.tune.rating import CorpusJudge, JudgedDepths, TrialRater
from distill_ray.tune.step_budget import CODEC_SHARE, PRIOR_SHARE
from distill_ray.vqvae.health import HealthRule

RATE = 8_000
LEVELS = 2
SWEEP = SweepConfig(objective="generation", rvq_levels=(2,), decoded_margin=0.5)
RULE = HealthRule(measure="utilization", floor=0.3, patience=3, warmup=2, gain_floor=0.05)


class Steps:
    """A codec of sounds that are one value: its first level has the tenths and its second the hundredths."""

    encoded = 0

    def encode(self, audio_1CT: Tensor) -> Tensor:
        self.encoded += 1
        hundredths = round(100 * float(audio_1CT.mean()))
        return torch.tensor([[[hundredths // 10], [hundredths % 10]]])

    def decode(self, codes_1QF: Tensor, samples: int | None = None) -> Tensor:
        parts = codes_1QF[0, :, 0] * torch.tensor([0.1, 0.01])[: codes_1QF.shape[1]]
        return torch.full((1, 1, samples or 10 * RATE), float(parts.sum()))


class Distance:
    """Judges by how far the mean of all sounds is from `target`; counts them."""

    def __init__(self, target: float, held_out_windows: int) -> None:
        windows = {"short": range(held_out_windows)}
        self.held_out = SimpleNamespace(windows=windows) if held_out_windows else None
        self.target = target
        self.judged: list[list[Sound]] = []

    def judge(self, sounds: Iterable[Sound], *, seed: int, device: object) -> Any:
        self.judged.append(list(sounds))
        mean = sum(float(sound.audio_CT.mean()) for sound in self.judged[-1]) / len(self.judged[-1])
        return SimpleNamespace(ratio=1.0 + 10.0 * abs(mean - self.target))


class Bench:
    """A judge whose corpus has these values in its splits, and whose model generates these."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.splits = {"train": [0.37, 0.37], "val": [0.35]}
        self.seconds = 10.0
        self.generated = [(3, 9), (3, 5)]  # tenths, hundredths
        self.asked: list[Any] = []
        self.read: list[str] = []
        self.model = Steps()
        monkeypatch.setattr(rating, "make_request", self._request)
        monkeypatch.setattr(rating, "open_corpus", lambda uri: SimpleNamespace(sample_rate=RATE))
        monkeypatch.setattr(rating, "corpus_pieces", self._pieces)
        monkeypatch.setattr(rating, "piece_sounds", lambda corpus, pieces: map(self._sound, pieces))

    def _request(self, loaded: object, settings: Any, *_: object) -> Any:
        self.asked.append(settings)

        def codes(group: int, on_frame: object) -> Tensor:
            rows = [self.generated[(4 * group + row) % len(self.generated)] for row in range(4)]
            return torch.tensor(rows)[:, :, None]

        return SimpleNamespace(batch=4, codes=codes)

    def _pieces(self, corpus: object, split: str) -> list[Piece]:
        self.read.append(split)
        file: Any = SimpleNamespace(path=split)
        samples = round(self.seconds * RATE)
        return [Piece(file=file, start=start, samples=samples) for start in range(len(self.splits[split]))]

    def _sound(self, piece: Piece) -> Sound:
        value = self.splits[piece.file.path][piece.start]
        return Sound(f"{piece.file.path} {piece.start}", torch.full((1, piece.samples), value), RATE)

    @property
    def loaded(self) -> Any:
        config = SimpleNamespace(num_quantizers=LEVELS, sample_rate=RATE)
        return SimpleNamespace(device=torch.device("cpu"), model=self.model, vqvae_config=config)

    def judge(
        self,
        depths: Sequence[int],
        *,
        verdict: str = "none found",
        held_out_windows: int = 10,
        listener: Callable[[Event], None] = lambda event: None,
    ) -> tuple[JudgedDepths, Distance]:
        distance: Any = Distance(0.37, held_out_windows)
        detector: Any = SimpleNamespace(find=lambda sounds: SimpleNamespace(verdict=verdict))
        judge = CorpusJudge(corpus="corpus", reference=distance, detector=detector, seed=7)
        return judge(self.loaded, depths, listener), distance


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_every_depth_is_judged_by_the_same_sounds(bench: Bench) -> None:
    heard: list[Event] = []
    said, distance = bench.judge((1, 2), listener=heard.append)
    (settings,) = bench.asked
    assert (settings.seconds, settings.seed) == (10.0, 7)
    count = settings.count
    assert count * rating.windows_of(10.0) >= 96 > (count - 1) * rating.windows_of(10.0)
    assert [len(sounds) for sounds in distance.judged] == [count, 1, count, 1]  # the last group is cut
    assert len({sound.name for sound in distance.judged[0]}) == count
    assert bench.model.encoded == 1
    # Cut to one level all sounds are 0.3; of both levels they are 0.39 and 0.35, and 0.35 held out.
    mean = sum((0.39, 0.35)[number % 2] for number in range(count)) / count
    assert said.scores == (
        GeneratedScore(levels=1, generated=pytest.approx(1.7), decoded=pytest.approx(1.7)),
        GeneratedScore(
            levels=2, generated=pytest.approx(1 + 10 * abs(mean - 0.37)), decoded=pytest.approx(1.2)
        ),
    )
    assert not said.copied
    stages = [event for event in heard if isinstance(event, StageProgress)]
    assert [event.stage for event in stages] == ["generate"] * -(-count // 4) + ["judge"] * 2


def test_copies_are_found_in_what_all_levels_make(bench: Bench) -> None:
    said, _ = bench.judge((1,), verdict=COPIES)
    assert said.copied


@pytest.mark.parametrize(("windows", "split"), [(0, "train"), (9, "train"), (10, "val")])
def test_training_audio_is_decoded_where_too_little_is_held_out(
    bench: Bench, windows: int, split: str
) -> None:
    _, distance = bench.judge((2,), held_out_windows=windows)
    assert bench.read == [split]
    assert [sound.name.partition(" ")[0] for sound in distance.judged[1]] == [split] * len(
        bench.splits[split]
    )


@pytest.mark.parametrize(("files", "decoded"), [(5, 5), (20, 20), (21, 11), (60, 20)])
def test_of_much_held_out_audio_a_part_is_decoded(bench: Bench, files: int, decoded: int) -> None:
    bench.splits["val"] = [0.37] * files  # of 10 s each; 200 s are the most
    _, distance = bench.judge((2,))
    assert len(distance.judged[1]) == decoded
    assert all(sound.audio_CT.shape == (1, 10 * RATE) for sound in distance.judged[1])


class Trainer:
    """Trains priors that end as `ends` say, and that cost `gains` less than each level's histogram."""

    def __init__(self) -> None:
        self.record: dict[str, object] = {"files": 3}
        self.accelerator = False
        self.calls: list[tuple[Path, float | None]] = []
        self.steps = 500
        self.held_out = [torch.zeros(LEVELS, 4)]

    def train(self, model: Path, run: RunFolder, config: object, **how: Any) -> Any:
        self.calls.append((model, how["minutes"]))
        if how["stop"].requested():
            return None
        completed = SimpleNamespace(
            steps=self.steps,
            bits_per_second=700.0,
            histogram_bits_per_second=1_000.0,
            level_nats=(1.0,) * LEVELS,
        )
        codes = {"train": [torch.zeros(LEVELS, 4)], "val": self.held_out}
        return SimpleNamespace(
            completed=completed,
            codes=SimpleNamespace(codes=codes.__getitem__),
            config=SimpleNamespace(model=SimpleNamespace(codebook_size=64)),
        )


class Trial:
    """A trial whose codec is trained, and what rates it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run = RunFolder(path=folder / "k64-q2")
        self.trainer: Any = Trainer()
        self.gains = (0.4, 0.1)
        self.said: JudgedDepths | Exception = JudgedDepths(
            scores=(GeneratedScore(levels=2, generated=2.0, decoded=1.2),), copied=False
        )
        self.judged: list[tuple[int, ...]] = []
        self.exported: list[tuple[object, Path]] = []
        self.stop = StopFlag()
        self.completed: Any = SimpleNamespace(elapsed_s=120.0, exit_reason="completed")
        monkeypatch.setattr("distill_ray.storage.uploaded.newest_checkpoint", lambda *_: folder / "latest")
        monkeypatch.setattr("distill_ray.runs.export.export_codec", self._export)
        monkeypatch.setattr(
            "distill_ray.bundle.load_model_v2", lambda path, device: SimpleNamespace(prior="prior")
        )
        monkeypatch.setattr(rating, "level_gains", lambda *_: self.gains)

    def _export(self, checkpoint: object, model: Path, *_: object) -> None:
        self.exported.append((checkpoint, model))

    def _judge(self, loaded: object, depths: Sequence[int], listener: object) -> JudgedDepths:
        self.judged.append(tuple(depths))
        if isinstance(self.said, Exception):
            raise self.said
        return self.said

    @property
    def rater(self) -> TrialRater:
        return TrialRater(trainer=self.trainer, rule=RULE, judge=lambda: self._judge)

    def rate(self, depths: tuple[int, ...] = (2,), **training: Any) -> CodecJudged | None:
        return self.rater(
            self.completed, self.run, codec(**training), depths, listener=[].append, stop=self.stop
        )


def codec(**training: Any) -> VQTrainConfig:
    return VQTrainConfig(
        model=VQVAEConfig(num_quantizers=LEVELS),
        training=TrainingConfig(**{"epochs": 1, **training}),
        loss=LossConfig(),
        augment=AugmentConfig(),
    )


@pytest.fixture
def trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trial:
    return Trial(tmp_path, monkeypatch)


def test_a_trial_is_judged_with_its_prior_at_its_depths(trial: Trial) -> None:
    judged = trial.rate((1, 2))
    assert isinstance(trial.said, JudgedDepths)
    assert judged == CodecJudged(
        prior_bits_per_second=700.0,
        histogram_bits_per_second=1_000.0,
        gains=(0.4, 0.1),
        scores=trial.said.scores,
        copied=False,
    )
    model = trial.run.path / "k64-q2.distill"
    assert [path for _, path in trial.exported] == [model]
    assert trial.trainer.calls == [(model, None)]
    trial.rate(())
    assert trial.judged == [(1, 2), (LEVELS,)]


def test_the_prior_of_a_timed_trial_has_its_part_of_the_time(trial: Trial) -> None:
    trial.rate(max_minutes=3.0)
    ((_, minutes),) = trial.trainer.calls
    assert minutes == pytest.approx(2.0 * PRIOR_SHARE / CODEC_SHARE)  # the codec took 120 s


def test_trials_are_ranked_by_distance_and_copies_are_out(trial: Trial, record: Any) -> None:
    records = []
    for size, generated, copied in ((64, 2.5, False), (128, 1.1, True), (256, 1.8, False)):
        trial.said = JudgedDepths(
            scores=(GeneratedScore(levels=2, generated=generated, decoded=1.0),), copied=copied
        )
        judged = trial.rate()
        assert judged is not None
        rated = dataclasses.replace(
            record(size, {2: 9.0 - generated}), generated=judged.scores, copied=judged.copied
        )
        records.append(rated)
    rows = candidates(records, SWEEP, RULE)
    best = winner(rows)
    assert best is not None
    assert best.trial == "k256-q2"
    assert [(row.trial, row.eligible) for row in rows] == [
        ("k256-q2", True),
        ("k64-q2", True),
        ("k128-q2", False),
    ]
    assert rows[2].reason == "copies training audio"


def test_a_level_of_which_the_prior_learns_nothing_ends_it_before_any_sound(trial: Trial) -> None:
    trial.gains = (0.4, 0.02)
    judged = trial.rate()
    assert judged is not None
    assert (judged.collapsed_level, judged.reason) == (1, "level 1: prior's gain 0.02 < 0.05")
    assert (judged.scores, judged.gains, trial.judged) == ((), (0.4, 0.02), [])


def test_a_prior_of_few_steps_or_without_held_out_codes_blames_no_level(trial: Trial) -> None:
    trial.gains = (0.0, 0.0)
    trial.trainer.steps = rating.LEAST_PRIOR_STEPS - 1
    for _ in range(2):
        judged = trial.rate()
        assert judged is not None
        assert (judged.gains, judged.reason, len(judged.scores)) == ((), "", 1)
        trial.trainer.steps, trial.trainer.held_out = 500, []


def test_a_trial_that_was_stopped_in_its_prior_is_judged_when_it_goes_on(trial: Trial) -> None:
    trial.stop.request()
    assert trial.rate() is None
    assert trial.judged == []
    trial.stop = StopFlag()
    assert trial.rate() is not None
    # The same codec gets the same prior, which goes on where it was.
    assert trial.exported[0] == trial.exported[1]
    assert trial.trainer.calls[0] == trial.trainer.calls[1]


def test_a_rating_that_fails_is_said_and_tried_again_without_another_codec(
    trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distill_ray.tune import run_trial
    from distill_ray.tune.run_trial import FAILED, TrialHome, TrialTask

    posted: list[Any] = []
    outbox = SimpleNamespace(post=posted.append, close=lambda: None)
    context = SimpleNamespace(current_actor=None)
    monkeypatch.setattr(run_trial, "Outbox", lambda *_: outbox)
    monkeypatch.setattr(run_trial, "free_threads", lambda _: torch.get_num_threads())
    monkeypatch.setattr(run_trial, "gc", SimpleNamespace(collect=lambda: None))
    monkeypatch.setattr(run_trial, "RemoteStop", lambda _: trial.stop)
    monkeypatch.setattr(run_trial, "TrialReporter", lambda *_: posted.append)
    monkeypatch.setattr(run_trial, "train_here", lambda *_, **__: trial.completed)
    monkeypatch.setattr(run_trial, "TrainingCompleteEvent", SimpleNamespace)
    monkeypatch.setattr(run_trial, "with_metrics", lambda voice, **_: voice)
    monkeypatch.setattr(run_trial.ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(run_trial.ray, "get", lambda answer: answer)
    mailbox = SimpleNamespace(hello=SimpleNamespace(remote=lambda *_: False))
    home = TrialHome(
        name="birds",
        mailbox=mailbox,
        sweep=SWEEP,
        gpus=0.0,
        workers=1,
        threads=1,
        session_folder=None,
        listener=None,
        rater=trial.rater,
    )
    loop: Any = None
    task = TrialTask(trial="k64-q2", config=codec(), depths=(2,), loop=loop, folder=trial.run, compared=False)
    well, trial.said = trial.said, AudioError("there is too little sound to judge")
    with pytest.raises(run_trial.LoopError):
        run_trial.run_trial({"task": task}, home=home)
    assert (posted[-1]["trial"], posted[-1]["message"]) == (FAILED, "there is too little sound to judge")
    trial.said = well
    run_trial.run_trial({"task": task}, home=home)
    assert isinstance(well, JudgedDepths)
    assert posted[-1].scores == well.scores
    assert trial.trainer.calls[0] == trial.trainer.calls[1]
    for reason in ("cancelled", "health"):
        trial.completed.exit_reason = reason
        run_trial.run_trial({"task": task}, home=home)
    assert len(trial.judged) == 2  # neither a stopped nor a collapsed codec is rated

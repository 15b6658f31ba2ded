from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from distill_ray.config.vqvae import VQTrainConfig
from distill_ray.corpus import Corpus
from distill_ray.errors import TrainingError
from distill_ray.events.records import Event, RunStarted, StageProgress, TrainingCompleteEvent, VQEpochMetrics
from distill_ray.training import checkpoint
from distill_ray.training.loop import Pace, Progress
from distill_ray.training.vqvae import VQTask
from distill_ray.training.worker import LocalWorker
from distill_ray.vqvae import VQVAE, codebook_health

CPU = torch.device("cpu")
Config = Callable[..., VQTrainConfig]
Train = Callable[..., tuple[TrainingCompleteEvent, list[Event]]]


def epochs(events: list[Event]) -> list[VQEpochMetrics]:
    return [event for event in events if isinstance(event, VQEpochMetrics)]


def figures(event: VQEpochMetrics) -> tuple[object, ...]:
    return (
        event.epoch,
        event.step,
        event.train_loss,
        event.val_loss,
        event.best_epoch,
        tuple(event.losses.items()),
        event.codebook_health,
        event.reseeded_codes,
    )


def test_training_lowers_the_loss_and_keeps_the_best_weights(
    train: Train, corpus: Corpus, small_config: Config, tmp_path: Path
) -> None:
    config = small_config(training__epochs=4, training__min_epoch_steps=20)
    completed, events = train(corpus, config, tmp_path)
    seen = epochs(events)
    opening = next(event for event in events if not isinstance(event, StageProgress))
    assert isinstance(opening, RunStarted)
    assert opening.steps_per_epoch * 4 == completed.steps
    assert seen[-1].train_loss < 0.95 * seen[0].train_loss
    assert completed.best_val_loss < seen[0].val_loss
    assert completed.best_val_loss == min(event.val_loss for event in seen)
    assert (completed.exit_reason, completed.epochs_completed) == ("completed", 4)
    assert len(completed.codebook_health) == 2
    assert completed.audio_seconds_per_second > 0
    assert completed.code_agreement is not None
    assert len(completed.code_agreement.shift_quarter) == 2
    assert max(completed.code_agreement.polarity) < 1.0  # these codes spell phases
    # The saved weights are those that scored best.
    model = VQVAE(config.model)
    model.load_state_dict(checkpoint.read_weights(tmp_path / "latest" / "best.safetensors"))
    task = VQTask(corpus, config, LocalWorker(tmp_path / "other", device=CPU))
    loss, terms = task.held_out.score(model.eval(), task.loss, bf16=False)
    assert loss == pytest.approx(completed.best_val_loss, rel=1e-6)
    assert set(terms) == {"mel", "bands", "complex_stft", "waveform"}
    run = checkpoint.read_json(tmp_path / "latest" / "run.json")
    assert [epoch["epoch"] for epoch in run["history"]] == [1, 2, 3, 4]
    assert run["config"]["model.codebook_size"] == 16


@pytest.mark.parametrize(("stop_after", "learning"), [(2, "gradient"), (11, "ema")])  # in the second epoch
def test_a_resumed_run_ends_as_an_uncut_one(
    train: Train,
    corpus: Corpus,
    small_config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop_after: int,
    learning: str,
) -> None:
    # Nine steps an epoch.
    config = small_config(
        model__codebook_learning=learning, model__dropout=0.1, training__epochs=2, training__batch_size=8
    )
    uncut, uncut_events = train(corpus, config, tmp_path / "uncut")
    cut, cut_events = train(corpus, config, tmp_path / "cut", stop_after=stop_after)
    assert (cut.exit_reason, cut.steps) == ("cancelled", stop_after)
    assert math.isfinite(cut.final_val_loss)
    usable = checkpoint.read_weights(tmp_path / "cut" / "latest" / "best.safetensors")
    VQVAE(config.model).load_state_dict(usable)
    # What a codec begins with is in the checkpoint: its time is not spent again.
    monkeypatch.delattr(VQVAE, "initialise")
    resumed, resumed_events = train(corpus, config, tmp_path / "cut")
    pieces = [figures(event) for event in epochs(cut_events) + epochs(resumed_events)]
    assert pieces == [figures(event) for event in epochs(uncut_events)]
    assert resumed.final_val_loss == uncut.final_val_loss
    assert resumed.best_val_loss == uncut.best_val_loss
    for name in ("best.safetensors",):
        one = checkpoint.read_weights(tmp_path / "uncut" / "latest" / name)
        two = checkpoint.read_weights(tmp_path / "cut" / "latest" / name)
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_the_seed_decides(train: Train, corpus: Corpus, small_config: Config, tmp_path: Path) -> None:
    runs = [
        train(
            corpus,
            small_config(training__epochs=1, training__batch_size=16, training__seed=seed),
            tmp_path / str(number),
        )[0]
        for number, seed in enumerate([3, 3, 4])
    ]
    assert runs[0].final_train_loss == runs[1].final_train_loss != runs[2].final_train_loss


def test_codebooks_of_kmeans_stay_as_they_begin(corpus: Corpus, small_config: Config, tmp_path: Path) -> None:
    config = small_config(model__codebook_learning="kmeans", training__reseed_every=1)
    task = VQTask(corpus, config, LocalWorker(tmp_path, device=CPU))
    begun_QKD = task.model.quantizer.codebooks_QKD.clone()
    for step in range(3):
        task.train_step(step, 0.0)
    assert torch.equal(task.model.quantizer.codebooks_QKD, begun_QKD)
    assert task.codes.reseeded == 0
    assert float(task.codes.epoch_counts().sum()) > 0


@pytest.mark.parametrize("learning", ["gradient", "ema"])
def test_dead_codes_come_back_and_stay(
    corpus: Corpus, small_config: Config, tmp_path: Path, learning: str
) -> None:
    config = small_config(
        model__codebook_learning=learning,
        model__codebook_size=64,
        model__quantizer_dropout=0.0,
        training__reseed_every=2,
        training__batch_size=16,
    )
    task = VQTask(corpus, config, LocalWorker(tmp_path, device=CPU))
    quantizer = task.model.quantizer
    with torch.no_grad():
        # Nine of ten codes are copies of another, and the first of equals is always taken.
        codes = quantizer.codebooks_QKD
        codes[:, 6:] = codes[:, :1]
        if learning == "ema":
            quantizer.ema_sums_QKD[:] = codes
            quantizer.ema_counts_QK[:] = 1.0
    task.train_step(0, 0.0)
    used = (task.codes.epoch_counts() > 0).float().mean(dim=1)
    assert (used < 0.2).all()
    task.train_step(1, 0.0)
    assert task.codes.reseeded > 2 * 50
    placed = quantizer.codebooks_QKD.detach().clone()
    averaged = task.average.module.quantizer.codebooks_QKD
    assert (averaged == placed).all(dim=2).float().mean() > 0.7
    task.train_step(2, 0.0)
    moved = (quantizer.codebooks_QKD.detach() - placed).norm(dim=2) / placed.norm(dim=2)
    assert (moved < 0.5).float().mean() > 0.95
    for step in range(3, 12):
        task.train_step(step, 0.0)
    task.codes.new_epoch()
    for step in range(12, 20):
        task.train_step(step, 0.0)
    used = (task.codes.epoch_counts() > 0).float().mean(dim=1)
    assert (used > 0.9).all()


def test_steps_with_nan_are_left_out_and_an_epoch_of_them_is_an_error(
    train: Train, corpus: Corpus, small_config: Config, tmp_path: Path
) -> None:
    task = VQTask(corpus, small_config(), LocalWorker(tmp_path, device=CPU))
    task.train_step(0, 0.0)
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    sums, counts = task.sums.clone(), task.codes.epoch_counts_QK.clone()
    weights = task.loss.weights
    object.__setattr__(weights, "mel", float("nan"))
    task.train_step(1, 0.0)
    assert int(task.optimizer.skipped) == 1
    assert all(torch.equal(value, before[name]) for name, value in task.model.state_dict().items())
    assert torch.equal(task.sums, sums)
    assert torch.equal(task.codes.epoch_counts_QK, counts)
    broken = small_config(loss__mel=1e38, loss__complex_stft=1e38)
    with pytest.raises(TrainingError, match="all steps of epoch 1 were skipped"):
        train(corpus, broken, tmp_path / "broken")


def test_no_code_is_reseeded_from_a_step_with_nan(
    corpus: Corpus, small_config: Config, tmp_path: Path
) -> None:
    config = small_config(model__codebook_size=64, training__reseed_every=2)
    task = VQTask(corpus, config, LocalWorker(tmp_path, device=CPU))
    task.train_step(0, 0.0)
    task.codes.recent_counts_QK[:, 1:] = 0.0  # nearly all codes are to be re-seeded after the next step
    latent = task.model.encoder.register_forward_hook(lambda module, arguments, output: output * math.nan)
    task.train_step(1, 0.0)
    latent.remove()
    assert int(task.optimizer.skipped) == 1
    assert torch.isfinite(task.model.quantizer.codebooks_QKD).all()


def test_an_epoch_cut_short_is_not_the_only_measure_of_health(
    corpus: Corpus, small_config: Config, tmp_path: Path
) -> None:
    task = VQTask(corpus, small_config(), LocalWorker(tmp_path, device=CPU))
    pace = Pace(fraction=0.5, steps_per_second=1.0, eta_s=None, elapsed_s=1.0)
    steps = task.steps_per_epoch

    def end_epoch(progress: Progress) -> VQEpochMetrics:
        event = task.epoch_event(progress, pace)
        assert isinstance(event, VQEpochMetrics)
        return event

    for step in range(steps):
        task.train_step(step, 0.0)
    whole = task.codes.epoch_counts()
    first = end_epoch(Progress(step=steps, epoch=1))
    task.train_step(steps, 0.0)
    both = whole + task.codes.epoch_counts()
    cut = end_epoch(Progress(step=steps + 1, epoch=2, epoch_start_step=steps))
    assert first.codebook_health == codebook_health(whole)
    assert cut.codebook_health == codebook_health(both)


def test_a_diverged_run_goes_on_from_its_best_weights_at_half_the_rate(
    corpus: Corpus, small_config: Config, tmp_path: Path
) -> None:
    task = VQTask(corpus, small_config(), LocalWorker(tmp_path, device=CPU))
    for step in range(6):
        task.train_step(step, 0.3)
    progress = Progress(epoch=2, best_epoch=1, best_loss=task.validate())
    assert task.recover(progress) is None, "nothing has been kept yet"
    task.keep_best()
    kept = {name: value.clone() for name, value in task.average.module.state_dict().items()}
    rate = task.lr_scale(6, 0.3)
    assert task.recover(progress) is None, "the loss is that of the best weights"
    for module in (task.model, task.average.module):
        for parameter in module.parameters():
            parameter.data.mul_(3.0)
    assert task.validate() > 1.25 * progress.best_loss
    notice = task.recover(progress)
    assert notice is not None
    assert "went on from the weights of epoch 1 at half the learning rate" in notice.message
    assert task.figures.warnings == [notice.message]
    for module in (task.model, task.average.module):
        assert all(torch.equal(value, kept[name]) for name, value in module.state_dict().items())
    assert task.validate() == progress.best_loss
    assert task.lr_scale(6, 0.3) == rate / 2
    assert all(not state["exp_avg"].any() for state in task.optimizer.adamw.state.values())
    # A resumed run stays at half the rate.
    task.write(tmp_path)
    other = VQTask(corpus, small_config(), LocalWorker(tmp_path / "other", device=CPU))
    other.read(tmp_path)
    assert other.lr_scale(6, 0.3) == rate / 2


@pytest.mark.parametrize(
    ("budget", "pays_off"),
    [
        ({"training__epochs": None, "training__max_minutes": 0.3}, False),
        ({"training__epochs": None, "training__max_minutes": 0.5}, True),
        ({"training__epochs": 50}, False),
        ({"training__epochs": 100}, True),
        ({"training__epochs": 100, "training__max_minutes": 0.3}, False),
        ({"training__epochs": 100, "training__kernels": "off"}, False),
    ],
)
def test_kernels_are_compiled_only_for_runs_that_win_it_back(
    corpus: Corpus, small_config: Config, tmp_path: Path, budget: dict[str, object], pays_off: bool
) -> None:
    config = small_config(training__min_epoch_steps=10, model__codebook_size=16, **budget)
    task = VQTask(corpus, config, LocalWorker(tmp_path, device=CPU))
    assert 11 <= task.steps_per_epoch <= 21, "so that 50 epochs have fewer than 1,090 steps and 100 have more"
    assert task.uses_kernels is pays_off

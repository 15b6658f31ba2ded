from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from distill_ray.config.vqvae import VQTrainConfig
from distill_ray.corpus import AudioStore, Corpus
from distill_ray.errors import UsageError
from distill_ray.events.records import Event, TrainingCompleteEvent, VQEpochMetrics
from distill_ray.training.vq_validation import HeldOut
from distill_ray.training.vqvae import VQTask, train_vqvae
from distill_ray.training.worker import LocalWorker, StopFlag

CPU = torch.device("cpu")
Config = Callable[..., VQTrainConfig]


@pytest.fixture
def task(corpus: Corpus, small_config: Config, tmp_path: Path) -> VQTask:
    """Three levels and a few steps of training, so that each level has something to add."""
    config = small_config(model__num_quantizers=3, training__lr=3e-3, training__val_seconds=5.0)
    made = VQTask(corpus, config, LocalWorker(tmp_path, device=CPU), depths=(1, 2, 3))
    for step in range(5):
        made.train_step(step, 0.0)
    return made


def test_each_depth_is_scored_as_a_codec_of_so_many_levels(task: VQTask) -> None:
    model = task.average.module
    scores = task.held_out.score_depths(model, task.loss, (2, 1), bf16=False)
    assert sorted(scores) == [1, 2, 3]
    audio_BCT = torch.cat(list(task.held_out.windows()))
    for depth, score in scores.items():
        with torch.no_grad():
            latent_BFL = model.quantizer(model.encoder(audio_BCT), torch.full((len(audio_BCT),), depth))
            terms = task.loss(model.decoder(latent_BFL.latent_BFL), audio_BCT)
        assert score.loss == pytest.approx(task.loss.total(terms).item(), rel=1e-5)
        assert score.terms == {name: pytest.approx(value.item(), rel=1e-5) for name, value in terms.items()}
    assert len({score.loss for score in scores.values()}) == 3


def test_full_depth_is_the_held_out_loss_itself(task: VQTask) -> None:
    loss = task.validate()
    assert [score.levels for score in task.depth_scores] == [1, 2, 3]
    assert task.depth_scores[-1].val_loss == loss
    assert task.depth_scores[-1].mel == task.figures.val_losses["mel"]
    assert loss == task.held_out.score(task.average.module, task.loss, bf16=False)[0]


def test_windows_are_encoded_once_and_decoded_as_often_as_asked(task: VQTask) -> None:
    calls = {"encoder": 0, "decoder": 0}

    def counting(name: str) -> Callable[..., None]:
        def count(*_: object) -> None:
            calls[name] += 1

        return count

    model = task.average.module
    model.encoder.register_forward_hook(counting("encoder"))
    model.decoder.fine.register_forward_hook(counting("decoder"))
    for depths, decodings in (((), 1), ((3,), 1), ((1, 2, 3), 3), ((1,), 2)):
        calls.update(encoder=0, decoder=0)
        task.held_out.score_depths(model, task.loss, depths, bf16=False)
        batches = len(list(task.held_out.windows()))
        assert calls == {"encoder": batches, "decoder": decodings * batches}


def test_two_ranks_score_their_shares_of_the_windows(corpus: Corpus, task: VQTask, tmp_path: Path) -> None:
    """What is summed over ranks is what one process has summed."""
    model, sums = task.average.module, []

    class Rank(LocalWorker):
        """Rank 0 leaves what it would send; rank 1 adds it to its own."""

        def __init__(self, rank: int) -> None:
            super().__init__(tmp_path, device=CPU)
            self.rank, self.world_size = rank, 2

        def all_reduce(self, tensor: Tensor) -> Tensor:
            if self.rank == 1:
                return tensor + sums.pop(0)
            sums.append(tensor.clone())
            return tensor

    def score(worker: LocalWorker) -> dict[int, float]:
        held_out = HeldOut(AudioStore(corpus, "val", CPU), task.config, worker)
        scores = held_out.score_depths(model, task.loss, (1,), bf16=False)
        return {depth: value.loss for depth, value in scores.items()}

    whole = score(LocalWorker(tmp_path, device=CPU))
    alone = score(Rank(0))
    assert score(Rank(1)) == pytest.approx(whole, rel=1e-6)
    assert alone != pytest.approx(whole, rel=1e-6)


def test_the_scores_of_the_best_epoch_are_kept_through_a_resume(
    corpus: Corpus, small_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(
        training__epochs=3, training__min_epoch_steps=1, training__batch_size=16, model__codebook_size=16
    )
    # Which epoch of a real run is the best depends on the machine's rounding; here it is the first.
    validate = VQTask.validate
    monkeypatch.setattr(VQTask, "validate", lambda task: validate(task) + 1e3 * len(task.figures.history))

    def train(folder: Path, cut_after: int = 0) -> tuple[TrainingCompleteEvent, list[VQEpochMetrics]]:
        epochs, stop = [], StopFlag()

        def listen(event: Event) -> None:
            if isinstance(event, VQEpochMetrics):
                epochs.append(event)
                if event.epoch == cut_after:
                    stop.request()

        worker = LocalWorker(folder, device=CPU, listener=listen, stop=stop)
        return train_vqvae(corpus.uri, config, worker, depths=(1, 2)), epochs

    uncut, epochs = train(tmp_path / "uncut")
    assert uncut.best_epoch == 1
    for epoch in epochs:
        assert [score.levels for score in epoch.depth_scores] == [1, 2]
        assert epoch.depth_scores[-1].val_loss == epoch.val_loss
        assert epoch.depth_scores[-1].mel == epoch.val_losses["mel"]
    assert uncut.depth_scores == epochs[uncut.best_epoch - 1].depth_scores
    train(tmp_path / "cut", cut_after=uncut.best_epoch)
    resumed, rest = train(tmp_path / "cut")
    assert [epoch.epoch for epoch in rest] == list(range(uncut.best_epoch + 1, 4))
    assert resumed.depth_scores == uncut.depth_scores


def test_a_depth_that_the_codec_does_not_have(corpus: Corpus, small_config: Config, tmp_path: Path) -> None:
    worker = LocalWorker(tmp_path, device=CPU)
    with pytest.raises(UsageError, match="a depth of 3 levels cannot be scored: this codec has 1 to 2"):
        train_vqvae(corpus.uri, small_config(), worker, depths=(1, 3))

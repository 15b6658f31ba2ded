"""Two gloo ranks against one process on the joined batch: the same training."""

from __future__ import annotations

import functools
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import soundfile
import torch

from distill_ray.config.corpus import CorpusConfig
from distill_ray.corpus import prepare_corpus
from distill_ray.vqvae.health import Collapse

RATE = 8_000
OVERRIDES: dict[str, object] = {
    # With consistency each rank measures latents by the spread of its own windows.
    "model.purpose": "compression",
    "model.codebook_size": 16,
    "model.num_quantizers": 2,
    "model.width": 16,
    "model.encoder_blocks": 1,
    "model.decoder_blocks": 1,
    "model.latent_dim": 16,
    "model.n_fft": 256,
    "model.hop": 64,
    # Rounding differs between one process and two; greater steps make more of it.
    "training.lr": 3e-5,
    # Every code that is used less than usual is re-seeded, so that each look finds some.
    "model.reseed_threshold": 0.5,
    "training.batch_size": 8,
    "training.window_seconds": 0.25,
    "training.epochs": 2,
    "training.min_epoch_steps": 5,
    "training.warmup_steps": 4,
    "training.reseed_every": 3,
    "training.val_seconds": 2.0,
    "depths": (1, 2),
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, plucks: Any) -> str:
    folder = tmp_path_factory.mktemp("ddp")
    for number in range(6):
        tone_T, rng = plucks(number, 2.0)
        noise_T = 0.02 * rng.standard_normal(len(tone_T))
        soundfile.write(folder / f"{number}.wav", 0.3 * tone_T + noise_T, RATE)
    out = folder / "corpus"
    config = CorpusConfig(sample_rate=RATE, val_fraction=0.3)
    prepare_corpus([folder], out, config=config, workers=1)
    return str(out)


class Ranks:
    """Two processes that are the ranks of one training after another."""

    def __init__(self, log: Path, program: ModuleType, start_forked: Callable[..., Any]) -> None:
        self._log = log
        self.processes: list[subprocess.Popen[str]]
        with log.open("w") as errors:
            self.processes = [
                start_forked(
                    function=functools.partial(program.serve, rank),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                )
                for rank in range(2)
            ]

    def train(
        self,
        corpus: str,
        out: Path,
        world_size: int,
        overrides: dict[str, object],
        stop_at: int = -1,
        **more: bool,
    ) -> list[dict[str, Any]]:
        """What each rank ended with. Rank 1 alone is asked to stop at its look number `stop_at`."""
        out.mkdir(exist_ok=True)
        (out / "rendezvous").unlink(missing_ok=True)
        asked = {"world_size": world_size, "corpus": corpus, "out": str(out), "stop_at": stop_at}
        line = json.dumps({**asked, "overrides": overrides, **more})
        for process in self.processes[:world_size]:
            assert process.stdin is not None
            print(line, file=process.stdin, flush=True)
        for process in self.processes[:world_size]:
            assert process.stdout is not None
            assert process.stdout.readline() == "done\n", self._log.read_text()
        return [
            {
                **torch.load(out / f"{rank}.pt", weights_only=True),
                **json.loads((out / f"{rank}.json").read_text()),
            }
            for rank in range(world_size)
        ]


Train = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def train(
    corpus: str,
    tmp_path_factory: pytest.TempPathFactory,
    ddp_rank: ModuleType,
    start_forked: Callable[..., Any],
) -> Iterator[Train]:
    ranks = Ranks(tmp_path_factory.mktemp("ranks") / "stderr", ddp_rank, start_forked)
    yield functools.partial(ranks.train, corpus)
    for process in ranks.processes:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def two_ranks(train: Train, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return train(tmp_path_factory.mktemp("two"), 2, OVERRIDES)


def check_same(one: dict[str, Any], ranks: list[dict[str, Any]], *, tolerance: float = 1e-4) -> None:
    first, second = ranks
    for part in ("model", "average"):
        assert all(torch.equal(first[part][name], second[part][name]) for name in first[part])
    assert sum(epoch["reseeded_codes"] for epoch in one["epochs"]) > 0
    assert second["epochs"] == []
    for alone, shared in zip(one["epochs"], first["epochs"], strict=True):
        assert shared["reseeded_codes"] == alone["reseeded_codes"]
        for name in ("train_loss", "val_loss"):
            assert shared[name] == pytest.approx(alone[name], rel=tolerance)
        for level, other in zip(alone["codebook_health"], shared["codebook_health"], strict=True):
            assert other["utilization"] == pytest.approx(level["utilization"], abs=1 / 16)
            assert other["perplexity"] == pytest.approx(level["perplexity"], rel=0.02)
        scores = shared["depth_scores"]
        assert [score["levels"] for score in scores] == [1, 2]
        assert scores[1]["val_loss"] == shared["val_loss"]
        for score, other in zip(alone["depth_scores"], scores, strict=True):
            assert other["val_loss"] == pytest.approx(score["val_loss"], rel=tolerance)
    books = "quantizer.codebooks_QKD"
    assert torch.allclose(one["model"][books], first["model"][books], atol=2e-3)
    assert first["completed"]["final_val_loss"] == second["completed"]["final_val_loss"]


def test_two_ranks_train_as_one_process(
    train: Train, tmp_path: Path, two_ranks: list[dict[str, Any]]
) -> None:
    check_same(train(tmp_path, 1, OVERRIDES)[0], two_ranks)


def test_two_ranks_average_codebooks_as_one_process(train: Train, tmp_path: Path) -> None:
    overrides = {**OVERRIDES, "model.codebook_learning": "ema"}
    check_same(train(tmp_path / "one", 1, overrides)[0], train(tmp_path / "two", 2, overrides))


@pytest.mark.slow
def test_two_ranks_have_one_set_of_discriminators(train: Train, tmp_path: Path) -> None:
    # Adam's first steps are as great where a gradient is all rounding.
    adversarial = {"enabled": True, "start": 0.4, "width": 4, "lr": 1e-4, "judged_every": 2}
    overrides = {**OVERRIDES, **{f"adversarial.{key}": value for key, value in adversarial.items()}}
    one = train(tmp_path / "one", 1, overrides)[0]
    two = train(tmp_path / "two", 2, overrides)
    # Of two codes equally near one or the other is taken by rounding, and discriminators widen the gap.
    check_same(one, two, tolerance=3e-4)
    for alone, shared in zip(one["epochs"], two[0]["epochs"], strict=True):
        assert set(shared["losses"]) == set(alone["losses"])
        for name in ("adversarial", "feature_matching", "discriminator"):
            assert shared["losses"][name] == pytest.approx(alone["losses"][name], rel=1e-3, abs=1e-4)


def test_gradients_averaged_in_one_piece_as_on_gpus_train_the_same(
    train: Train, tmp_path: Path, two_ranks: list[dict[str, Any]]
) -> None:
    joined = train(tmp_path, 2, OVERRIDES, as_on_gpu=True)
    for mine, theirs in zip(joined, two_ranks, strict=True):
        assert all(
            torch.allclose(mine["model"][name], theirs["model"][name], atol=1e-6) for name in mine["model"]
        )
        assert mine["completed"]["final_val_loss"] == pytest.approx(
            theirs["completed"]["final_val_loss"], rel=1e-6
        )


def test_ranks_that_round_differently_are_brought_together_after_each_epoch(
    train: Train, tmp_path: Path
) -> None:
    first, second = train(tmp_path, 2, OVERRIDES, apart=True)
    assert all(torch.equal(first["model"][name], second["model"][name]) for name in first["model"])


def test_ranks_stop_together_and_resume_as_if_uncut(
    train: Train, tmp_path: Path, two_ranks: list[dict[str, Any]]
) -> None:
    cut = train(tmp_path, 2, OVERRIDES, stop_at=5)
    assert [rank["completed"]["exit_reason"] for rank in cut] == ["cancelled"] * 2
    assert [rank["completed"]["steps"] for rank in cut] == [4, 4]
    resumed = train(tmp_path, 2, OVERRIDES)[0]
    for one, other in zip(resumed["epochs"], two_ranks[0]["epochs"], strict=True):
        assert one["step"] == other["step"]
        assert one["codebook_health"] == other["codebook_health"]
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-5)
        assert one["val_loss"] == pytest.approx(other["val_loss"], rel=1e-5)


def test_ranks_are_ended_by_the_health_rule_together(train: Train, tmp_path: Path) -> None:
    # No use of codes is quite even, so that every epoch is a low report: what counts is when both ranks stop.
    rule = {"health.stop": True, "health.measure": "entropy", "health.floor": 1.0, "health.warmup": 0}
    overrides = {**OVERRIDES, **rule, "health.patience": 2, "training.epochs": 5}
    for _ in range(2):  # the second time both resume a run that the rule has ended
        ranks = train(tmp_path, 2, overrides)
        assert [rank["completed"]["exit_reason"] for rank in ranks] == ["health"] * 2
        assert [rank["completed"]["epochs_completed"] for rank in ranks] == [2, 2]
        assert (
            len({(rank["completed"]["steps"], *rank["completed"]["collapse"].values()) for rank in ranks})
            == 1
        )
        assert Collapse(**ranks[0]["completed"]["collapse"]).reason.endswith("< 1.00 for 2 reports")
    assert ranks[0]["epochs"] == []

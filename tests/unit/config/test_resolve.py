from __future__ import annotations

import pytest

from distill_ray.config.length import prior_steps_per_epoch, steps_per_epoch
from distill_ray.config.prior import PriorTrainConfig
from distill_ray.config.resolve import (
    CorpusFacts,
    MachineFacts,
    Resolved,
    dotted,
    get_adaptive_prior_config,
    get_adaptive_vqvae_config,
    resolve_prior,
    resolve_vqvae,
)
from distill_ray.config.vqvae import LossConfig, VQTrainConfig, VQVAEConfig
from distill_ray.errors import ConfigError

FACTS = CorpusFacts(file_count=30, train_seconds=300.0, sample_rate=44_100, channels=1)


def resolve(
    overrides: dict[str, object] | None = None,
    *,
    facts: CorpusFacts = FACTS,
    size: str | None = None,
    accelerator: bool = False,
    workers: int = 1,
) -> Resolved[VQTrainConfig]:
    return resolve_vqvae(
        facts,
        overrides={**(overrides or {}), **({} if size is None else {"model.size": size})},
        machine=MachineFacts(accelerator=accelerator, workers=workers),
    )


@pytest.mark.parametrize(
    ("files", "seconds", "codes"),
    [
        (1, None, 64),
        (20, 60.0, 64),
        (21, None, 128),
        (100, None, 128),
        (101, None, 256),
        (5, 3600.0, 512),
        (5, 4 * 3600.0, 1024),
        (500, 3599.0, 256),
        (6, 900.0, 256),
        (6, 899.0, 64),
    ],
)
def test_codebook_size_follows_files_and_hours(files: int, seconds: float | None, codes: int) -> None:
    assert get_adaptive_vqvae_config(files, seconds).codebook_size == codes


def test_prior_grows_with_the_corpus() -> None:
    small, large = get_adaptive_prior_config(10, 300.0), get_adaptive_prior_config(10, 36_000.0)
    assert small.hidden_size < large.hidden_size
    assert small.dropout > large.dropout


def test_sources() -> None:
    resolved = resolve({"model.codebook_size": 32, "training.epochs": 2})
    assert resolved.config.model.codebook_size == 32
    assert resolved.source("model.codebook_size") == "override"
    assert resolved.source("training.epochs") == "override"
    assert resolved.source("model.num_quantizers") == "auto"
    assert resolved.size == "tiny"
    assert resolved.source("model.size") == "auto"
    assert resolve(size="base").source("model.size") == "override"


def test_rates_go_by_width_and_yield_to_the_user() -> None:
    chosen = [resolve(size=size).config.training for size in ("tiny", "small", "base")]
    rates = [(each.lr, each.muon_rate, each.head_rate) for each in chosen]
    assert rates == [(2e-3, 2.0, 1.0), (1e-3, 2.0, 1.0), (1e-3, 4.0, 0.25)]
    own = {"training.lr": 3e-4, "training.muon_rate": 8.0, "training.head_rate": 1.0}
    given = resolve(own, size="base").config.training
    assert (given.lr, given.muon_rate, given.head_rate) == (3e-4, 8.0, 1.0)


@pytest.mark.parametrize(("size", "lr"), [("tiny", 2e-3), ("small", 1e-3), ("base", 1e-3)])
def test_adamw_alone_has_the_rates_that_it_was_measured_with(size: str, lr: float) -> None:
    chosen = resolve({"training.muon_rate": 0.0}, size=size).config.training
    assert (chosen.lr, chosen.head_rate) == (lr, 1.0)


@pytest.mark.parametrize(
    ("rate", "hop", "frames"),
    [
        (8_000, 64, 62.5),
        (11_025, 64, 86.1),
        (16_000, 128, 62.5),
        (22_050, 128, 86.1),
        (24_000, 128, 93.8),
        (32_000, 256, 62.5),
        (44_100, 256, 86.1),
        (48_000, 256, 93.8),
        (96_000, 512, 93.8),
        (192_000, 1024, 93.8),
    ],
)
def test_code_frames_are_as_long_at_every_sample_rate(rate: int, hop: int, frames: float) -> None:
    facts = CorpusFacts(file_count=5, train_seconds=60.0, sample_rate=rate, channels=1)
    model = resolve({"model.purpose": "compression"}, facts=facts).config.model
    assert (model.hop, model.n_fft) == (hop, 4 * hop)
    assert model.frame_rate == pytest.approx(frames, abs=0.1)
    model = resolve(facts=facts).config.model  # for generation
    assert (model.hop, model.n_fft) == (2 * hop, 8 * hop)
    assert model.frame_rate == pytest.approx(frames / 4, abs=0.1)
    model = resolve({"model.decoder_head": "directed"}, facts=facts).config.model
    assert (model.hop, model.n_fft) == (hop, 4 * hop)
    assert model.frame_rate == pytest.approx(frames / 4, abs=0.1)
    given = resolve({"model.hop": 512, "model.purpose": "compression"}, facts=facts).config.model
    assert (given.hop, given.n_fft) == (512, 1024)


def test_a_codec_is_for_generation_unless_something_else_is_asked_for() -> None:
    chosen, asked = resolve().config, resolve({"model.purpose": "compression"}).config
    assert (chosen.model.purpose, asked.model.purpose) == ("generation", "compression")
    assert (chosen.model.encoder_input, asked.model.encoder_input) == ("magnitudes", "complex")
    assert (chosen.loss.waveform, chosen.loss.phase_hz) == (0.0, 0.0)
    assert (asked.model, asked.loss) == (
        VQVAEConfig(codebook_size=128, width=128, encoder_blocks=1, decoder_blocks=1, latent_dim=64),
        LossConfig(),
    )
    assert not asked.adversarial.enabled
    on_gpu = resolve(accelerator=True).config
    assert (on_gpu.model.decoder_head, on_gpu.model.codebook_size) == ("flow", 512)
    assert (on_gpu.training.window_seconds, on_gpu.training.batch_size) == (1.5, 48)
    assert (on_gpu.model.latent_dim, on_gpu.model.codebook_dim) == (64, 64)
    assert not on_gpu.adversarial.enabled
    own = resolve({"loss.waveform": 30.0, "model.stride": 4}).config
    assert (own.loss.waveform, own.model.stride, own.model.encoder_input) == (30.0, 4, "magnitudes")
    with pytest.raises(ConfigError, match="generation, compression"):
        resolve({"model.purpose": "fun"})


def test_discriminators_judge_a_decoder_of_audio() -> None:
    judged = resolve({"adversarial.enabled": True}, accelerator=True).config
    assert (judged.model.decoder_head, judged.model.stride, judged.adversarial.start) == ("directed", 8, 0.2)
    assert judged.loss.consistency == 3.0
    by_head = resolve({"model.decoder_head": "directed"}, accelerator=True).config
    assert by_head.adversarial.enabled
    for head in ("flow", "magnitudes"):
        with pytest.raises(ConfigError, match="a decoder of magnitudes trains without"):
            resolve({"model.decoder_head": head, "adversarial.enabled": True})
    with pytest.raises(ConfigError, match="32 are fewer than the latent channels"):
        resolve({"model.decoder_components": 32})
    with pytest.raises(ConfigError, match='needs "magnitudes"'):
        resolve({"model.encoder_input": "complex"})


def test_the_prior_of_a_codec_for_generation_sees_as_many_seconds_and_altered_copies() -> None:
    codec = resolve(accelerator=True).config.model

    def prior(codec: VQVAEConfig, accelerator: bool = True) -> PriorTrainConfig:
        return resolve_prior(
            codec,
            file_count=30,
            train_frames=round(1200 * codec.frame_rate),
            overrides={},
            machine=MachineFacts(accelerator=accelerator, workers=1),
        ).config

    usual = prior(resolve({"model.purpose": "compression"}).config.model)
    chosen = prior(codec)
    assert chosen.model.context_frames / codec.frame_rate == pytest.approx(
        usual.model.context_frames / 86.13, rel=0.01
    )
    assert (chosen.model.dropout, chosen.training.variants) == (0.3, 15)
    assert usual.training.variants == 0
    assert (usual.training.patience, chosen.training.patience) == (10, 0)
    # A quarter of the frames are a quarter of what there is to learn.
    usual_size, chosen_size = ((each.model.hidden_size, each.model.num_layers) for each in (usual, chosen))
    assert (usual_size, chosen_size) == ((512, 8), (256, 6))
    on_cores = prior(codec, accelerator=False).training
    assert on_cores.variant_steps == 324  # of 20 minutes, on two cores
    shares = [
        (each.unvaried_share, each.replaced_share) for each in (usual.training, chosen.training, on_cores)
    ]
    assert shares == [(0.0, 0.0), (0.3, 0.1), (0.3, 0.0)]


@pytest.mark.parametrize("minutes", [None, 60.0])
def test_a_prior_for_generation_ends_before_it_gives_recordings_back(minutes: float | None) -> None:
    codec = resolve(accelerator=True).config.model
    budget = {} if minutes is None else {"prior_training.max_minutes": minutes}

    def prior(seconds: float, **overrides: object) -> PriorTrainConfig:
        return resolve_prior(
            codec,
            file_count=9,
            train_frames=round(seconds * codec.frame_rate),
            overrides={**budget, **{f"prior_training.{key}": value for key, value in overrides.items()}},
            machine=MachineFacts(accelerator=True, workers=1),
        ).config

    def steps(seconds: float) -> int:
        config = prior(seconds)
        assert config.training.epochs is not None
        return config.training.epochs * prior_steps_per_epoch(config, round(seconds * codec.frame_rate))

    def passes(seconds: float) -> float:
        frames_of_a_step = 32 * prior(seconds).model.training_frames
        return steps(seconds) * frames_of_a_step / (seconds * codec.frame_rate)

    assert passes(981.0) == pytest.approx(1_300, rel=0.02)
    assert passes(600.0) == pytest.approx(1_300, rel=0.03)
    assert passes(599.0) == pytest.approx(900, rel=0.03)
    assert [prior(seconds).training.unvaried_share for seconds in (600.0, 599.0)] == [0.3, 0.0]
    assert steps(10.0) == 500
    assert prior(981.0, epochs=1_000).training.epochs == 1_000
    compression = resolve({"model.purpose": "compression"}).config.model
    of_waveforms = resolve_prior(compression, file_count=9, train_frames=80_000, overrides=budget).config
    assert (of_waveforms.training.epochs is None) == (minutes is not None)


def of_minutes(minutes: float) -> CorpusFacts:
    return CorpusFacts(file_count=5, train_seconds=60 * minutes, sample_rate=44_100, channels=1)


def test_what_is_played_often_on_a_gpu_is_varied() -> None:
    def varied(minutes: float, accelerator: bool = True, **given: object) -> tuple[float, float]:
        overrides = {key.replace("__", "."): value for key, value in given.items()}
        overrides |= {"model.purpose": "compression"}
        augment = resolve(overrides, facts=of_minutes(minutes), accelerator=accelerator).config.augment
        return augment.speed, augment.equaliser_db

    # A minute of a GPU is 4,000 minutes of audio.
    assert varied(26.0, training__max_minutes=1.0) == (2.0, 6.0)
    assert varied(27.0, training__max_minutes=1.0) == (0.0, 0.0)
    assert varied(27.0, training__max_minutes=1.1) == (2.0, 6.0)
    assert varied(41.0) == (2.0, 6.0)  # 10,000 steps
    assert varied(60 * 24.0) == (0.0, 0.0)
    assert varied(41.0, training__epochs=1) == (0.0, 0.0)
    assert varied(1.0, accelerator=False) == (0.0, 0.0)
    assert varied(1.0, augment__speed=0.0) == (0.0, 6.0)


def test_windows_are_mixed_on_a_gpu() -> None:
    def mix(overrides: dict[str, object], accelerator: bool) -> float:
        given = {"model.purpose": "compression", **overrides}
        return resolve(given, accelerator=accelerator).config.augment.mix

    assert mix({}, True) == 0.5
    assert mix({}, False) == 0.0
    assert mix({"augment.mix": 0.1}, True) == 0.1


def test_what_draws_spectra_learns_from_recordings_as_they_are() -> None:
    for accelerator in (False, True):
        config = resolve(facts=of_minutes(1.0), accelerator=accelerator).config
        assert (config.augment.mix, config.augment.speed, config.augment.equaliser_db) == (0.0, 0.0, 0.0)
        assert (config.model.quantizer_dropout, config.model.conditioning_noise) == (0.1, 0.3)
        assert config.model.stereo == "mid-side"
    assert resolve({"model.purpose": "compression"}).config.model.stereo == "left-right"
    varied = resolve({"augment.speed": 1.0, "augment.mix": 0.3}, accelerator=True).config.augment
    assert (varied.speed, varied.mix) == (1.0, 0.3)
    judged = resolve({"adversarial.enabled": True}, facts=of_minutes(1.0), accelerator=True).config
    assert (judged.augment.mix, judged.augment.speed, judged.model.quantizer_dropout) == (0.5, 2.0, 0.5)


@pytest.mark.parametrize(
    ("minutes", "most"),
    [(20.0, 400), (120.0, 400), (2.0, 600), (0.5, 2_400)],  # of little audio a thousand steps
)
def test_what_draws_spectra_is_worth_fewer_passes(minutes: float, most: float) -> None:
    config = resolve({"training.max_minutes": 60.0}, facts=of_minutes(minutes), accelerator=True).config
    steps = (config.training.epochs or 0) * steps_per_epoch(config, 60 * minutes)
    passes = steps * config.training.batch_size * config.training.window_seconds / (60 * minutes)
    assert most <= passes < most + steps_per_epoch(config, 60 * minutes) * 72 / (60 * minutes)


def test_a_corpus_is_worth_so_many_passes_on_a_gpu() -> None:
    def passes(minutes: float, workers: int = 1, **given: object) -> float | None:
        overrides = {f"training.{key}": value for key, value in given.items()}
        overrides |= {"model.purpose": "compression"}
        facts = of_minutes(minutes)
        config = resolve(overrides, facts=facts, accelerator=True, workers=workers).config
        if config.training.epochs is None:
            return None
        steps = config.training.epochs * steps_per_epoch(config, 60 * minutes)
        return steps * config.training.batch_size * config.training.window_seconds / (60 * minutes)

    # An epoch has 200 steps at least, 240 passes of a minute.
    assert 6_000 <= (passes(1.0, max_minutes=5.0) or 0) < 6_240
    assert 6_000 <= (passes(1.0) or 0) < 6_240
    assert 6_000 <= (passes(47.0, max_minutes=5.0) or 0) < 6_006
    assert passes(4.0) == pytest.approx(3_000)  # 10,000 steps
    assert passes(0.02) == pytest.approx(60_000)  # a thousand
    assert passes(0.1, workers=8) == pytest.approx(96_000)
    assert passes(1.0, epochs=100) == pytest.approx(24_000)
    assert passes(1.0, max_minutes=5.0, epochs=None) is None
    assert resolve({"training.max_minutes": 5.0}, facts=of_minutes(1.0)).config.training.epochs is None


def test_size_from_the_file_wins_over_auto() -> None:
    assert resolve({"model.size": "small"}).config.model.width == 256
    assert resolve(facts=of_minutes(1), accelerator=True).size == "small"
    assert resolve(facts=of_minutes(2), accelerator=True).size == "base"
    hour = CorpusFacts(file_count=30, train_seconds=3600.0, sample_rate=44_100, channels=2)
    assert resolve(facts=hour, accelerator=True).size == "base"
    assert resolve(facts=hour).config.model.channels == 2


def test_an_epoch_is_a_pass_and_measurable() -> None:
    small = resolve({"model.codebook_size": 16, "training.batch_size": 8}).config
    assert steps_per_epoch(small, 600.0) == 50  # 600 s / (8 windows of 1.5 s)
    compression = {"model.purpose": "compression"}
    large = resolve({**compression, "model.codebook_size": 1024, "training.batch_size": 8}).config
    vectors = steps_per_epoch(large, 6.0) * 8 * large.window_frames
    # Half of the windows use all 8 levels and an eighth of the others the last one: 9 in 16.
    assert 50 * 1024 <= vectors * 9 / 16 < 1.02 * 50 * 1024


def test_budget_is_chosen_only_where_none_is_given() -> None:
    chosen = resolve().config
    epochs = chosen.training.epochs
    assert epochs is not None
    assert epochs * steps_per_epoch(chosen, FACTS.train_seconds) == pytest.approx(2000, abs=100)
    timed = resolve({"training.max_minutes": 1.0}).config.training
    assert (timed.epochs, timed.max_minutes) == (None, 1.0)


def test_all_problems_of_all_sections_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(
            {
                "model.codebook_size": 5,
                "training.lr": -1.0,
                "loss.mel": "much",
                "model.codebok_dim": 3,
                "model.sample_rate": 22_050,
            },
            size="huge",
        )
    texts = " | ".join(str(problem) for problem in caught.value.problems)
    for part in (
        "--size (model.size): 'huge' is not one of tiny, small, base",
        "--codebook-size (model.codebook_size)",
        "--lr (training.lr)",
        "loss.mel: 'much' is not a number",
        "model.codebok_dim: no such setting; did you mean model.codebook_dim?",
        "model.sample_rate: 22050 does not match the data, which has 44100",
    ):
        assert part in texts
    assert len(caught.value.problems) == 6


def test_tables_of_other_stages_are_left_alone_but_unknown_tables_are_not() -> None:
    resolve({"prior.hidden_size": 128})
    with pytest.raises(ConfigError, match=r"modle\.width: no such setting; did you mean model\.width"):
        resolve({"modle.width": 3})


def test_batch_is_shared_by_the_workers() -> None:
    assert resolve(workers=3).config.training.batch_size == 12
    assert resolve({"model.purpose": "compression"}, workers=3).config.training.batch_size == 24
    with pytest.raises(ConfigError, match="--batch-size"):
        resolve({"training.batch_size": 8}, workers=3)


def test_prior_takes_its_codes_from_the_codec() -> None:
    codec = VQVAEConfig(codebook_size=64, num_quantizers=4)
    resolved = resolve_prior(
        codec, file_count=5, train_frames=10_000, overrides={}, machine=MachineFacts(workers=2)
    )
    model = resolved.config.model
    assert (model.codebook_size, model.num_quantizers, model.codebook_dim) == (64, 4, 8)
    assert resolved.config.training.batch_size == 8
    assert resolved.config.training.epochs is not None
    steps = prior_steps_per_epoch(resolved.config, 10_000_000)
    assert steps * 8 * model.training_frames >= 10_000_000
    assert model.training_frames == 1.5 * model.context_frames
    with pytest.raises(ConfigError, match=r"prior\.codebook_size"):
        resolve_prior(
            codec,
            file_count=5,
            train_frames=10_000,
            overrides={"prior.codebook_size": 128},
        )


def test_every_setting_by_its_key() -> None:
    values = dotted(resolve().config)
    assert values["model.codebook_size"] == 256
    assert values["loss.mel"] == 15.0
    assert len(values) == len(set(values)) > 40


def test_a_batch_is_shared_by_every_allowed_number_of_workers() -> None:
    def batch(workers: int, fewest: int, **given: int) -> int:
        overrides: dict[str, object] = {f"training.{key}": value for key, value in given.items()}
        overrides["model.purpose"] = "compression"
        resolved = resolve_vqvae(
            FACTS, overrides=overrides, machine=MachineFacts(workers=workers, fewest_workers=fewest)
        )
        return resolved.config.training.batch_size

    assert [batch(2, 1), batch(3, 1), batch(4, 2)] == [16, 24, 36]
    message = (
        r"16 windows cannot be shared by 3 workers, as --num-workers 2-4 allows; choose a narrower range"
    )
    with pytest.raises(ConfigError, match=message):
        batch(4, 2, batch_size=16)
    with pytest.raises(ConfigError, match="64 windows cannot be shared by 3 workers"):
        batch(8, 1)

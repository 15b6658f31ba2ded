from __future__ import annotations

import pytest

from distill_ray.config.prior import PriorConfig
from distill_ray.config.vqvae import TrainingConfig, VQVAEConfig
from distill_ray.errors import ConfigError


def test_all_problems_of_a_section_at_once_with_flag_and_key() -> None:
    with pytest.raises(ConfigError) as caught:
        VQVAEConfig(codebook_size=8, num_quantizers=17, width="wide", commitment_weight=float("nan"))  # type: ignore[arg-type]
    texts = [str(problem) for problem in caught.value.problems]
    assert texts == [
        "--codebook-size (model.codebook_size): 8 is below the least allowed value 16",
        "--rvq-levels (model.num_quantizers): 17 is above the greatest allowed value 16",
        "--commitment-weight (model.commitment_weight): nan is not a finite number",
        "model.width: 'wide' is not a whole number",
    ]


@pytest.mark.parametrize("size", [16, 16_384])
@pytest.mark.parametrize("levels", [2, 16])
def test_the_ends_of_the_ranges_are_allowed(size: int, levels: int) -> None:
    config = VQVAEConfig(codebook_size=size, num_quantizers=levels)
    assert (config.codebook_size, config.num_quantizers) == (size, levels)


def test_a_flag_is_not_a_number() -> None:
    with pytest.raises(ConfigError, match="True is not a whole number"):
        VQVAEConfig(codebook_size=True)


def test_choices() -> None:
    with pytest.raises(ConfigError, match="'adam' is not one of ema, gradient"):
        VQVAEConfig(codebook_learning="adam")


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match=r"--heads \(prior.num_heads\): 3 heads do not divide"):
        PriorConfig(hidden_size=256, num_heads=3)
    with pytest.raises(ConfigError, match="even width"):
        PriorConfig(hidden_size=48, num_heads=16)


def test_a_run_needs_an_end() -> None:
    with pytest.raises(ConfigError, match="--epochs"):
        TrainingConfig()
    assert TrainingConfig(max_minutes=0.5).epochs is None


def test_frame_rate_of_the_default_codec() -> None:
    config = VQVAEConfig()
    assert config.frame_hop == 512
    assert config.frame_rate == pytest.approx(86.1328, abs=1e-4)


def test_the_hop_must_divide_the_window() -> None:
    with pytest.raises(ConfigError, match="not a multiple"):
        VQVAEConfig(n_fft=1000, hop=256)

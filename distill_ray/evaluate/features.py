"""Fixed features of windows of sound, in groups that know different things. Nothing is learnt or downloaded.

    spectrum    level, spread and rate of change of 64 mel bands
    modulation  how strongly 16 bands fluctuate at 0.5 to 50 Hz
    tonality    whether narrow bands hold partials or noise; pitch, harmonicity, chroma (`tonality.py`)
    texture     McDermott and Simoncelli's statistics of cochlear envelopes (`texture.py`)
    embedding   activations of a random convolutional network of the mel spectrogram (`embedding.py`)
    structure   self-similarity, repetition and tempo over 8 s (`structure.py`)

`windows.py` cuts the windows, `distance.py` compares sets of them.

Legend: B windows, T samples, S frames, M mel bands, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from distill_ray.evaluate.embedding import embedding
from distill_ray.evaluate.spectra import HOP, RATE, Spectra, octave_powers, spectra
from distill_ray.evaluate.structure import structure
from distill_ray.evaluate.texture import texture
from distill_ray.evaluate.tonality import tonality

_MODULATION_HZ = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 50.0)


def short_features(audio_BT: Tensor) -> dict[str, Tensor]:
    """All groups but "structure", float32 [B, D] each, of mono windows at `RATE`."""
    seen = spectra(audio_BT)
    return {
        "spectrum": spectrum(seen),
        "modulation": modulation(seen),
        "tonality": tonality(seen),
        "texture": texture(audio_BT),
        "embedding": embedding(seen.log_mel_BMS),
    }


def long_features(audio_BT: Tensor) -> dict[str, Tensor]:
    """ "structure" of longer windows."""
    return {"structure": structure(spectra(audio_BT))}


def spectrum(seen: Spectra) -> Tensor:
    """Mean, standard deviation and mean absolute change in 10 ms of each mel band in dB."""
    level_BMS = seen.log_mel_BMS
    change_BMS = level_BMS.diff(dim=2).abs()
    return torch.cat((level_BMS.mean(2), level_BMS.std(2), change_BMS.mean(2)), dim=1)


def modulation(seen: Spectra) -> Tensor:
    """Log power of the levels of bands in octaves of modulation frequency."""
    level_BMS = functional.avg_pool1d(seen.log_mel_BMS.transpose(1, 2), 4).transpose(1, 2)
    return octave_powers(level_BMS, RATE / HOP, _MODULATION_HZ).add(1e-2).log().flatten(1)

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from distill_ray.errors import BundleError
from distill_ray.prior import CodeStore, EncodeProgress, extract_code_sequences, load_code_sequences
from distill_ray.prior import codes as codes_module

LEVELS, SIZE, HOP = 3, 256, 8


@dataclass(frozen=True)
class File:
    sha256: str
    split: str
    samples: int


class Corpus:
    """Seeded noise under made-up hashes."""

    digest = "d" * 64

    def __init__(self, count: int = 6) -> None:
        self.files = [
            File(f"{7919 * (i + 1) % 1000:064x}", "val" if i % 3 == 2 else "train", 100 + 17 * i)
            for i in range(count)
        ]

    def read(self, file: File) -> Tensor:
        generator = torch.Generator().manual_seed(int(file.sha256, 16))
        return torch.randint(-32768, 32768, (2, file.samples), generator=generator).to(torch.int16)


class Encoder:
    """Codes that anyone can check: the top byte of the first samples of each frame."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.calls = 0
        self.fail_at = fail_at

    def __call__(self, audio_CT: Tensor) -> Tensor:
        assert audio_CT.dtype == torch.float32
        assert audio_CT.abs().max() <= 1.0
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        self.calls += 1
        frames = -(-audio_CT.shape[1] // HOP)
        padded = torch.nn.functional.pad(audio_CT[0], (0, frames * HOP - audio_CT.shape[1]))
        return ((padded.view(frames, HOP)[:, :LEVELS].T + 1.0) * 127.5).long()


def extract(
    cache: Path, encoder: Encoder, corpus: Corpus, model_hash: str = "a" * 64, **kw: object
) -> CodeStore:
    return extract_code_sequences(
        encoder,
        corpus,
        corpus.files,
        cache=cache,
        model_hash=model_hash,
        codebook_size=SIZE,
        num_quantizers=LEVELS,
        **kw,  # type: ignore[arg-type]
    )


def check(store: CodeStore, corpus: Corpus) -> None:
    assert [each.sha256 for each in store.sequences] == sorted(file.sha256 for file in corpus.files)
    by_hash = {file.sha256: file for file in corpus.files}
    for each in store.sequences:
        file = by_hash[each.sha256]
        assert each.split == file.split
        assert each.frames == -(-file.samples // HOP)
        assert each.codes_QT.dtype == torch.int16
        assert torch.equal(each.codes_QT.long(), Encoder()(corpus.read(file).float() / 32768.0))


def test_every_file_is_encoded_once(tmp_path: Path) -> None:
    corpus, encoder = Corpus(), Encoder()
    seen: list[EncodeProgress] = []
    store = extract(tmp_path, encoder, corpus, on_progress=seen.append)
    check(store, corpus)
    assert encoder.calls == 6
    assert store.notices == ()
    assert len(store.codes("train")) == 4
    assert store.frames("val") == sum(codes_QT.shape[1] for codes_QT in store.codes("val"))
    assert [progress.files for progress in seen] == list(range(7))
    total = sum(file.samples for file in corpus.files)
    assert seen[-1] == EncodeProgress(files=6, total_files=6, samples=total, total_samples=total)

    again = Encoder()
    check(extract(tmp_path, again, corpus), corpus)
    assert again.calls == 0
    check(load_code_sequences(store.folder, codebook_size=SIZE, num_quantizers=LEVELS), corpus)


def test_cache_belongs_to_one_model_and_corpus(tmp_path: Path) -> None:
    corpus = Corpus()
    first = extract(tmp_path, Encoder(), corpus)
    other_model = Encoder()
    assert extract(tmp_path, other_model, corpus, model_hash="b" * 64).folder != first.folder
    assert other_model.calls == 6
    corpus.digest = "e" * 64
    other_corpus = Encoder()
    extract(tmp_path, other_corpus, corpus)
    assert other_corpus.calls == 6


def test_new_files_alone_are_encoded(tmp_path: Path) -> None:
    extract(tmp_path, Encoder(), Corpus(4))
    encoder, corpus = Encoder(), Corpus(7)
    check(extract(tmp_path, encoder, corpus), corpus)
    assert encoder.calls == 3
    fewer = Corpus(2)
    check(extract(tmp_path, Encoder(fail_at=0), fewer), fewer)


@pytest.mark.parametrize("shard_frames", [1, 40, 100_000])
def test_interruption_keeps_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_frames: int
) -> None:
    monkeypatch.setattr(codes_module, "SHARD_FRAMES", shard_frames)
    corpus = Corpus()
    with pytest.raises(KeyboardInterrupt):
        extract(tmp_path, Encoder(fail_at=4), corpus)
    encoder = Encoder()
    check(extract(tmp_path, encoder, corpus), corpus)
    assert encoder.calls == 2
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".tmp"]


def damage_bytes(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0xFF
    path.write_bytes(data)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def rewrite(path: Path, column: str, value: object) -> None:
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[0][column] = value
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


def swap_codes(path: Path) -> None:
    rewrite(path, "codes", bytes(len(pq.read_table(path)["codes"][0].as_py())))


def lose_value(path: Path) -> None:
    rewrite(path, "sha256", None)


def forget_version(path: Path) -> None:
    pq.write_table(pq.read_table(path).replace_schema_metadata({}), path)


def drop_column(path: Path) -> None:
    pq.write_table(pq.read_table(path).drop_columns(["codes"]), path)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    "damage", [damage_bytes, cut_off, swap_codes, lose_value, forget_version, drop_column, empty]
)
def test_a_damaged_shard_is_encoded_again_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: object
) -> None:
    monkeypatch.setattr(codes_module, "SHARD_FRAMES", 40)
    corpus = Corpus()
    folder = extract(tmp_path, Encoder(), corpus).folder
    shards = sorted(folder.glob("*.parquet"))
    assert len(shards) == 3
    inside = pq.read_table(shards[1]).num_rows
    damage(shards[1])  # type: ignore[operator]
    with pytest.raises(BundleError, match="code shard"):
        load_code_sequences(folder, codebook_size=SIZE, num_quantizers=LEVELS)
    encoder = Encoder()
    store = extract(tmp_path, encoder, corpus)
    check(store, corpus)
    assert encoder.calls == inside
    assert len(store.notices) == 1
    assert shards[1].name in store.notices[0]
    assert "\n" not in store.notices[0]
    assert extract(tmp_path, Encoder(fail_at=0), corpus).notices == ()


def test_codes_of_another_codec_are_not_trusted(tmp_path: Path) -> None:
    folder = extract(tmp_path, Encoder(), Corpus()).folder
    for size, levels in ((16, LEVELS), (SIZE, 2)):
        with pytest.raises(BundleError, match="not of this codec"):
            load_code_sequences(folder, codebook_size=size, num_quantizers=levels)


def test_a_wrong_encoder_is_an_error(tmp_path: Path) -> None:
    for wrong in (
        lambda audio_CT: torch.zeros(2, 4),
        lambda audio_CT: torch.full((LEVELS, 4), SIZE),
        lambda audio_CT: torch.full((LEVELS, 4), 65_536 + 3),
        lambda audio_CT: torch.zeros(LEVELS, 0),
    ):
        with pytest.raises(BundleError, match="3 levels of codes below 256"):
            extract(tmp_path, wrong, Corpus(1))  # type: ignore[arg-type]


def test_nothing_to_load(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="holds no codes"):
        load_code_sequences(tmp_path / "nowhere", codebook_size=SIZE, num_quantizers=LEVELS)


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(BundleError, match="cannot be written"):
        extract(tmp_path / "cache", Encoder(), Corpus(1))

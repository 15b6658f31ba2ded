"""Two nodes do what one does: DDP over a real (if local) cluster, preparation and encoding spread over it."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from distill_ray.config.corpus import CorpusConfig
from distill_ray.config.vqvae import VQVAEConfig
from distill_ray.corpus import Corpus, open_corpus, prepare_corpus
from distill_ray.corpus.parallel import Job
from distill_ray.errors import CorpusError
from distill_ray.events.records import Event
from distill_ray.prior import CodeStore, extract_code_sequences
from distill_ray.runtime.plan import WorkerPlan, resolve_plan
from distill_ray.runtime.ray_session import ray_session
from distill_ray.vqvae import VQVAE, encode_long


@pytest.mark.slow
def test_two_nodes_train_as_two_ranks_on_one(
    faulty: ModuleType, small_corpus: Path, undisturbed: Any, tmp_path: Path
) -> None:
    """Losses, health and weights to the last digit: the batches are the same, a sum of two has one order."""
    with faulty.cluster(1, 1) as nodes:
        run = faulty.CodecRun(
            tmp_path / "run", small_corpus, workers="2", address=nodes.address, epochs=undisturbed.epochs
        )
        final = run.result()["final"]
        assert len(faulty.pids(run.lines())) == 2
        assert nodes.state()["groups"] == []
    faulty.same_result(final, undisturbed.final)
    one, two = (
        torch.load(folder / "checkpoints" / "latest" / "state.pt", weights_only=True)["model"]
        for folder in (undisturbed.run_dir, tmp_path / "run")
    )
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
def test_preparing_and_encoding_on_two_nodes_make_what_one_machine_makes(
    faulty: ModuleType, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CorpusConfig(sample_rate=11_025, channels=1, val_fraction=0.3)
    said: list[Event] = []
    torch.manual_seed(0)
    settings = VQVAEConfig(
        sample_rate=11_025, codebook_size=16, num_quantizers=2, width=16, encoder_blocks=1, decoder_blocks=1
    )
    model = VQVAE(settings).eval()

    def codes(corpus: Corpus, cache: Path, encode_all: Any = None) -> CodeStore:
        return extract_code_sequences(
            functools.partial(encode_long, model, chunk_frames=64),
            corpus,
            [*corpus.files("train"), *corpus.files("val")],
            cache=cache,
            model_hash="0" * 64,
            codebook_size=16,
            num_quantizers=2,
            encode_all=encode_all,
        )

    prepare_corpus([recordings], tmp_path / "here", config=config, workers=1)
    here = open_corpus(tmp_path / "here")
    made_here = codes(here, tmp_path / "codes-here")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with faulty.cluster(1, 1) as nodes:
        plan = resolve_plan(WorkerPlan(num_workers=2, gpus_per_worker=0, address=nodes.address))
        with ray_session(plan):
            import ray.cloudpickle

            from distill_ray.runtime.spread import ClusterMapper
            from distill_ray.runtime.spread_codes import ClusterEncoder

            mapper = ClusterMapper(str(recordings), tmp_path, said.append)
            prepare_corpus([recordings], tmp_path / "there", config=config, mapper=mapper)
            there = open_corpus(tmp_path / "there")
            encoder = ClusterEncoder(model, there, chunk_frames=64, accelerator=False, listener=said.append)
            made_there = codes(there, tmp_path / "codes-there", encoder)
            ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
            with pytest.raises(CorpusError, match="a task's own error"):
                mapper(_fail, range(4), workers=None, files=4, what="failing", on_progress=None)
            nodes.wait_for(lambda state: state["free_cpus"] == 2.0)

    assert said == []  # no reason not to
    assert there.digest == here.digest
    assert _files(tmp_path / "there" / "shards") == _files(tmp_path / "here" / "shards")
    assert _files(made_there.folder) == _files(made_here.folder)


def _fail(item: int, job: Job) -> None:
    raise CorpusError("a task's own error")


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}

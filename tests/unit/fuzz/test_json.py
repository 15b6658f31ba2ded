"""Every JSON document that is read of others: 500 altered and mutated ones for each reader."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill_ray.bundle import read_manifest as read_model
from distill_ray.bundle.container import write_container
from distill_ray.bundle.format import FORMAT, VERSION
from distill_ray.config.vqvae import VQVAEConfig
from distill_ray.corpus.manifest import MANIFEST_NAME, CorpusFile, Manifest, ShardInfo, read_manifest
from distill_ray.errors import DistillError
from distill_ray.events.lines import parse_line
from distill_ray.events.records import Notice, VQStepMetrics, from_record, to_record
from distill_ray.jobs.address import dashboard_address
from distill_ray.jobs.client import JobClient
from distill_ray.jobs.follow import JobStory
from distill_ray.jsonable import jsonable, parse_json
from distill_ray.pipeline.record import FILE, PipelineRecord, open_record
from distill_ray.runs.run_folder import was_cut
from distill_ray.storage.storage import open_storage
from distill_ray.storage.uploaded import POINTER, _read_pointer
from distill_ray.training.checkpoint import read_json
from distill_ray.tune.trial import TrialRecord, from_json, make_spec, to_json
from tests.unit.fuzz.conftest import CASES

DEEP = ["[" * 100_000 + "]" * 100_000, '{"a":' * 100_000 + "1" + "}" * 100_000, "[" * 150 + "]" * 150, "["]
STEP = VQStepMetrics(
    step=1,
    epoch=1,
    epoch_step=1,
    steps_per_epoch=3,
    fraction=0.1,
    loss=2.0,
    losses={"mel": 1.0},
    lr=0.1,
    grad_norm=3.0,
    skipped_steps=0,
    steps_per_second=2.0,
    audio_seconds_per_second=8.0,
    eta_s=None,
)
JOB = {
    "submission_id": "birds",
    "status": "FAILED",
    "message": "x\ndistill-ray-error {}",
    "start_time": 1_000,
    "end_time": 2_000,
    "driver_exit_code": 1,
    "entrypoint": "python",
    "metadata": {"distill_ray": "1", "output": "s3://b/x"},
}


def corpus() -> Any:
    file = CorpusFile(
        path="a.wav",
        sha256="ab" * 32,
        samples=10,
        split="train",
        source_rate=8_000,
        source_channels=1,
        clipped=0,
        shard="a.arrow",
        start=0,
    )
    shard = ShardInfo(name="a.arrow", rows=10, bytes=1_000)
    return json.loads(Manifest(sample_rate=8_000, channels=1, files=(file,), shards=(shard,)).to_json())


def pipeline() -> Any:
    made: dict[str, Any] = {
        "version": 1,
        "name": "birds",
        "tune": True,
        "sources": ["/a"],
        "settings": {"model.size": "tiny", "sweep.sizes": ["tiny", "small"]},
        "stages": {
            "prepare": {"digest": "ab"},
            "samples": {"sets": [{"folder": "samples", "files": [{"name": "a.wav"}]}]},
        },
    }
    return made


def model() -> Any:
    return {
        "vqvae_config": jsonable(VQVAEConfig()),
        "sample_rate": VQVAEConfig().sample_rate,
        "channels": VQVAEConfig().channels,
        "codebook_health": [{"utilization": 0.5, "perplexity": 2.0, "dead_codes": 1, "entropy": 0.5}]
        * VQVAEConfig().num_quantizers,
        "metadata": {"corpus": {"digest": "ab"}, "loss_history": []},
        "has_prior": False,
        "prior_config": None,
        "prior_metadata": None,
        "prior_codec_sha256": None,
        "sha256": {"vqvae": "ab" * 32, "prior": None},
    }


def read_written(name: str, read: Callable[[Path], Any]) -> Callable[[Path, bytes], Any]:
    def run(folder: Path, content: bytes) -> Any:
        (folder / name).write_bytes(content)
        return read(folder)

    return run


def story(folder: Path, content: bytes) -> Any:
    """A job's log with the document as each kind of line."""
    text = content.decode("utf-8", "replace").replace("\n", " ")
    told = JobStory()
    lines = [f"distill-ray-{kind} {text}" for kind in ("event", "report", "result", "error")]
    told.tell(lines, lambda event: None)
    return [parse_line(line) for line in lines]


def event(folder: Path, content: bytes) -> Any:
    try:
        record = parse_json(content)
        return to_record(from_record(record)) if isinstance(record, dict) else None
    except ValueError:
        return None


def job(folder: Path, content: bytes) -> Any:
    client = JobClient(dashboard_address("http://head:8265", {}), None)
    client._ask = lambda *_: (200, content)  # type: ignore[method-assign]
    return [client.job("birds"), client.jobs(), client.logs("birds")]


def bundle(folder: Path, content: bytes) -> Any:
    path = folder / "m.distill"
    try:
        document = json.loads(content)
        write_container(path, {}, document, kind=FORMAT, version=VERSION)
    except (ValueError, RecursionError):  # not what a writer of files could write
        return None
    return read_model(path)


RECORD = TrialRecord(spec=make_spec("search", 16, (1, 2), {"training.lr": 0.1}), state="completed")
POINTED = {"name": "000001-abcd", "files": {"run.json": {"bytes": 3, "sha256": "ab" * 32}}}
READERS: dict[str, tuple[Callable[[], Any], Callable[[Path, bytes], Any]]] = {
    "corpus": (corpus, read_written(MANIFEST_NAME, lambda folder: read_manifest(open_storage(folder)))),
    "trial": (
        lambda: json.loads(to_json(RECORD)),
        lambda folder, content: from_json(content, source="trial.json"),
    ),
    "pipeline": (pipeline, read_written(FILE, lambda folder: open_record(folder, folder))),
    "pointer": (lambda: POINTED, read_written(POINTER, lambda folder: _read_pointer(open_storage(folder)))),
    "checkpoint": (
        lambda: {"ended": "completed", "history": [1.0]},
        read_written("run.json", lambda folder: read_json(folder / "run.json")),
    ),
    "event": (lambda: to_record(STEP), event),
    "notice": (lambda: to_record(Notice(level="warning", message="m")), event),
    "result": (lambda: {"document": {"model_path": "m"}, "result": "m"}, story),
    "error": (lambda: {"type": "E", "message": "m", "exit_code": 4}, story),
    "job": (lambda: JOB, job),
    "jobs": (lambda: [JOB, JOB], job),
    "model": (model, bundle),
}


@pytest.mark.parametrize("what", READERS)
def test_altered_documents_are_read_or_refused(tmp_path, chance, mutated, altered, outcome, what):
    make, read = READERS[what]
    valid = json.dumps(make()).encode()
    assert not isinstance(outcome(lambda: read(tmp_path, valid)), DistillError) or what in ("job", "jobs")
    for index in range(CASES):
        changed = json.dumps(altered(json.loads(valid), chance)).encode()
        content = changed if index % 3 else mutated(valid, chance)
        outcome(lambda content=content: read(tmp_path, content))  # type: ignore[misc]


@pytest.mark.parametrize("text", DEEP, ids=["lists", "objects", "150", "cut"])
@pytest.mark.parametrize("what", READERS)
def test_documents_nested_without_end_are_refused(tmp_path, outcome, what, text):
    _, read = READERS[what]
    found = outcome(lambda: read(tmp_path, text.encode()))
    if what in ("corpus", "trial", "pipeline", "pointer", "checkpoint", "job", "jobs"):
        assert isinstance(found, DistillError)


def test_a_damaged_progress_is_as_none(tmp_path):
    path = tmp_path / "checkpoints" / "latest" / "progress.json"
    path.parent.mkdir(parents=True)
    for text in (*DEEP, "[]", "3", '{"ended": []}'):
        path.write_text(text)
        assert was_cut(tmp_path) in (True, False)


def test_a_pipeline_survives_its_own_writing(tmp_path):
    (tmp_path / FILE).write_text(json.dumps(pipeline()))
    record = open_record(tmp_path, tmp_path)
    assert isinstance(record, PipelineRecord)
    record.save()
    assert open_record(tmp_path, tmp_path) == record

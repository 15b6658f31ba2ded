from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from distill_ray.bundle import save_model_v2, verify
from distill_ray.config.vqvae import VQVAEConfig
from distill_ray.errors import BundleError, ClusterError, UsageError
from distill_ray.events.records import Event, Notice, PriorStepMetrics, to_record
from distill_ray.jobs import follow as jobs
from distill_ray.jobs.client import JobRecord
from distill_ray.jobs.follow import JobEnd, JobStory, fetch, follow, stop
from distill_ray.storage.filesystem import Located

STEP = PriorStepMetrics(
    step=1,
    epoch=1,
    epoch_step=1,
    steps_per_epoch=9,
    fraction=0.1,
    loss=2.0,
    lr=0.1,
    grad_norm=1.0,
    skipped_steps=0,
    steps_per_second=1.0,
    codes_per_second=1.0,
    eta_s=None,
)
RUNNING = JobRecord(
    job_id="birds",
    status="running",
    message="",
    started=1.0,
    ended=None,
    exit_code=None,
    entrypoint="python",
    metadata={},
)


def job(status: str, exit_code: int | None = None, **metadata: str) -> JobRecord:
    return dataclasses.replace(RUNNING, status=status, exit_code=exit_code, metadata=metadata)


def line(event: Event) -> str:
    return f"distill-ray-event {json.dumps(to_record(event))}"


def step(number: int) -> PriorStepMetrics:
    return dataclasses.replace(STEP, step=number)


class Cluster:
    """Answers `job` with one record after the other (the last for ever) and keeps what it is asked for."""

    def __init__(self, *records: JobRecord, logs: str = "") -> None:
        self.records = list(records)
        self.text = logs
        self.asked: list[str] = []

    def job(self, job_id: str) -> JobRecord:
        return self.records.pop(0) if len(self.records) > 1 else self.records[0]

    def logs(self, job_id: str) -> str:
        return self.text

    def stop(self, job_id: str) -> None:
        self.asked.append(f"stop {job_id}")

    def upload(self, package: str, content: bytes) -> str:
        return "gcs://package"

    def submit(self, request: dict[str, Any], on_wait: Callable[[str], None] | None = None) -> str:
        self.asked.append(request["entrypoint"])
        return "helper"


def test_a_story_is_the_events_in_order_with_one_step_for_many():
    heard: list[Event] = []
    story = JobStory()
    notices = [Notice(level="info", message=text) for text in "ab"]
    told = [line(notices[0]), *(line(step(number)) for number in (1, 2, 3)), line(notices[1]), line(step(4))]
    results = ['distill-ray-report {"model": "m"}', 'distill-ray-result {"document": {}, "result": "m"}']
    story.tell(["Ray says hello", "", *told, *results], heard.append)
    assert heard == [notices[0], step(3), notices[1], step(4)]
    assert (story.report, story.result) == ({"model": "m"}, {"document": {}, "result": "m"})
    assert list(story.others) == ["Ray says hello"]


def test_records_of_newer_and_broken_writers_are_passed_over():
    heard: list[Event] = []
    JobStory().tell(
        ['distill-ray-event {"event": "New"}', 'distill-ray-event {"event": "Notice"}'], heard.append
    )
    assert heard == []


@pytest.mark.parametrize(
    ("record", "error", "code"),
    [
        (job("succeeded", 0), None, 0),
        (job("failed", 4), None, 4),
        (job("stopped"), None, 3),
        (job("failed"), None, 1),
        (job("failed", -9), None, 1),
        (job("failed"), {"exit_code": 2}, 2),
        (job("failed"), {"exit_code": 0}, 1),
    ],
)
def test_a_job_ends_with_its_own_exit_code(record, error, code):
    assert JobEnd(record=record, story=JobStory(error=error)).exit_code == code


def test_a_job_that_is_over_is_told_from_its_whole_log():
    heard: list[Event] = []
    cluster = Cluster(job("failed", 1), logs=f'{line(STEP)}\ndistill-ray-error {{"message": "no"}}\n')
    end = follow(cluster, "birds", heard.append)
    assert heard == [STEP]
    assert end.story.error == {"message": "no"}


@pytest.fixture
def hurried(monkeypatch):
    monkeypatch.setattr(jobs, "_LOOK_EVERY_S", 0.0)


def test_stopping_a_running_job_is_asking_it_and_waiting(hurried):
    cluster, said = Cluster(RUNNING, RUNNING, job("stopped")), []
    assert stop(cluster, "birds", now=False, on_wait=said.append).status == "stopped"
    assert cluster.asked == ["stop birds"]
    assert said == ["birds ends after its step and keeps what is trained; --now would kill it"]


def test_a_cluster_that_is_silent_for_a_moment_is_no_reason_to_give_up_stopping(hurried, monkeypatch):
    cluster = Cluster(RUNNING, RUNNING, job("stopped"))
    answers = [True, True, False, False, True]

    def answer(job_id: str) -> JobRecord:
        if not answers.pop(0):
            raise ClusterError("http://head:8265 gives no answer within 3 s")
        return Cluster.job(cluster, job_id)

    cluster.job = answer
    assert stop(cluster, "birds", now=False, on_wait=lambda message: None).status == "stopped"
    cluster.records, answers = [RUNNING, RUNNING, job("stopped")], [True, True, False, True]
    monkeypatch.setattr(jobs, "_SILENCE_S", -1.0)
    with pytest.raises(ClusterError, match="whether birds has ended is not known"):
        stop(cluster, "birds", now=False, on_wait=lambda message: None)


@pytest.mark.parametrize(("status", "now"), [("pending", False), ("running", True)])
def test_what_has_not_begun_or_is_to_be_killed_is_ended_from_within(hurried, status, now):
    cluster = Cluster(job(status), job("succeeded", 0), job("stopped"))
    assert stop(cluster, "birds", now=now, on_wait=lambda message: None).status == "stopped"
    assert cluster.asked == ["exec python -P -m distill_ray.jobs.remote_end birds"]


def test_a_helper_that_fails_is_said_with_its_reason(hurried):
    cluster = Cluster(job("pending"), job("failed", 1), logs="Traceback\nValueError: no supervisor\n")
    with pytest.raises(ClusterError, match="birds could not be ended: ValueError: no supervisor"):
        stop(cluster, "birds", now=False, on_wait=lambda message: None)


def test_a_job_that_does_not_end_is_said(hurried, monkeypatch):
    monkeypatch.setattr(jobs, "_END_WITHIN_S", -1.0)
    monkeypatch.setattr(jobs, "STOP_WITHIN_S", 0)
    with pytest.raises(ClusterError, match=r"still running after .* --now kills it"):
        stop(Cluster(RUNNING), "birds", now=False, on_wait=lambda message: None)


def test_stopping_what_is_over_asks_nothing():
    cluster = Cluster(job("succeeded", 0))
    assert stop(cluster, "birds", now=True, on_wait=lambda message: None).status == "succeeded"
    assert cluster.asked == []


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What a codec run leaves."""
    from distill_ray.vqvae import VQVAE

    folder = tmp_path_factory.mktemp("store") / "birds"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "run.toml").write_text("[model]\n")
    (folder / "checkpoints" / "state.pt").write_text("weights")
    config = VQVAEConfig(width=16, encoder_blocks=1, decoder_blocks=1, latent_dim=16)
    save_model_v2(folder / "birds.distill", VQVAE(config), metadata={}, codebook_health=())
    return folder


def bring(cluster, target, **options):
    return fetch(
        cluster,
        "birds",
        target,
        **{"everything": False, "on_progress": lambda done, total, note: None, **options},
    )


@pytest.mark.parametrize("as_uri", [False, True])
def test_the_model_is_fetched_from_a_path_or_uri(results, tmp_path, as_uri):
    output = results.as_uri() if as_uri else str(results)
    told = []
    cluster = Cluster(job("succeeded", 0, output=output))
    paths = bring(cluster, tmp_path / "new", on_progress=lambda *progress: told.append(progress))
    assert told[-1] == (1, 1, "files")
    assert paths == (tmp_path / "new" / "birds.distill",)
    verify(paths[0])
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["birds.distill"]


def test_the_model_that_a_prior_was_put_into_is_fetched_by_its_own_name(results, tmp_path):
    paths = bring(Cluster(job("succeeded", 0, output=f"{results}/birds.distill")), tmp_path)
    assert [path.name for path in paths] == ["birds.distill"]


def test_everything_is_fetched_as_one_folder(results, tmp_path):
    paths = bring(Cluster(job("running", output=str(results))), tmp_path, everything=True)
    assert paths == (tmp_path / "birds",)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {"birds/birds.distill", "birds/run.toml", "birds/checkpoints/state.pt"}


@pytest.mark.parametrize("key", ["../../escaped", "a/../../../escaped", "/escaped", "a//b", "C:/x", "a\nb"])
def test_a_name_of_the_store_that_leads_out_of_the_folder_is_refused_before_anything_is_written(
    monkeypatch, tmp_path, key
):
    """As an object store may list it: to it, keys are no paths."""
    store = Store("run.toml", key)
    monkeypatch.setattr("distill_ray.storage.storage.locate", lambda uri, attempts: store.located(uri))
    cluster = Cluster(job("succeeded", 0, output="s3://bucket/birds"))
    with pytest.raises(UsageError, match=r"s3://bucket/birds holds the name .*, which cannot be used"):
        bring(cluster, tmp_path / "deep" / "got", everything=True)
    assert list(tmp_path.iterdir()) == []


class Store:
    """A store with these keys, whatever they are, all with the same content."""

    def __init__(self, *keys: str) -> None:
        self.keys = keys

    def located(self, uri: str) -> Located:
        return Located(filesystem=self, root="bucket/birds", uri=uri, local=None)

    def get_file_info(self, asked: pafs.FileSelector | str) -> Any:
        infos = [pafs.FileInfo(f"bucket/birds/{key}", pafs.FileType.File, size=1) for key in self.keys]
        return infos if isinstance(asked, pafs.FileSelector) else infos[0]

    def open_input_stream(self, path: str) -> Any:
        return pa.BufferReader(b"x")


@pytest.mark.parametrize("name", ["../birds", "a/b", "..", "\x1b]0;x"])
def test_a_job_whose_id_is_no_name_of_a_folder_is_not_fetched(results, tmp_path, name):
    cluster = Cluster(dataclasses.replace(job("succeeded", 0, output=str(results)), job_id=name))
    with pytest.raises(UsageError, match="the cluster holds the name"):
        fetch(cluster, name, tmp_path / "a" / "b", everything=True, on_progress=lambda *_: None)
    assert list(tmp_path.iterdir()) == []


def test_a_link_to_nothing_is_not_replaced(results, tmp_path):
    (tmp_path / "birds.distill").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="exists already"):
        bring(Cluster(job("succeeded", 0, output=str(results))), tmp_path)
    assert (tmp_path / "birds.distill").is_symlink()


def test_what_is_there_stays(results, tmp_path):
    (tmp_path / "birds.distill").write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        bring(Cluster(job("succeeded", 0, output=str(results))), tmp_path)
    assert (tmp_path / "birds.distill").read_text() == "mine"


def test_a_damaged_model_is_not_kept(results, tmp_path):
    broken = tmp_path / "store"
    broken.mkdir()
    content = bytearray((results / "birds.distill").read_bytes())
    content[-1] ^= 1
    (broken / "birds.distill").write_bytes(content)
    with pytest.raises(BundleError, match=str(broken)):
        bring(Cluster(job("succeeded", 0, output=str(broken))), tmp_path / "got")
    assert list((tmp_path / "got").iterdir()) == []


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (job("running"), "birds is no job of distill-ray submit"),
        (job("running", output="/nowhere/birds"), "this machine sees no /nowhere/birds"),
        (job("running", output="{empty}"), "there is no model of birds at .* yet; the job is running"),
        (job("failed", output="{empty}"), "there is no model of birds at .*; the job has failed"),
        (job("failed", output="{empty}/birds"), "birds has failed and has left nothing at .*/birds: "),
    ],
)
def test_what_cannot_be_fetched_is_said(tmp_path, record, said):
    (tmp_path / "empty").mkdir()
    output = {key: value.format(empty=tmp_path / "empty") for key, value in record.metadata.items()}
    with pytest.raises(UsageError, match=said):
        bring(Cluster(dataclasses.replace(record, metadata=output)), tmp_path / "got")

"""Events of a run as Ray really exports them: read from the node's metrics port, as Prometheus does."""

from __future__ import annotations

import time
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from distill_ray.events.records import RunStarted, VQEpochMetrics
from distill_ray.runtime.metrics import RayMetrics, label
from distill_ray.runtime.plan import WorkerPlan, resolve_plan
from distill_ray.runtime.ray_session import ray_session
from distill_ray.vqvae.health import codebook_health

STARTED = RunStarted(
    kind="vqvae",
    name='bells "2"\nray_forged{} 1 ä',
    output_dir="/runs/bells",
    device="cpu",
    world_size=2,
    parameters=10,
    epochs=3,
    max_minutes=None,
    steps_per_epoch=4,
    train_files=5,
    train_seconds=60.0,
    val_files=1,
    val_seconds=6.0,
    first_epoch=1,
)
EPOCH = VQEpochMetrics(
    epoch=1,
    epochs=3,
    step=4,
    train_loss=float("nan"),
    val_loss=7.25,
    best_val_loss=7.25,
    best_epoch=1,
    losses={"mel": 1.5},
    val_losses={"mel": 1.25},
    codebook_health=codebook_health([[1, 1, 1, 1], [3, 1, 0, 0]]),
    utilization_warnings=(),
    reseeded_codes=3,
    skipped_steps=2,
    audio_seconds_per_second=140.0,
    elapsed_s=1.0,
)


def exported(url: str) -> dict[tuple[str, ...], float]:
    """{(name, level or split and term): value} of our run's metrics."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    tags = ("level", "split", "term")
    samples = [item for family in text_string_to_metric_families(text) for item in family.samples]
    return {
        (item.name, *(item.labels[tag] for tag in tags if tag in item.labels)): item.value
        for item in samples
        if item.labels.get("run") == label(STARTED.name) and item.labels["kind"] == STARTED.kind
    }


def test_events_arrive_at_the_metrics_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_metrics_report_interval_ms", "500")  # 10 s, if nothing is said
    plan = resolve_plan(WorkerPlan(num_workers=1, gpus_per_worker=0))
    with ray_session(plan):
        import ray

        heard = RayMetrics()
        heard(STARTED)
        heard(EPOCH)
        (node,) = ray.nodes()
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        values: dict[tuple[str, ...], float] = {}
        deadline = time.monotonic() + 120
        while ("ray_distill_ray_best_val_loss",) not in values:
            assert time.monotonic() < deadline, values
            time.sleep(0.2)
            try:
                values = exported(url)
            except OSError:  # the port opens some seconds after Ray's start
                continue
    assert values["ray_distill_ray_running",] == 1.0
    assert values["ray_distill_ray_loss", "val", "total"] == 7.25
    assert values["ray_distill_ray_loss", "val", "mel"] == 1.25
    assert ("ray_distill_ray_loss", "train", "total") not in values  # not a number
    assert values["ray_distill_ray_skipped_steps",] == 2.0
    assert values["ray_distill_ray_codebook_utilization_ratio", "1"] == 0.5
    assert values["ray_distill_ray_codebook_perplexity", "0"] == pytest.approx(4.0)
    assert values["ray_distill_ray_codebook_dead_codes", "1"] == 2.0

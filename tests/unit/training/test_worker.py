from __future__ import annotations

from pathlib import Path

import torch

from distill_ray.events.records import Event, Notice
from distill_ray.training.worker import LocalWorker, StopFlag

EVENT = Notice(level="info", message="x")


def test_a_local_worker_is_a_world_of_one(tmp_path: Path) -> None:
    events: list[Event] = []
    stop = StopFlag()
    worker = LocalWorker(tmp_path, device=torch.device("cpu"), listener=events.append, stop=stop)
    tensor = torch.arange(3.0)
    assert worker.all_reduce(tensor) is tensor
    assert torch.equal(worker.all_gather(tensor), tensor)
    module = torch.nn.Linear(1, 1)
    assert worker.wrap(module) is module
    worker.emit(EVENT)
    assert events == [EVENT]
    assert not worker.stop_requested()
    stop.request()
    assert worker.stop_requested()


def test_checkpoints_replace_each_other(tmp_path: Path) -> None:
    worker = LocalWorker(tmp_path / "c", device=torch.device("cpu"))
    assert worker.restore() is None
    for text in ("one", "two"):
        worker.checkpoint(EVENT, lambda folder, text=text: (folder / "f").write_text(text) and None)
        worker.checkpoint(EVENT, None)
        restored = worker.restore()
        assert restored is not None
        assert (restored / "f").read_text() == text
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["latest"]

"""What a submitted job loses by Ctrl-C on its client, by `jobs stop`, and by SIGKILL of its driver.

One training suffers them one after another and ends as the one that nothing happens to. Rows for the table of
faults as in `test_faults.py`.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from distill_ray.events.lines import parse_line
from distill_ray.runtime.processes import processes_of

EPOCHS = 60
TRAINING = f"""
[training]
window_seconds = 0.25
min_epoch_steps = 20
warmup_steps = 4
val_seconds = 2.0
batch_size = 4
epochs = {EPOCHS}
checkpoint_seconds = 1.5
"""


class Training:
    """Jobs that go on with one another's run; `model` and `TRAINING`, two ranks."""

    def __init__(self, client: Any, corpus: Path, model: str) -> None:
        self.client, self.corpus = client, corpus
        self.store = client.folder / "store"
        (client.folder / "paced.toml").write_text(model + TRAINING)

    def submit(self, name: str, *, resume: str | None = None) -> tuple[Any, Path]:
        """The client that watches the new job, and what it says; `resume` names the run to go on with."""
        ranks = ["--num-workers", "2"]
        if resume is None:
            own, job = ["--storage", str(self.store)], ["--config", "paced.toml", *ranks]
        else:
            own, job = [], ["--resume", str(self.store / resume), *ranks]
        words = ["submit", "--name", name, *own, "--json", "--", "train", str(self.corpus), *job]
        process, said = self.client.start(*words)
        return process, said

    def reaches(self, watching: tuple[Any, Path], epoch: int) -> None:
        process, said = watching
        self.client.wait_for(lambda: _epochs(said) >= epoch or process.poll() is not None, within_s=280)
        assert process.poll() is None, said.read_text()

    def last_step(self, name: str) -> int:
        """The last one that the job's log tells of."""
        log = self.client.document("jobs", "logs", name, "--raw")["log"]
        events = [said[1] for said in map(parse_line, log.splitlines()) if said and said[0] == "event"]
        return max(event["step"] for event in events if event.get("step"))

    def kept_step(self, run: str) -> int:
        """That of the newest checkpoint."""
        progress = json.loads((self.store / run / "checkpoints" / "latest" / "progress.json").read_text())
        step: int = progress["step"]
        return step

    def result(self, watching: tuple[Any, Path]) -> dict[str, Any]:
        process, said = watching
        out, _ = process.communicate(timeout=400)
        assert process.returncode == 0, said.read_text()
        document: dict[str, Any] = json.loads(out)
        return document


def _epochs(said: Path) -> int:
    """The last epoch that the client has shown, 0 before the first."""
    shown = [line.split("/")[0] for line in said.read_text().splitlines() if line.startswith("epoch ")]
    return int(shown[-1].split()[1]) if shown else 0


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_job_goes_on_after_faults_of_its_client_and_its_own(
    faulty: ModuleType,
    head: Any,
    client: Any,
    small_corpus: Path,
    small_model: str,
    row: Callable[..., None],
) -> None:
    training = Training(client, small_corpus, small_model)
    undisturbed = training.result(training.submit("quiet"))

    first = training.submit("run")
    training.reaches(first, 2)
    began = time.time()
    os.killpg(first[0].pid, signal.SIGINT)
    assert first[0].wait(30) == 3, first[1].read_text()
    detached = faulty.Recovery(noticed_s=time.time() - began, resumed_s=0.0, lost_steps=0)
    assert "distill-ray jobs logs run --follow" in first[1].read_text()
    seen = training.last_step("run")
    client.wait_for(lambda: training.last_step("run") > seen)  # the job goes on

    began = time.time()
    assert client.document("jobs", "stop", "run")["status"] == "stopped"
    over = time.time()
    last, kept = training.last_step("run"), training.kept_step("run")
    second = training.submit("goes-on", resume="run")
    training.reaches(second, 1 + kept // 20)
    stopped = faulty.Recovery(
        noticed_s=over - began, resumed_s=time.time() - began, lost_steps=max(0, last - kept)
    )
    assert stopped.lost_steps == 0  # the checkpoint comes after the last step

    (driver,) = (pid for pid in processes_of(head.token_file.parent) if _drives(faulty.titles([pid])))
    began = faulty.kill(driver)
    second[0].communicate(timeout=120)
    noticed_s = time.time() - began
    assert second[0].returncode == 1, second[1].read_text()
    assert second[1].read_text().count("error: ") == 1
    assert "signal 9 ended its driver" in second[1].read_text()
    last, kept = training.last_step("goes-on"), training.kept_step("run")
    third = training.submit("ends", resume="run")
    training.reaches(third, 1 + kept // 20)
    killed = faulty.Recovery(
        noticed_s=noticed_s, resumed_s=time.time() - began, lost_steps=max(0, last - kept)
    )
    document = training.result(third)

    exact = ("final_val_loss", "best_val_loss", "best_epoch", "epochs_completed", "exit_reason")
    assert {key: document[key] for key in exact} == {key: undisturbed[key] for key in exact}
    row("Ctrl-C on the client of a job (the job goes on)", detached, document, undisturbed)
    row("`jobs stop`, submitted again with --resume", stopped, document, undisturbed)
    row("the driver of a job, SIGKILL, submitted again with --resume", killed, document, undisturbed)


def _drives(titles: list[str]) -> bool:
    """Whether the process of these titles, none where it is gone, is the one that a job began as."""
    return any(title.startswith("python -P -m distill_ray train ") for title in titles)

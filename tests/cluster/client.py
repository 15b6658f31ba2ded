"""distill-ray as a user of a cluster runs it. Imported by the tests of this folder through conftest.py."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SETTINGS = """
[model]
codebook_size = 16
num_quantizers = 2
width = 16
n_fft = 256
hop = 64
[training]
batch_size = 8
window_seconds = 0.5
min_epoch_steps = 2
"""


class Client:
    """distill-ray as a user of the head runs it, in a folder of its own."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.environment, self.folder = environment, folder
        self.started: list[subprocess.Popen[str]] = []
        (folder / "tiny.toml").write_text(SETTINGS)

    def start(self, *words: str) -> tuple[subprocess.Popen[str], Path]:
        """The running program and the file that its stderr goes to."""
        stderr = self.folder / f"stderr-{len(self.started)}"
        with stderr.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "distill_ray", *words],
                cwd=self.folder,
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                start_new_session=True,
            )
        self.started.append(process)
        return process, stderr

    def run(self, *words: str) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        process, stderr = self.start(*words)
        out, _ = process.communicate(timeout=200)
        return process.returncode, out, stderr.read_text()

    def document(self, *words: str) -> dict[str, Any]:
        """What --json prints of a command that ends with 0."""
        own = list(words)
        own.insert(own.index("--") if "--" in own else len(own), "--json")
        code, out, err = self.run(*own)
        assert code == 0, err
        document: dict[str, Any] = json.loads(out)
        return document

    def train(self, corpus: Path, *more: str) -> list[str]:
        line = ["--", "train", str(corpus), "--config", "tiny.toml", "--size", "tiny", "--num-workers", "0"]
        return [*line, *more]

    @staticmethod
    def wait_for(found: Callable[[], object], within_s: float = 150.0) -> None:
        deadline = time.monotonic() + within_s
        while not found():
            assert time.monotonic() < deadline
            time.sleep(0.1)

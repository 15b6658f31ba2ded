"""Every exception that distill-ray raises on purpose.

    DistillError                  exit 1   anything that distill-ray can explain in one sentence
    ├── UsageError                exit 2   what the user gave cannot be used
    │   ├── ConfigError                    one or more settings are out of range (lists all of them)
    │   ├── CorpusError                    a source folder or a prepared corpus
    │   ├── AudioError                     one audio file
    │   ├── BundleError                    a .distill, codes or prior file
    │   └── CodeShapeError                 codes of another shape than their use asks for
    ├── TrainingError             exit 1   a run that could not go on
    │   └── CheckpointError                a checkpoint that cannot be read or written
    ├── StorageError              exit 1   results that did not get where they should; where they are is said
    ├── ClusterError              exit 1   Ray: not reachable, too small, lost
    ├── JobError          its own  what a submitted job ended with
    ├── InstallationError         exit 1   a package that is missing or does not fit
    ├── CancelledError            exit 3   stopped by Ctrl-C; what was saved is named

The message is one sentence: what is wrong, where, and what to do. The command line prints it alone and
ends with `exit_code`; nothing else may end it with a traceback.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class DistillError(Exception):
    """Root of the tree; `exit_code` is what the command line ends with.

    goes_on: whether the same command goes on where this ended it.
    """

    exit_code = 1
    goes_on = False


class UsageError(DistillError):
    """Something that the user gave cannot be used."""

    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One wrong setting: its TOML key, its flag where it has one, and what is wrong with it."""

    key: str
    message: str
    flag: str | None = None

    def __str__(self) -> str:
        known = self.flag is None or self.flag.lstrip("-").replace("-", "_") == self.key
        where = self.flag or self.key if known else f"{self.flag} ({self.key})"
        return f"{where}: {self.message}"


class ConfigError(UsageError, ValueError):
    """One or more settings are wrong; `problems` holds them all."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        assert problems, "a ConfigError needs a problem"
        self.problems = tuple(problems)
        super().__init__("; ".join(str(problem) for problem in self.problems))


class CorpusError(UsageError):
    """A source folder or a prepared corpus cannot be used."""


class AudioError(UsageError):
    """One audio file cannot be used."""


class BundleError(UsageError):
    """A .distill, codes or prior file cannot be used."""


class CodeShapeError(UsageError, ValueError):
    """Codes do not have the shape that their use asks for."""


class TrainingError(DistillError):
    """A run could not go on."""


class CheckpointError(TrainingError):
    """A checkpoint cannot be read or written."""


class StorageError(DistillError):
    """Results could not be put where they should; the message says where they are."""


class ClusterError(DistillError):
    """Ray is not reachable, too small for the request, or was lost."""


class JobError(DistillError):
    """A submitted job failed; its message and exit code are the job's."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class InstallationError(DistillError):
    """A package is missing or does not fit the others."""


class CancelledError(DistillError):
    """Stopped by Ctrl-C."""

    exit_code = 3
    goes_on = True


def first_line(error: BaseException) -> str:
    """Of what an error of another library says; its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

"""Two-way post between the driver of a search and its trials: records out, the request to stop in.

One Ray actor without resources for the whole search. A trial's side is the `Outbox` of `mailbox.py`, which
posts through a `TrialBox`; the driver's is in `tune/driver.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from distill_ray.runtime.mailbox import Record


class SweepMailbox:
    """Keeps what trials said until the driver asks; runs as a Ray actor (see `open_mailbox`)."""

    def __init__(self) -> None:
        self._records: list[tuple[str, Record]] = []
        self._actors: dict[str, Any] = {}
        self._groups: dict[str, list[Any]] = {}
        self._stopped: set[str] = set()
        self._all_stopped = False

    def hello(self, trial: str, actor: Any) -> bool:
        """`trial` runs in `actor`; answers whether it shall stop at once."""
        self._actors[trial] = actor
        return self._stops(trial)

    def post(self, trial: str, records: list[Record]) -> bool:
        """Add records of `trial`; answers whether it shall stop."""
        self._records.extend((trial, record) for record in records)
        return self._stops(trial)

    def hold(self, trial: str, group: Any) -> None:
        """The workers of `trial` run in the placement group `group`."""
        self._groups.setdefault(trial, []).append(group)

    def release(self, trial: str) -> list[Any]:
        """The placement groups that `trial` had since the last call."""
        return self._groups.pop(trial, [])

    def collect(self) -> list[tuple[str, Record]]:
        """(trial, record) since the last call; those of one trial in order."""
        records, self._records = self._records, []
        return records

    def request_stop(self, trial: str | None = None) -> None:
        """Have `trial`, or else every one, stop after its step."""
        if trial is None:
            self._all_stopped = True
        else:
            self._stopped.add(trial)

    def actors(self) -> list[Any]:
        """The actors that trials began in; some may have ended."""
        return list(self._actors.values())

    def _stops(self, trial: str) -> bool:
        return self._all_stopped or trial in self._stopped


@dataclass(frozen=True, kw_only=True)
class _Method:
    """A method of the mailbox's actor with the trial's id as its first argument."""

    method: Any
    trial: str

    def remote(self, *arguments: Any) -> Any:
        return self.method.remote(self.trial, *arguments)


class TrialBox:
    """One trial's part of the sweep's mailbox, called as `Outbox` calls its own."""

    def __init__(self, mailbox: Any, trial: str) -> None:
        self.post = _Method(method=mailbox.post, trial=trial)
        self.hello = _Hello()


class _Hello:
    """A trial has said hello, and waited for the answer, before it has an outbox."""

    def remote(self, *arguments: Any) -> None:
        pass

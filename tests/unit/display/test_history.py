from __future__ import annotations

from distill_ray.display.history import RunHistory
from distill_ray.training.events import Notice


def test_a_warning_is_new_once_and_keeps_its_place(epoch, complete):
    history = RunHistory()
    assert history.add(Notice(level="warning", message="first")) == ("first",)
    low = epoch().utilization_warnings[0]
    assert history.add(epoch(1)) == (low,)
    assert history.add(epoch(2)) == ()
    assert history.add(complete) == ()
    assert history.warnings == ["first", low]


def test_information_is_no_warning():
    history = RunHistory()
    assert history.add(Notice(level="info", message="hello")) == ()
    assert history.warnings == []


def test_memorisation_is_a_warning(prior_epoch, prior_complete):
    history = RunHistory()
    assert history.add(prior_epoch) == ("the prior repeats its training data",)
    assert history.add(prior_complete) == ()


def test_health_is_the_finished_runs_or_the_last_epochs(epoch, complete, health):
    history = RunHistory()
    assert history.health == ()
    history.add(epoch(codebook_health=health[:1]))
    assert history.health == health[:1]
    history.add(complete)
    assert history.health == health

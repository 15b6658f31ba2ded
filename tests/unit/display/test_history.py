from __future__ import annotations

import dataclasses

from distill_ray.display.history import RunHistory
from distill_ray.events.records import Notice


def test_a_notice_and_an_epochs_warning_are_shown_when_they_are_news(epoch):
    history = RunHistory()
    assert history.add(Notice(level="warning", message="first")) == ("first",)
    assert history.add(Notice(level="warning", message="first")) == ()
    low = epoch().utilization_warnings[0]
    assert history.add(epoch(1)) == (low,)
    worse = low.replace("10%", "9.5%")
    assert history.add(epoch(2, utilization_warnings=(worse,))) == ()  # another figure is no news
    assert history.warnings == ("first", f"epoch 1: {low}", f"epoch 2: {worse}")
    assert history.add(epoch(3, utilization_warnings=())) == ()
    assert history.add(epoch(4)) == (low,)


def test_the_finished_run_says_which_warnings_it_had(epoch, complete):
    history = RunHistory()
    history.add(Notice(level="warning", message="of the pipeline"))
    history.add(epoch(2))
    low = f"epoch 2: {epoch().utilization_warnings[0]}"
    before = "epoch 1: before the resume"
    assert history.add(dataclasses.replace(complete, warnings=(before, low))) == ()
    assert history.warnings == ("of the pipeline", before, low)


def test_information_is_no_warning():
    history = RunHistory()
    assert history.add(Notice(level="info", message="hello")) == ()
    assert history.warnings == ()


def test_memorisation_is_a_warning(prior_epoch, prior_complete):
    history = RunHistory()
    assert history.add(prior_epoch) == ("the prior repeats its training data",)
    assert history.add(prior_complete) == ()
    assert history.warnings == ("epoch 2: the prior repeats its training data",)


def test_health_is_the_finished_runs_or_the_last_epochs(epoch, complete, health):
    history = RunHistory()
    assert history.health == ()
    history.add(epoch(codebook_health=health[:1]))
    assert history.health == health[:1]
    history.add(complete)
    assert history.health == health

"""The page: what is in it, and what foreign text and large sounds cannot do to it."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import re
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile

from distill_ray.report.facts import ReportFacts, Sound, SoundGroup
from distill_ray.report.page import Page, make_page


@pytest.fixture(scope="module")
def page(records: ModuleType) -> Page:
    return make_page(records.full_facts())


@pytest.fixture(scope="module")
def document(records: ModuleType, page: Page) -> Any:
    return records.Document.of(page.html)


def test_every_part_has_its_heading_and_its_link(document: Any) -> None:
    titles = [element.text for element in document.all("h2")]
    assert titles == [
        "What was trained on what",
        "Warnings",
        "Held-out recordings",
        "Generated sounds",
        "How near to the recordings",
        "Nearest training moments",
        "Curves",
        "Codebook health",
        "Search",
        "Settings",
        "Provenance",
    ]
    sections = [element.attributes["id"] for element in document.all("section")]
    links = [element.attributes["href"] for element in document.all("a")]
    assert links == ["#main", *(f"#{name}" for name in sections)]
    assert [element.text for element in document.all("h1")] == ["birds"]
    assert document.unclosed == []


def test_tables_have_headers_and_pictures_have_words(document: Any) -> None:
    names = {element.attributes["aria-labelledby"] for element in document.all("table")}
    assert len(names) == len(document.all("table")) == len(document.all("thead"))
    words = {element.attributes.get("id"): element.text for element in document.elements}
    assert all(words[name] for name in names)
    assert {element.attributes["scope"] for element in document.all("th")} == {"col", "row"}
    assert all(element.attributes["aria-label"] for element in document.all("svg"))
    assert {element.attributes["role"] for element in document.all("svg")} == {"img"}
    names = [element.attributes["aria-label"] for element in document.all("audio")]
    assert names[0] == "birds, original, 0.5 s"
    assert len(names) == 5
    assert all("controls" in element.attributes for element in document.all("audio"))
    words = [element.attributes["aria-label"] for element in document.all("svg")]
    assert "Loss over 30 steps: held-out from 24 to 8, training from 20 to 6.667" in words
    assert any("histogram 800" in text and "prior from 1000 to 500" in text for text in words)


def test_ids_are_unique(document: Any) -> None:
    ids = [element.attributes["id"] for element in document.elements if "id" in element.attributes]
    assert len(ids) == len(set(ids))


def test_what_was_measured_is_on_the_page(page: Page) -> None:
    text = re.sub(r"[ \n]+", " ", page.html)
    for words in (
        "2.50 times the Fréchet distance",
        "Copies: none found.",
        "2\u00a0% of 480 windows",
        "training audio</th>",
        "only 240 windows were compared",
        "collapsed level 2",
        "(override)",
        "0.90 times what held-out audio usually has",
        "birds at 0:01.0 – birds at 1:02.5",
        "RVQ level 1 is low",
    ):
        assert words in text, words


def test_the_policy_permits_the_pages_own_style_and_script_only(document: Any) -> None:
    (policy,) = [
        element.attributes["content"]
        for element in document.all("meta")
        if element.attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    (style,) = document.all("style")
    data, script = document.all("script")
    assert data.attributes["type"] == "application/json"
    for name, element in (("style", style), ("script", script)):
        digest = base64.b64encode(hashlib.sha256(element.text.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert not [element for element in document.elements if "style" in element.attributes]
    assert not [name for element in document.elements for name in element.attributes if name.startswith("on")]


def test_nothing_is_loaded_from_elsewhere(document: Any) -> None:
    for element in document.elements:
        for name in ("src", "href", "xlink:href"):
            assert element.attributes.get(name, "#").startswith(("#", "data:audio/", "data:image/")), element


def test_foreign_text_stays_text(records: ModuleType, page: Page) -> None:
    hostile = records.Document.of(make_page(records.full_facts(records.HOSTILE)).html)
    tame = records.Document.of(page.html)
    assert [each.tag for each in hostile.elements] == [each.tag for each in tame.elements]
    assert [sorted(each.attributes) for each in hostile.elements] == [
        sorted(each.attributes) for each in tame.elements
    ]
    shown = records.HOSTILE.replace("\u202e", "\\u202e")  # which would turn around what follows it
    assert [element.text for element in hostile.all("h1")] == [shown]
    assert shown in hostile.all("audio")[0].attributes["aria-label"]
    assert hostile.unclosed == []
    assert records.figures(hostile)["title"] == records.HOSTILE


def test_the_figures_are_there_for_programs(records: ModuleType, document: Any) -> None:
    values = records.figures(document)
    assert values["runs"][0]["epochs"][2]["val_loss"] == 8.0
    assert values["judged"]["generated"]["ratio"] == 2.5
    assert values["search"]["candidates"][0]["chosen"] is True
    assert values["excerpts"][0]["sounds"][0] == {"label": "original", "seconds": 0.5, "sample_rate": 8000}


def test_what_is_no_number_is_null_for_programs(records: ModuleType) -> None:
    run = dataclasses.replace(records.codec_run(), epochs=(records.epoch(1, float("nan")),), steps=())
    facts = ReportFacts(title="nan", kind="run", overview=(), runs=(run,))
    values = records.figures(records.Document.of(make_page(facts).html))
    assert values["runs"][0]["epochs"][0]["val_loss"] is None


def test_sounds_are_what_was_given(document: Any) -> None:
    source = document.all("audio")[0].attributes["src"].removeprefix("data:audio/mpeg;base64,")
    audio_TC, rate = soundfile.read(io.BytesIO(base64.b64decode(source)), always_2d=True)
    assert rate == 8_000
    assert len(audio_TC) == 4_000
    loudest = np.abs(np.fft.rfft(audio_TC[:, 0])).argmax() * 8_000 / len(audio_TC)
    assert loudest == pytest.approx(440, abs=3)
    assert np.sqrt(np.mean(audio_TC**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.05)


def test_sounds_that_are_too_many_bytes_are_cut_and_it_is_said(records: ModuleType) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (16_000, 2)).astype(np.float32)
    sounds = tuple(Sound(label=str(number), audio_TC=noise, sample_rate=16_000) for number in range(4))
    facts = ReportFacts(
        title="long", kind="run", overview=(), excerpts=(SoundGroup(title="all", sounds=sounds),)
    )
    whole = make_page(facts)
    assert whole.notes == ()
    most = whole.audio_bytes // 3
    page = make_page(facts, most_audio_bytes=most)
    assert most / 2 < page.audio_bytes <= most
    assert len(page.html) < len(whole.html)
    assert page.notes[0].startswith("The rest of 4 sounds, cut so that all of them fit into")
    assert page.notes[0] in page.html
    assert "first " in page.html


def test_more_sounds_than_a_page_has_room_for_are_left_out(records: ModuleType) -> None:
    sounds = tuple(records.tone(str(number), seconds=0.05) for number in range(5))
    facts = ReportFacts(
        title="many", kind="run", overview=(), generated=(SoundGroup(title="all", sounds=sounds),)
    )
    bounded = make_page(facts, most_sounds=2)
    assert bounded.sounds == 2
    assert bounded.notes == ("3 more sounds: a page has at most 2.",)


def test_in_a_hurry_half_of_the_sounds_are_the_finished_model_s(records: ModuleType) -> None:
    sounds = tuple(records.tone(str(number), seconds=0.05) for number in range(5))
    groups = [SoundGroup(title=title, sounds=sounds) for title in ("excerpt", "epoch 1", "finished")]
    facts = ReportFacts(
        title="late", kind="run", overview=(), excerpts=(groups[0],), generated=(groups[1], groups[2])
    )
    page = make_page(facts, time_for=4)
    assert (page.sounds, page.late) == (4, 11)
    assert page.notes == ("11 more sounds, for lack of time: `distill-ray report` shows all of them.",)
    assert "epoch 1" not in page.html
    assert make_page(facts, time_for=99).late == 0


def test_a_page_with_nothing_but_a_title_is_a_page(records: ModuleType) -> None:
    document = records.Document.of(make_page(ReportFacts(title="empty", kind="A model", overview=())).html)
    assert document.all("section") == []
    assert json.loads(document.all("script")[0].text)["title"] == "empty"


def test_the_same_facts_give_the_same_page(records: ModuleType, page: Page) -> None:
    assert make_page(records.full_facts()).html == page.html

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from distill_ray.report.plots import Plots, Points, Series
from distill_ray.report.svg import for_page

DRAWING = """<?xml version="1.0"?>
<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"
 width="10pt" height="5pt" viewBox="0 0 10 5">
<metadata><a/></metadata>
<defs><style type="text/css">*{stroke-linejoin: round}</style><clipPath id="c"><rect/></clipPath></defs>
<g id="a" clip-path="url(#c)">
<use xlink:href="#m" style="stroke: #0A0B01; stroke-width: 0.8; unknown: 1"/></g>
<text style="font: 10.5px 'DejaVu Sans'; text-anchor: middle; fill: #123456">x &lt; y</text>
</svg>"""


def test_styles_become_attributes_and_placeholders_the_pages_colours() -> None:
    made = for_page(DRAWING, prefix="p1-", colours={"#0a0b01": "var(--ink)"}, alternative='a "b" <c>')
    assert "style" not in made
    assert "metadata" not in made
    assert 'stroke="var(--ink)" stroke-width="0.8"' in made
    assert "unknown" not in made
    assert 'font-size="10.5" text-anchor="middle"' in made or (
        'text-anchor="middle"' in made and 'font-size="10.5"' in made
    )
    assert 'fill="#123456"' in made
    assert "x &lt; y" in made
    assert 'aria-label="a &quot;b&quot; &lt;c&gt;"' in made
    assert 'width="10pt"' not in made
    assert made.startswith("<svg ")


def test_ids_and_what_refers_to_them_get_the_prefix() -> None:
    made = for_page(DRAWING, prefix="p1-", colours={}, alternative="")
    assert 'id="p1-a"' in made
    assert 'clip-path="url(#p1-c)"' in made
    assert 'xlink:href="#p1-m"' in made


def test_charts_have_no_colour_that_one_of_the_schemes_would_hide() -> None:
    plots = Plots()
    lines = plots.lines(
        [Series(label=str(number), x=[1, 2, 3], y=[1.0, 10.0, 5.0]) for number in range(8)],
        x_label="step",
        y_label="loss",
        alternative="",
        logarithmic=True,
        levels={"floor": 2.0},
        mark=(2, 10.0, "best"),
    )
    scatter = plots.scatter(
        [Points(label="$x$ <b>", x=[1.0], y=[2.0], names=["$a_b$ <i>"], faint=True)],
        x_label="kbps",
        y_label="loss",
        alternative="",
    )
    for made in (lines, scatter):
        assert "#0a0" not in made  # no placeholder is left
        assert "#000000" not in made
        assert "#ffffff" not in made
        assert "var(--ink-2)" in made
    assert "$a_b$ &lt;i&gt;" in scatter  # neither mathematics nor markup


def test_one_epoch_is_a_point() -> None:
    made = Plots().lines(
        [Series(label="loss", x=[1], y=[2.0])], x_label="step", y_label="loss", alternative=""
    )
    assert "<use " in made  # a marker; a line of one point would be nothing


def test_a_spectrogram_keeps_its_picture_in_a_third_of_the_bytes() -> None:
    random = np.random.default_rng(0)
    levels_FS = (-70.0 * random.random((112, 300))).astype(np.float32)
    levels_FS[50:60, 100:200] = 0.0
    made = Plots().spectrogram(levels_FS, seconds=3.0, sample_rate=8_000, top_db=0.0, alternative="")
    assert len(made) < 45_000
    content = base64.b64decode(made.partition("data:image/png;base64,")[2].partition('"')[0])
    picture = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), float).mean(axis=2)
    assert picture.shape == (112, 300)
    assert 'transform="matrix(1.05456 0 0 -0.9405' in made  # the first row, of low frequencies, is below
    assert picture[50:60, 100:200].min() > 190
    assert picture[:40].mean() < 150

"""matplotlib's SVG for a page with a strict Content-Security-Policy and two colour schemes.

Inline styles, which the policy forbids, become attributes; placeholder colours become the page's CSS
variables; fonts are the page's; ids get a prefix, so that several drawings can share the page. Pictures
get a palette, which makes them a third as large.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping
from xml.etree import ElementTree

from PIL import Image

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
# What a style may hold that is an attribute too; fonts come from the page.
_ATTRIBUTES = frozenset(
    {
        "clip-path",
        "fill",
        "fill-opacity",
        "fill-rule",
        "opacity",
        "stroke",
        "stroke-dasharray",
        "stroke-dashoffset",
        "stroke-linecap",
        "stroke-linejoin",
        "stroke-miterlimit",
        "stroke-opacity",
        "stroke-width",
        "text-anchor",
    }
)
_PNG = "data:image/png;base64,"
_COLOURS = 64
_SIZE = re.compile(r"(?:^|\s)(\d+(?:\.\d+)?)px")


def for_page(text: str, *, prefix: str, colours: Mapping[str, str], alternative: str) -> str:
    """The `<svg>` element of matplotlib's document `text`.

    colours: CSS colours by the lower-case hex colour that stands for them. alternative: what a screen
    reader says of it. Attributes and text stay escaped as XML has them.
    """
    root = ElementTree.fromstring(text)  # noqa: S314 - matplotlib wrote it in this process
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        _restyle(element, colours)
        _rename(element, prefix)
    for name in ("width", "height"):
        root.attrib.pop(name, None)
    root.set("stroke-linejoin", "round")  # matplotlib says so in the style sheet that is gone
    root.set("role", "img")
    root.set("aria-label", alternative)
    root.set("focusable", "false")
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    return ElementTree.tostring(root, encoding="unicode")


def _restyle(element: ElementTree.Element, colours: Mapping[str, str]) -> None:
    for declaration in element.attrib.pop("style", "").split(";"):
        name, _, value = (part.strip() for part in declaration.partition(":"))
        if name in _ATTRIBUTES:
            element.set(name, value)
        elif name in ("font", "font-size") and (size := _SIZE.search(value)):
            element.set("font-size", size[1])
    for name in ("fill", "stroke"):
        colour = element.get(name, "").lower()
        if colour in colours:
            element.set(name, colours[colour])


def _rename(element: ElementTree.Element, prefix: str) -> None:
    for name, value in element.attrib.items():
        if name == "id":
            element.set(name, prefix + value)
        elif name == f"{{{_XLINK}}}href" and value.startswith("#"):
            element.set(name, f"#{prefix}{value[1:]}")
        elif name == f"{{{_XLINK}}}href" and value.startswith(_PNG):
            element.set(name, _PNG + _with_palette(value.removeprefix(_PNG)))
        elif value.startswith("url(#"):
            element.set(name, f"url(#{prefix}{value[5:]}")


def _with_palette(content: str) -> str:
    """The same PNG picture, as base64, with at most `_COLOURS` colours."""
    picture = Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB").quantize(_COLOURS)
    made = io.BytesIO()
    picture.save(made, "PNG", optimize=True)
    return base64.b64encode(made.getvalue()).decode()

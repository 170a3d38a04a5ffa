"""Make a part of a page out of matplotlib's SVG."""

import re
from collections.abc import Mapping
from html import escape

_ONLY_IN_A_FILE = re.compile(r"<metadata>.*?</metadata>|<style.*?</style>", re.DOTALL)
_OPENING = re.compile(r"<svg .*?(viewBox=\"[^\"]*\").*?>", re.DOTALL)
_COLOUR = re.compile(r"#[0-9a-f]{6}")
# Which of the two depends on matplotlib's version.
_FAMILY = re.compile(r" font-family: [^;\"]*;")
_SHORTHAND = re.compile(r" font: (\d+px) [^;\"]*")
_REFERENCE = re.compile(r'(href="#|url\(#)([^")]+)')
_ID = re.compile(r' id="([^"]+)"')


def embed(svg: str, name: str, title: str, description: str, css_of: Mapping[str, str]) -> str:
    """Return the element alone: its ids begin with name, colours and font are the page's."""
    svg = _ONLY_IN_A_FILE.sub("", svg[svg.index("<svg") :])
    svg = _rename_ids(svg.replace("xlink:href=", "href="), name)
    svg = _SHORTHAND.sub(r" font-size: \1", _FAMILY.sub("", svg))
    svg = _COLOUR.sub(lambda found: css_of.get(found[0], found[0]), svg)
    opening = f"""<svg role="img" aria-labelledby="{name}-title {name}-description" """
    described = f"""
<title id="{name}-title">{escape(title)}</title>
<desc id="{name}-description">{escape(description)}</desc>"""
    return _OPENING.sub(lambda found: f"{opening}{found[1]}>{described}", svg, count=1)


def _rename_ids(svg: str, name: str) -> str:
    """Keep the ids that something refers to, made unique by the name."""
    used = {found[2] for found in _REFERENCE.finditer(svg)}
    svg = _ID.sub(lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", svg)
    return _REFERENCE.sub(rf"\g<1>{name}-\g<2>", svg)

"""Fonts that come with Probe: an exported SVG brings the one that it names, and looks the same on any machine.

Arimo, Tinos and Cousine are, letter by letter, as wide as Arial, Times New Roman and Courier New, so a program that
ignores the font inside an SVG finds room for all text with those. The files in `typefaces/` hold Latin, Greek,
punctuation, arrows and signs of mathematics (about 500 characters, 18 kB); any other character is drawn with a font of
the reader's. They were made from Debian's package fonts-croscore by `python -m fontTools.subset FONT-Regular.ttf
--flavor=woff2 --no-hinting --layout-features=kern,mark,mkmk,ccmp --unicodes=20-7E,A0-17F,370-3FF,2010-2026,2030,2032,
2033,20AC,2122,2190-2195,2200-2265`.
"""

import base64
from functools import lru_cache
from pathlib import Path

OWN = {"sans": "Arimo", "serif": "Tinos", "mono": "Cousine"}
"""The font of each family of `probe.plotting.paper.FAMILIES`."""
FOLDER = Path(__file__).with_name("typefaces")


@lru_cache
def font_face(name: str) -> str:
    """Return the CSS rule that embeds a font."""
    content = base64.b64encode((FOLDER / f"{name}.woff2").read_bytes()).decode()
    return f'@font-face {{ font-family: {name}; src: url("data:font/woff2;base64,{content}") format("woff2"); }}'


def embed_fonts(svg: bytes) -> bytes:
    """Embed in an SVG those of our fonts that it names."""
    named = [name for name in OWN.values() if f"font-family: {name}".encode() in svg]
    if not named:
        return svg
    exact = "text { text-rendering: geometricPrecision; }"  # letters as wide as they are, not as a screen rounds them
    style = f"<style>{' '.join(map(font_face, named))} {exact}</style>"
    end = svg.index(b">", svg.index(b"<svg")) + 1
    return svg[:end] + style.encode() + svg[end:]

"""Fonts that Probe ships: an exported SVG embeds the font it names and looks the same on every machine.

Every letter of Arimo, Tinos and Cousine is as wide as in Arial, Times New Roman and Courier New, so the text also fits
in a program that ignores embedded fonts and uses those. The files in `typefaces/` contain Latin, Greek, punctuation,
arrows and mathematical signs (about 500 characters, 18 kB); any other character is drawn with a font of the reader's
machine. They were made from Debian's package fonts-croscore by `python -m fontTools.subset FONT-Regular.ttf
--flavor=woff2 --no-hinting --layout-features=kern,mark,mkmk,ccmp --unicodes=20-7E,A0-17F,370-3FF,2010-2026,2030,2032,
2033,20AC,2122,2190-2195,2200-2265`.
"""

import base64
from functools import lru_cache
from pathlib import Path

OWN = {"sans": "Arimo", "serif": "Tinos", "mono": "Cousine"}
"""Shipped font of each family of `probe.plotting.paper.FAMILIES`."""
FOLDER = Path(__file__).with_name("typefaces")


@lru_cache
def font_face(name: str) -> str:
    """Return the CSS rule that embeds a font."""
    content = base64.b64encode((FOLDER / f"{name}.woff2").read_bytes()).decode()
    return f'@font-face {{ font-family: {name}; src: url("data:font/woff2;base64,{content}") format("woff2"); }}'


def embed_fonts(svg: bytes) -> bytes:
    """Embed the shipped fonts that an SVG names."""
    named = [name for name in OWN.values() if f"font-family: {name}".encode() in svg]
    if not named:
        return svg
    exact = "text { text-rendering: geometricPrecision; }"  # exact letter widths, not rounded to pixels
    style = f"<style>{' '.join(map(font_face, named))} {exact}</style>"
    end = svg.index(b">", svg.index(b"<svg")) + 1
    return svg[:end] + style.encode() + svg[end:]

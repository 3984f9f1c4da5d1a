"""The theme: text from data stays text, colours can be told apart, light and dark differ where they must."""

import itertools
import re
from collections import Counter
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest

from probe.plotting import export as render
from probe.plotting import theme

HOSTILE = "<img src=x onerror=alert(1)> <b>&amp;</b> $x$ %{y} a\nb"

# Machado, Oliveira and Fernandes 2009, severity 1.0, on linear RGB.
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
}


def lab(colour: str, blindness: str = "none") -> np.ndarray:
    """CIELAB of a hex colour as somebody with a colour blindness sees it."""
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(BLINDNESS[blindness]) @ linear, 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ seen
    f = np.cbrt(xyz / np.array([0.9505, 1.0, 1.089]))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """CIEDE2000 of two colours in CIELAB (Sharma, Wu and Dalal 2005); about 2 is seen side by side, 5 apart."""
    chroma = np.mean([np.hypot(*each[1:]) for each in (one, other)])
    stretch = 1.5 - 0.5 * np.sqrt(chroma**7 / (chroma**7 + 25.0**7))
    (light, c, h), (light2, c2, h2) = (
        (each[0], np.hypot(stretch * each[1], each[2]), np.arctan2(each[2], stretch * each[1])) for each in (one, other)
    )
    turn = (h2 - h + np.pi) % (2 * np.pi) - np.pi if c * c2 else 0.0
    l_mean, c_mean, h_mean = (light + light2) / 2, (c + c2) / 2, h + turn / 2 if c * c2 else h + h2
    t = 1 - 0.17 * np.cos(h_mean - np.pi / 6) + 0.24 * np.cos(2 * h_mean)
    t += 0.32 * np.cos(3 * h_mean + np.pi / 30) - 0.2 * np.cos(4 * h_mean - np.radians(63))
    far = np.degrees(h_mean) % 360
    rotation = 2 * np.sqrt(c_mean**7 / (c_mean**7 + 25.0**7)) * np.sin(np.pi / 3 * np.exp(-(((far - 275) / 25) ** 2)))
    dl = (light2 - light) / (1 + 0.015 * (l_mean - 50) ** 2 / np.sqrt(20 + (l_mean - 50) ** 2))
    dc = (c2 - c) / (1 + 0.045 * c_mean)
    dh = 2 * np.sqrt(c * c2) * np.sin(turn / 2) / (1 + 0.015 * c_mean * t)
    return float(np.sqrt(dl**2 + dc**2 + dh**2 - rotation * dc * dh))


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((50, -1, 2), (50, 0, 0), 2.3669),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((22.7233, 20.0904, -46.694), (23.0331, 14.973, -42.5619), 2.0373),
        ((90.8027, -2.0831, 1.441), (91.1528, -1.6435, 0.0447), 1.4441),
    ],
)
def test_the_difference_of_colours_is_that_of_the_paper(one: tuple, other: tuple, expected: float):
    assert difference(np.array(one), np.array(other)) == pytest.approx(expected, abs=1e-4)


def nearest(colours: dict[str, str], blindness: str) -> tuple[float, tuple[str, str]]:
    """The two that are hardest to tell apart, and how far apart they are."""
    seen = {name: lab(colour, blindness) for name, colour in colours.items()}
    return min((difference(seen[a], seen[b]), (a, b)) for a, b in itertools.combinations(seen, 2))


@pytest.mark.parametrize(("blindness", "least"), [("none", 18), ("protanopia", 7), ("deuteranopia", 8)])
def test_methods_can_be_told_apart(blindness: str, least: float):
    far, pair = nearest(theme.METHODS, blindness)
    assert far > least, pair


@pytest.mark.parametrize(("blindness", "least"), [("none", 12), ("protanopia", 7), ("deuteranopia", 7)])
def test_two_runs_of_each_method_can_be_told_apart(blindness: str, least: float):
    """Of eighteen colours: those of the colour-blind lie on a plane, on which there is room for little more."""
    assert set(theme.SECOND) == set(theme.METHODS.values())
    second = {f"{method}, second run": theme.SECOND[colour] for method, colour in theme.METHODS.items()}
    far, pair = nearest(theme.METHODS | second, blindness)
    assert far > least, pair


@pytest.mark.parametrize("blindness", BLINDNESS)
@pytest.mark.parametrize("page", [theme.LIGHT, theme.DARK], ids=lambda page: page.name)
def test_steps_and_ends_of_scales_can_be_told_apart(page: theme.Theme, blindness: str):
    for colours in (page.sequential, page.diverging, page.lines):
        far, pair = nearest({f"{place}": colour for place, colour in enumerate(colours)}, blindness)
        assert far > 7, pair
    low, high = ([lab(colour, blindness) for colour in part] for part in (page.diverging[:3], page.diverging[:3:-1]))
    assert min(map(difference, low, high)) > 30, "a value and its negative"
    assert difference(lab(theme.METHODS["rlhf"], blindness), lab(theme.METHODS["dpo"], blindness)) > 30, "chips"


@pytest.mark.parametrize("page", [theme.LIGHT, theme.DARK], ids=lambda page: page.name)
def test_lines_and_text_stand_out_from_the_page(page: theme.Theme):
    paper = lab(page.paper)[0]
    colours = [*theme.METHODS.values(), *theme.SECOND.values(), *page.lines]
    assert all(abs(lab(colour)[0] - paper) > 28 for colour in colours)
    assert abs(lab(page.ink)[0] - paper) > 70
    assert abs(lab(page.muted)[0] - paper) > 45


@pytest.mark.parametrize("page", [theme.LIGHT, theme.DARK], ids=lambda page: page.name)
def test_scales_are_ordered_by_lightness(page: theme.Theme):
    for colours in (page.sequential, page.lines):
        steps = np.diff([lab(colour)[0] for colour in colours])
        assert (steps < 0).all() or (steps > 0).all()
    low, high = ([lab(colour)[0] for colour in page.diverging[part]] for part in (slice(0, 4), slice(3, 7)))
    assert np.all(np.diff(low) * np.sign(low[-1] - low[0]) > 0)
    assert np.all(np.diff(high) * np.sign(high[-1] - high[0]) > 0)


def test_answers_stand_out_and_can_be_told_apart():
    for page in (theme.LIGHT, theme.DARK):
        assert all(difference(lab(colour), lab(page.paper)) > 25 for colour in theme.ANSWERS)
    pairs = itertools.combinations(theme.ANSWERS, 2)
    assert min(difference(lab(one), lab(other)) for one, other in pairs) > 10


def test_escape_leaves_no_markup():
    shown = theme.escape(HOSTILE)
    assert not {"<", ">", "\n", "$"} & set(shown)
    assert "%{" not in shown
    assert "&amp;amp;" in shown


def test_equal_tokens_keep_ticks_of_their_own():
    axis = theme.token_axis(["a", "b", "a", "<b>"])
    assert axis["tickvals"] == [0, 1, 2, 3]
    assert axis["ticktext"] == ["a", "b", "a", "&lt;b&gt;"]


def test_shorten_keeps_short_text_and_marks_a_cut():
    assert theme.shorten("abc", 3) == "abc"
    assert theme.shorten("abcd", 3) == "ab\u2026"


@pytest.mark.parametrize("page", [theme.LIGHT, theme.DARK], ids=lambda page: page.name)
def test_marks_without_a_colour_are_seen(page: theme.Theme):
    """Of a drawn figure: error bars of bars and points, a line, a rectangle, an arrow, the ticks of a colour bar."""
    if render.missing():
        pytest.skip("Chromium is not installed.")
    figure = theme.new_figure(coloraxis=theme.colour_axis("w", low=0, high=1))
    figure.add_bar(x=[1, 2], y=[1, 2], error_y={"array": [0.5, 0.5]}, marker_color="#B8860B")
    figure.add_scatter(x=[1, 2], y=[1, 2], error_y={"array": [0.5, 0.5]}, mode="markers", marker_color="#3F78C6")
    figure.add_heatmap(x=[3, 4], y=[1, 2], z=[[0, 1], [1, 0]], coloraxis="coloraxis")
    figure.add_hline(y=1.5).add_shape(type="rect", x0=1, x1=2, y0=0, y1=1)
    figure.add_annotation(x=2, y=2, text="a", showarrow=True)
    drawn = render.renderer.image(theme.apply(figure, page).to_plotly_json(), "svg", 900, 520, 1).decode()
    assert drawn.count('class="yerror"') == 4
    shown = [each for each in re.findall(r"<[^>]+>", drawn) if not re.search(r"stroke-(width|opacity): 0(px)?;", each)]
    strokes = re.findall(r"stroke: rgb\((\d+), (\d+), (\d+)\)", "".join(shown))
    colours = Counter("#{:02X}{:02X}{:02X}".format(*map(int, stroke)) for stroke in strokes)
    far = {colour: abs(lab(colour)[0] - lab(page.paper)[0]) for colour in colours if colour != page.grid}
    assert min(far.values()) > 40, far
    assert colours["#3F78C6"] == colours[page.ink] == 2


def test_apply_swaps_template_and_scales_and_leaves_the_original():
    figure = theme.new_figure(
        coloraxis=theme.colour_axis("w", low=0, high=1),
        coloraxis2=theme.colour_axis("d", low=-1, high=1, kind="diverging"),
        coloraxis3=theme.colour_axis("l", low=0, high=1, kind="lines"),
    )
    dark = theme.apply(figure, theme.DARK)
    assert dark.layout.template.layout.paper_bgcolor == theme.DARK.paper
    assert [colour for _, colour in dark.layout.coloraxis.colorscale] == list(theme.DARK.sequential)
    assert [colour for _, colour in dark.layout.coloraxis2.colorscale] == list(theme.DARK.diverging)
    assert [colour for _, colour in dark.layout.coloraxis3.colorscale] == list(theme.DARK.lines)
    assert figure.layout.template.layout.paper_bgcolor == theme.LIGHT.paper
    assert theme.apply(dark, theme.LIGHT).to_dict() == go.Figure(figure).to_dict()


def test_a_logarithmic_axis_has_powers_of_ten_or_full_numbers() -> None:
    """Without a format Plotly writes the ticks between two powers as one digit each, 20 as 2."""
    unknown = {"type": "log", "tickformat": "~g"}
    assert theme.log_axis() == theme.log_axis([0.0, float("nan")]) == theme.log_axis([2.2, 4.4]) == unknown
    assert theme.log_axis([0.5, 20.0, 0.0]) == unknown | {"dtick": "D2"}  # 0.5, 1, 2, 5, 10, 20
    assert theme.log_axis([1e-6, 1.0]) == {"type": "log", "exponentformat": "power", "dtick": 1}
    sources = [path for folder in ("probe", "dashboard") for path in Path(folder).rglob("*.py")]
    kinds = re.compile(r"""(?:type|"type"|axis_type)\s*[=:]\s*"log""")
    made = {path.as_posix() for path in sources if kinds.search(path.read_text(encoding="utf-8"))}
    assert made == {"probe/plotting/theme.py"}  # every other axis is made there

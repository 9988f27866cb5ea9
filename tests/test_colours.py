"""The colours of notebooks/glossary.md can be told apart by readers with each kind of colour blindness, on light and on dark."""

import re
from itertools import combinations

import numpy as np
import pytest

from minimistral import course
from minimistral.widgets import attention, picture, prefill, sharing, triangles, window

#: what a reader sees, in linear RGB: Machado, Oliveira and Fernandes (2009), "A physiologically-based model for simulation of
#: color vision deficiency", table of matrices, severity 1.0
EYES = {
    "all cones": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}  # fmt: skip
TO_XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]])
WHITE = TO_XYZ.sum(1)
#: distances in CIELAB (CIE 1976). Some 2.3 can just be seen, side by side
SURFACES, MARKS, LINES = 7, 20, 10
LIGHT, DARK = "#ffffff", "#111111"  # the background of a cell's output in JupyterLab's two themes
WHO_SEES_WHOM = {name: getattr(picture, name) for name in ("FUTURE", "FALLEN", "PALE", "FULL", "UNSEEN")}

each_eye = pytest.mark.parametrize("eye", EYES)


def linear(colour: str) -> np.ndarray:
    """"#rrggbb" as linear RGB, from 0 to 1 (IEC 61966-2-1)."""
    share = np.array(picture.rgb(colour)) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def lab(colour: str, eye: str) -> np.ndarray:
    """A colour in CIELAB as this eye sees it."""
    share = TO_XYZ @ (EYES[eye] @ linear(colour)).clip(0, 1) / WHITE
    x, y, z = np.where(share > (6 / 29) ** 3, np.cbrt(share), share / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def apart(a: str, b: str, eye: str) -> float:
    return float(np.linalg.norm(lab(a, eye) - lab(b, eye)))


def contrast(a: str, b: str) -> float:
    """From 1 to 21, as the Web Content Accessibility Guidelines count."""
    dark, light = sorted(TO_XYZ[1] @ linear(colour) for colour in (a, b))
    return (light + 0.05) / (dark + 0.05)


def over(colour: str, opacity: float, background: str) -> str:
    mixed = [round(opacity * a + (1 - opacity) * b) for a, b in zip(picture.rgb(colour), picture.rgb(background), strict=True)]
    return "#" + "".join(f"{part:02x}" for part in mixed)


def too_close(colours: dict[str, str], eye: str, least: float) -> list[str]:
    pairs = combinations(colours.items(), 2)
    return [f"{a} and {b}: {apart(x, y, eye):.1f}" for (a, x), (b, y) in pairs if apart(x, y, eye) < least]


@each_eye
def test_who_sees_whom(eye):
    """Future, out of the window, seen but hardly attended, attended, in the window and not seen."""
    assert too_close(WHO_SEES_WHOM, eye, SURFACES) == []


@each_eye
@pytest.mark.parametrize("under", ["white", "FALLEN"])
def test_the_hatching_stands_out(eye, under):
    """What is out of the window is never told by its shade alone."""
    ground = LIGHT if under == "white" else picture.FALLEN
    assert apart(picture.HATCH, ground, eye) >= MARKS
    assert apart(picture.HATCH, DARK, eye) >= MARKS


@each_eye
def test_key_heads_and_their_groups(eye):
    assert too_close({str(n): colour for n, colour in enumerate(picture.GROUPS)}, eye, LINES) == []


@each_eye
def test_curves_and_bars(eye):
    assert too_close({name: getattr(picture, name) for name in ("BLUE", "ORANGE", "GREEN", "GREY")}, eye, LINES) == []


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
@each_eye
def test_what_the_live_widgets_draw_on_both_themes(eye, theme):
    """The cone of chapter 04, where the future is a breath of the text's colour; and the groups of chapter 03."""
    text = DARK if theme == LIGHT else LIGHT
    shown = {"future": over(text, 0.14, theme), "hatching": picture.HATCH, "PALE": picture.PALE, "FULL": picture.FULL}
    assert too_close(shown | {"nothing": theme}, eye, SURFACES) == []
    for colour in (picture.BLUE, picture.ORANGE, *picture.GROUPS):
        assert apart(colour, theme, eye) >= MARKS
        assert contrast(colour, theme) >= 2.9


def test_the_numbers_on_key_heads_can_be_read():
    for colour in picture.GROUPS:
        assert contrast(colour, "#ffffff") >= 3


def test_every_widget_takes_these_colours():
    assert (attention.LOW, attention.HIGH) == (window.LOW, window.HIGH) == (picture.rgb(picture.PALE), picture.rgb(picture.FULL))
    assert (attention.FUTURE, attention.FALLEN) == (picture.rgb(picture.FUTURE), picture.rgb(picture.FALLEN))
    assert window.FUTURE == triangles.FUTURE == prefill.MARKS["future"][1] == picture.FUTURE
    assert prefill.UNSEEN == picture.rgb(picture.UNSEEN) and prefill.MARKS["gone"][1] == picture.UNSEEN
    assert [sharing.colour(n) for n in range(9)] == [*picture.GROUPS, picture.GROUPS[0]]
    assert f'stroke="{picture.HATCH}"' in window.SCRIPT and picture.HATCH in triangles.SCRIPT
    for r, (pale, full) in enumerate(zip(window.LOW, window.HIGH, strict=True)):
        assert f"[{pale}, {full}]" in window.SCRIPT, r


def test_the_glossary_states_them():
    told = (course.NOTEBOOKS / "glossary.md").read_text(encoding="utf-8").split("## Colours")[1].split("## Words")[0]
    names = re.findall(r"`picture\.([A-Z]+)`", told)
    assert set(names) == {*WHO_SEES_WHOM, "HATCH", "GROUPS", "ORANGE", "BLUE"}
    for name, colour in re.findall(r"`picture\.([A-Z]+)`, (#[0-9a-f]{6})", told):
        assert getattr(picture, name) == colour


def test_two_that_a_reader_cannot_tell_apart_are_found():
    """The gold and the orange that the groups once had, in protanopia: published matrices, so a published kind of mistake."""
    assert too_close({"orange": "#e07a1f", "gold": "#b08900"}, "all cones", LINES) == []
    assert too_close({"orange": "#e07a1f", "gold": "#b08900"}, "protanopia", LINES) == ["orange and gold: 2.1"]
    for eye in EYES:  # every eye sees grey as grey
        assert abs(lab("#808080", eye)[1:]).max() < 0.5 and abs(lab("#808080", eye)[0] - 53.6) < 0.1


def test_distances_are_those_of_the_textbook():
    """sRGB's red, green and blue in CIELAB under D65."""
    known = {"#ff0000": (53.24, 80.09, 67.20), "#00ff00": (87.73, -86.18, 83.18), "#0000ff": (32.30, 79.19, -107.86)}
    for colour, expected in known.items():
        assert np.allclose(lab(colour, "all cones"), expected, atol=0.03)
    assert contrast("#000000", "#ffffff") == pytest.approx(21)

"""A picture and its text twin, for readers with a kernel, without one, and for tests, which compare the text."""

import html
import io


def described(bundle: dict) -> tuple[dict, dict]:
    """A MIME bundle with a picture in it, and the metadata by which its words become the picture's alternative text."""
    return bundle, {"image/png": {"alt": bundle["text/plain"]}}


class TextFallback:
    """Mixed into a widget: where it cannot be shown, its text() is, and its png() if it has one."""

    def text(self) -> str:
        raise NotImplementedError

    def png(self) -> bytes | None:
        return None

    def _repr_mimebundle_(self, **kwargs):
        bundle = dict(super()._repr_mimebundle_(**kwargs))
        bundle["text/plain"] = self.text()
        png = self.png()
        return bundle if png is None else described(bundle | {"image/png": png})


class Picture:
    """A drawn picture (PNG bytes) with the same in words. The last line of a cell shows it."""

    def __init__(self, png: bytes, text: str):
        self.png, self.text = png, text

    def __repr__(self):
        return self.text

    def _repr_mimebundle_(self, include=None, exclude=None):
        return described({"image/png": self.png, "text/plain": self.text})


class Folded:
    """Text that stays shut until it is asked for. (JupyterLab opens a cell's hidden output whenever the cell runs.)"""

    def __init__(self, title: str, text: str):
        self.title, self.text = title, text

    def __repr__(self):
        return self.text

    def _repr_mimebundle_(self, include=None, exclude=None):
        title, text = html.escape(self.title), html.escape(self.text)
        shut = f"<details><summary style='cursor:pointer'>{title}</summary><pre style='line-height:1.35'>{text}</pre></details>"
        return {"text/html": shut, "text/plain": self.text}


def rgb(colour: str) -> tuple[int, int, int]:
    """"#fff4d6" as (255, 244, 214)."""
    return tuple(bytes.fromhex(colour[1:]))


def figure(width: float, height: float, **subplots):
    """A matplotlib figure and its axes in the course's dress, outside pyplot, so that no cell shows it by itself."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        made = Figure(figsize=(width, height), layout="constrained", facecolor="white")
        return made, made.subplots(**subplots)


def finish(made, text: str, dpi: int = 110, colours: int = 128) -> Picture:
    """Draw a figure into a Picture of so many colours: 128 look the same and take a third of the bytes, so pages stay light."""
    from matplotlib import rc_context
    from PIL import Image

    drawn, out = io.BytesIO(), io.BytesIO()
    with rc_context(STYLE):
        made.savefig(drawn, format="png", dpi=dpi)
    few = Image.open(drawn).convert("RGB").quantize(colours, dither=Image.Dither.NONE)
    few.save(out, format="png", optimize=True)
    return Picture(out.getvalue(), text)


BLUE, ORANGE, GREEN, GREY = "#2a6f97", "#e07a1f", "#3a8f5c", "#9aa1a8"
#: who sees whom, the same on all pages: notebooks/glossary.md says so, tests/test_colours.py that everybody can tell them apart.
#: What is out of the window is always hatched too, on white or on FALLEN; from PALE to FULL goes the weight of what is seen
FUTURE, FALLEN, HATCH, UNSEEN, PALE, FULL = "#e9ebee", "#c4cdd6", "#8a97a4", "#6d3a96", "#fff4d6", "#b02a08"
#: key heads, each with the query heads of its group; with more than eight they begin again
GROUPS = ("#2a6f97", "#e07a1f", "#3a8f5c", "#a23b72", "#788195", "#8c7100", "#5e60ce", "#c1554d")
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "text.parse_math": False,
}

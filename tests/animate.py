"""The moving picture at the top of the README: the ring scrubber of chapter 05, photographed frame by frame in a real browser.

    python tests/animate.py notebooks/ring.gif
"""

import io
import sys

from browser import Chromium
from PIL import Image

from minimistral.widgets.ring import RingScrubber

FIRST, LAST = 700, 2500  # ms; the frames between stay for FIRST
PAGE = "<!doctype html><body style='margin:24px;background:white;font:14px DejaVu Sans,sans-serif'>{}</body>"


def photographs(window: int = 4, chunk_size: int = 1) -> list[Image.Image]:
    """The widget as the page draws it, at each of its frames; the right arrow key moves it."""
    scrubber = RingScrubber(window=window, chunk_size=chunk_size, frame=0)
    taken = []
    with Chromium.pages() as context:
        page = context.new_page()
        page.set_viewport_size({"width": 1000, "height": 800})
        page.emulate_media(reduced_motion="reduce")
        page.set_content(PAGE.format(scrubber._repr_mimebundle_()[0]["text/html"]))
        widget = page.locator(".mm-ring[data-shown]").first
        widget.wait_for()
        slider = page.locator(".mm-ring input[type=range]").first
        slider.focus()
        for _ in scrubber.frames(window, chunk_size):
            box = widget.bounding_box()
            clip = {"x": box["x"] - 12, "y": box["y"] - 12, "width": box["width"] + 24, "height": box["height"] + 24}
            taken.append(Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB"))
            slider.press("ArrowRight")
    return taken


def write(path: str):
    """One GIF of all of them, in the same 64 colours."""
    pictures = photographs()
    width, height = pictures[0].size
    together = Image.new("RGB", (width, height * len(pictures)))
    for n, picture in enumerate(pictures):
        together.paste(picture, (0, n * height))
    palette = together.quantize(64, dither=Image.Dither.NONE)
    first, *rest = (picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures)
    durations = [FIRST] * len(rest) + [LAST]
    first.save(path, save_all=True, append_images=rest, duration=durations, loop=0, optimize=True)


if __name__ == "__main__":
    write(sys.argv[1] if len(sys.argv) > 1 else "notebooks/ring.gif")

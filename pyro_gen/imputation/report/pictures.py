"""Figures as images within a page."""

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Picture", "picture"]

SHRUNK_WIDTH = 520  # pixels: wider pictures could not be read if they were shrunk to a phone's width
PHONE_WIDTH = 336  # pixels, a phone's width less its margins


@dataclass(frozen=True)
class Picture:
    """A figure as an image within a page; on a phone small ones shrink, and large ones are moved sideways.

    Attributes:
        data: The SVG file, in base 64.
        width: In pixels.
    """

    data: str
    width: int

    @property
    def shrinks(self) -> bool:
        return self.width <= SHRUNK_WIDTH

    @property
    def frame(self) -> int:
        """The width of picture and caption, in pixels."""
        return max(self.width, PHONE_WIDTH)


def picture(figure: "Figure") -> Picture:
    """Draws a figure into an image: the same figure gives the same image."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    # Text stays text, so that the page is small; no date, so that the same draws give the same file.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "pyro-gen"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return Picture(base64.b64encode(buffer.getvalue()).decode("ascii"), round(96 * figure.get_figwidth()))

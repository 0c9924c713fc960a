"""The little of SVG that the pictures need, written as text: the same input gives the same bytes everywhere."""

from __future__ import annotations

from html import escape

MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
SANS = "system-ui, -apple-system, 'Segoe UI', 'Liberation Sans', Arial, sans-serif"
INK, GREY, LINE, PAPER = "#1b2430", "#5d6b7c", "#9aa7b6", "#ffffff"
# (edge, fill) of what belongs together; dark text is readable on each fill.
COLOURS = (
    ("#3a5f9e", "#e3ecf9"),
    ("#9a5b13", "#fbecd8"),
    ("#2f7a4d", "#dff3e6"),
    ("#7a4a9c", "#f0e5f8"),
    ("#a33d52", "#fae3e7"),
    ("#1f7a80", "#dcf2f3"),
    ("#6b6f1d", "#f2f3d6"),
    ("#4d5866", "#e9edf1"),
)
# What each colour becomes where a page is dark. A picture is an image, so it asks for the page's scheme by itself.
DARK = {
    INK: "#e4e9f0", GREY: "#9fb0c3", LINE: "#65727f", PAPER: "#16191d", "#d3dae2": "#343b44", "#dbe1e8": "#39424c",
    "#3a5f9e": "#7fa6e6", "#e3ecf9": "#1c2a42", "#9a5b13": "#dba258", "#fbecd8": "#3a2a14",
    "#2f7a4d": "#6cc28d", "#dff3e6": "#173321", "#7a4a9c": "#c096df", "#f0e5f8": "#30203d",
    "#a33d52": "#e58a9b", "#fae3e7": "#40202a", "#1f7a80": "#63c3c9", "#dcf2f3": "#14363a",
    "#6b6f1d": "#c3c768", "#f2f3d6": "#33351a", "#4d5866": "#a3afbd", "#e9edf1": "#2a3038",
}  # fmt: skip


def mono_width(text: str, size: float) -> float:
    """Return a width that the text fits in: every common monospaced face advances by about 0.6 of its size."""
    return len(text) * size * 0.61


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


class Canvas:
    """A picture on a sheet of its own, light or dark as the page that shows it."""

    def __init__(self, width: float, height: float, title: str) -> None:
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_number(width)} {_number(height)}" '
            f'width="{_number(width)}" height="{_number(height)}" role="img">',
            f"<title>{escape(title)}</title>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
            f'orient="auto"><path d="M0 0 8 4 0 8z" fill="{INK}"/></marker></defs>',
        ]
        self.box(0.5, 0.5, width - 1, height - 1, fill=PAPER, edge="#d3dae2", radius=8)

    def box(
        self, x: float, y: float, width: float, height: float, *, fill: str, edge: str = "none", radius: float = 4
    ) -> None:
        at = f'x="{_number(x)}" y="{_number(y)}" width="{_number(width)}" height="{_number(height)}"'
        self._parts.append(f'<rect {at} rx="{_number(radius)}" fill="{fill}" stroke="{edge}"/>')

    def path(self, d: str, *, edge: str = LINE, width: float = 1.2, tip: bool = False, dashed: bool = False) -> None:
        more = ' marker-end="url(#tip)"' if tip else ""
        more += ' stroke-dasharray="2 4"' if dashed else ""
        self._parts.append(f'<path d="{d}" fill="none" stroke="{edge}" stroke-width="{_number(width)}"{more}/>')

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = 13,
        mono: bool = False,
        bold: bool = False,
        fill: str = INK,
        anchor: str = "start",
        halo: bool = False,
    ) -> None:
        more = ' font-weight="600"' if bold else ""
        more += f' stroke="{PAPER}" stroke-width="6" paint-order="stroke" stroke-linejoin="round"' if halo else ""
        self._parts.append(
            f'<text x="{_number(x)}" y="{_number(y)}" font-family="{MONO if mono else SANS}" '
            f'font-size="{_number(size)}" fill="{fill}" text-anchor="{anchor}"{more}>{escape(text)}</text>'
        )

    def svg(self) -> str:
        drawn = "\n".join(self._parts[1:])
        used = [colour for colour in DARK if f'"{colour}"' in drawn]
        rules = (f'[{kind}="{colour}"]{{{kind}:{DARK[colour]}}}' for colour in used for kind in ("fill", "stroke"))
        style = f"<style>@media (prefers-color-scheme: dark){{{''.join(rules)}}}</style>"
        return "\n".join([self._parts[0], style, drawn, "</svg>", ""])

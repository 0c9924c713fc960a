"""`audit graph`: an SVG of who talked to whom, and when. It has no script, and shows its own colours, light or dark."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from html import escape
from typing import Final

from agentmesh.cli.pictures.traffic import Pair, Traffic, short
from agentmesh.cli.text import amount, moment

AGENTS_MAX: Final = 24
PAIRS_MAX: Final = 60
LANES_MAX: Final = 20
BINS: Final = 120
_LABELS_MAX: Final = 16
_WIDTH: Final = 1000
_RING: Final = 460
_ROW: Final = 28
_LANES_X: Final = 210
_LANES_WIDTH: Final = 600
STYLE: Final = (
    "svg{--ink:#1b2430;--soft:#5b6776;--line:#d4dae2;--paper:#fff;--fine:#1f6f8b;--refused:#c0392b;--node:#e8f1f5;"
    "font:13px system-ui,'Segoe UI',sans-serif}"
    "@media(prefers-color-scheme:dark){svg{--ink:#e6ebf1;--soft:#9aa7b5;--line:#33404e;--paper:#12181f;--fine:#5cb3d1;"
    "--refused:#ff7b6b;--node:#1d2a35}}"
)
FIGURE_STYLE: Final = (
    ".paper{fill:var(--paper)}.t{fill:var(--ink)}.s{fill:var(--soft)}.h{font-weight:600;font-size:15px}"
    ".n{fill:var(--node);stroke:var(--fine);stroke-width:1.5}.e{fill:none;stroke:var(--fine);stroke-opacity:.65}"
    ".a{fill:var(--fine)}.r{fill:none;stroke:var(--refused);stroke-dasharray:6 4}.ra{fill:var(--refused)}"
    ".b{fill:var(--fine)}.rb{fill:var(--refused)}.l{stroke:var(--line)}.halo{paint-order:stroke;stroke:var(--paper);"
    "stroke-width:4px;stroke-linejoin:round}"
)
_Point = tuple[float, float]


def graph(traffic: Traffic) -> str:
    """Return the whole file."""
    lines, height = figure(traffic)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        'role="img" aria-labelledby="title desc">'
    )
    return "\n".join((head, f"<style>{STYLE}{FIGURE_STYLE}</style>", *lines, "</svg>", ""))


def figure(traffic: Traffic) -> tuple[list[str], int]:
    """Return what stands in the SVG, and its height: for a page too, which brings `FIGURE_STYLE` itself."""
    shown = _shown(traffic)
    ring = _RING if len(shown) > 3 else 220
    lanes = traffic.busiest(LANES_MAX)
    height = 70 + ring + (60 + _ROW * len(lanes) if lanes else 40) + 40
    first, last = traffic.span_ms
    said = (
        f"{amount(traffic.records, 'records')}; {amount(traffic.envelopes, 'envelopes')} between "
        f"{amount(len([did for did in traffic.agents if did]), 'agents')}, {traffic.refused:,} refused"
    )
    lines = [
        '<title id="title">Who talked to whom</title>',
        f'<desc id="desc">{escape(said)}, from {moment(first)} to {moment(last)}.</desc>',
        f'<rect class="paper" width="{_WIDTH}" height="{height}"/>',
        _text(24, 34, "Who talked to whom", "t h"),
        _text(24, 54, said, "s"),
    ]
    if traffic.records:
        lines.append(_text(_WIDTH - 24, 34, f"{moment(first)} to {moment(last)}", "s", anchor="end"))
    lines += _network(traffic, shown, ring)
    lines += _lanes(traffic, lanes, 70 + ring)
    lines += _legend(height - 20)
    return lines, height


def _shown(traffic: Traffic) -> list[int]:
    """Return the agents that are drawn, the busiest first."""
    busy: Counter[int] = Counter()
    for (sender, recipient), pair in traffic.pairs.items():
        busy[sender] += pair.envelopes
        busy[recipient] += pair.envelopes
    return [agent for agent, _ in sorted(busy.items(), key=lambda item: (-item[1], item[0]))[:AGENTS_MAX]]


# --- the network -----------------------------------------------------------------------------------------------------


def _network(traffic: Traffic, shown: list[int], ring: int) -> Iterator[str]:
    if not shown:
        yield _text(_WIDTH / 2, 70 + ring / 2, "No envelope is recorded in this log.", "s", anchor="middle")
        return
    places = _places(shown, ring)
    drawn = [(ends, pair) for ends, pair in traffic.busiest(len(traffic.pairs)) if set(ends) <= places.keys()]
    most = max(pair.envelopes for _, pair in drawn) if drawn else 1
    labelled = len(drawn) <= _LABELS_MAX  # more would hide one another; the lanes below have the numbers
    for (sender, recipient), pair in drawn[:PAIRS_MAX]:
        if sender != recipient:
            yield from _edge(places[sender], places[recipient], pair, most, labelled=labelled)
    names = traffic.names()
    for agent in shown:
        x, y = places[agent]
        yield f'<g><title>{escape(names[agent])}</title><circle class="n" cx="{x:.1f}" cy="{y:.1f}" r="17"/>'
        if abs(x - _WIDTH / 2) > 200:  # beside it, on the outer side
            across, down, anchor = (22, 5, "start") if x > _WIDTH / 2 else (-22, 5, "end")
        else:
            across, down, anchor = 0, 34 if y >= 70 + ring / 2 else -25, "middle"
        yield _text(x + across, y + down, short(names[agent]), "t halo", anchor=anchor) + "</g>"
    left = len([did for did in traffic.agents if did]) - len(shown)
    if left > 0:
        yield _text(24, 70 + ring - 8, f"and {amount(left, 'agents')} that sent less", "s")


def _places(shown: list[int], ring: int) -> dict[int, _Point]:
    middle = (_WIDTH / 2, 70 + ring / 2)
    if len(shown) <= 2:
        return {agent: (_WIDTH / 2 + (number * 2 - 1) * 280, middle[1]) for number, agent in enumerate(shown)}
    around = len(shown) - 1  # the busiest stands in the middle
    start = math.pi if around == 2 else -math.pi / 2
    places = {shown[0]: middle}
    for number, agent in enumerate(shown[1:]):
        angle = 2 * math.pi * number / around + start
        places[agent] = (middle[0] + 385 * math.cos(angle), middle[1] + (ring / 2 - 50) * math.sin(angle))
    return places


def _edge(start: _Point, end: _Point, pair: Pair, most: int, *, labelled: bool) -> Iterator[str]:
    taken = pair.envelopes - pair.refused
    for count, bend, line, arrow, word in (
        (taken, 0.10, "e", "a", ""), (pair.refused, 0.22, "r", "ra", " refused"),
    ):  # fmt: skip
        if count:
            width = 1.2 + 4 * math.log1p(count) / math.log1p(max(most, 1))
            yield from _arrow(start, end, bend, width, line, arrow)
            if labelled:
                x, y = _along(start, end, bend, 0.5)
                yield _text(x, y + 4, f"{count:,}{word}", "ra halo" if word else "t halo", anchor="middle")


def _arrow(start: _Point, end: _Point, bend: float, width: float, line: str, arrow: str) -> Iterator[str]:
    length = math.hypot(end[0] - start[0], end[1] - start[1]) or 1.0
    margin = min(0.4, 20 / length)
    begin, tip = _along(start, end, bend, margin), _along(start, end, bend, 1 - margin)
    near = _along(start, end, bend, 1 - margin - min(0.3, 9 / length))
    middle = (2 * _along(start, end, bend, 0.5)[0] - (begin[0] + tip[0]) / 2,
              2 * _along(start, end, bend, 0.5)[1] - (begin[1] + tip[1]) / 2)  # fmt: skip
    yield (
        f'<path class="{line}" stroke-width="{width:.1f}" d="M{begin[0]:.1f} {begin[1]:.1f}Q{middle[0]:.1f} '
        f'{middle[1]:.1f} {near[0]:.1f} {near[1]:.1f}"/>'
    )
    angle = math.atan2(tip[1] - near[1], tip[0] - near[0])
    half = 4 + width / 2
    sides = [(near[0] + half * math.cos(angle + turn), near[1] + half * math.sin(angle + turn))
             for turn in (math.pi / 2, -math.pi / 2)]  # fmt: skip
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (tip, *sides))
    yield f'<polygon class="{arrow}" points="{points}"/>'


def _along(start: _Point, end: _Point, bend: float, share: float) -> _Point:
    """Return a point of the curve from one to the other, which bends to the right of its way."""
    control = ((start[0] + end[0]) / 2 - (end[1] - start[1]) * bend * 2,
               (start[1] + end[1]) / 2 + (end[0] - start[0]) * bend * 2)  # fmt: skip
    a, b, c = (1 - share) ** 2, 2 * share * (1 - share), share**2
    return a * start[0] + b * control[0] + c * end[0], a * start[1] + b * control[1] + c * end[1]


# --- when ------------------------------------------------------------------------------------------------------------


def _lanes(traffic: Traffic, lanes: list[tuple[tuple[int, int], Pair]], top: int) -> Iterator[str]:
    if not lanes:
        return
    yield _text(24, top + 16, "When", "t h")
    names, binned = traffic.names(), traffic.binned(BINS, [ends for ends, _ in lanes])
    most = max(taken + refused for ends, _ in lanes for taken, refused in zip(*binned[ends], strict=True))
    width = _LANES_WIDTH / BINS
    for number, (ends, pair) in enumerate(lanes):
        base = top + 30 + _ROW * (number + 1)
        sender, recipient = (names[end] for end in ends)
        yield f"<g><title>{escape(f'{sender} to {recipient}')}</title>"
        yield _text(24, base - 6, f"{short(sender)} to {short(recipient)}", "t")
        yield f'<line class="l" x1="{_LANES_X}" x2="{_LANES_X + _LANES_WIDTH}" y1="{base}" y2="{base}"/>'
        for place, (taken, refused) in enumerate(zip(*binned[ends], strict=True)):
            if taken or refused:
                yield from _bar(_LANES_X + place * width, base, width - 0.6, taken, refused, most)
        more = f"{pair.envelopes:,}" + (f", {pair.refused:,} refused" if pair.refused else "")
        yield _text(_WIDTH - 24, base - 6, more, "s", anchor="end") + "</g>"
    left = len(traffic.pairs) - len(lanes)
    if left > 0:
        yield _text(_LANES_X, top + 48 + _ROW * len(lanes), f"and {left:,} more ways, with less", "s")


def _bar(x: float, base: float, width: float, taken: int, refused: int, most: int) -> Iterator[str]:
    """Draw what fell into one stretch of time, refusals on top; what is there at all is seen."""
    tall = max(4.0, (_ROW - 6) * math.sqrt((taken + refused) / most))
    red = tall * refused / (taken + refused)
    red = min(max(red, 2.0), tall if not taken else tall - 2.0) if refused else 0.0
    for kind, height, top in (("b", tall - red, base - tall + red), ("rb", red, base - tall)):
        if height:
            yield f'<rect class="{kind}" x="{x:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}"/>'


def _legend(y: float) -> Iterator[str]:
    yield f'<rect class="b" x="24" y="{y - 10}" width="12" height="12"/>' + _text(42, y, "sent, opened, seen", "s")
    yield f'<rect class="rb" x="190" y="{y - 10}" width="12" height="12"/>' + _text(208, y, "refused or rejected", "s")


def _text(x: float, y: float, text: str, kind: str, *, anchor: str = "start") -> str:
    place = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}"{place}>{escape(text)}</text>'

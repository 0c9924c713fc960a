"""`audit report`: one HTML file that needs nothing else, and may load nothing else.

The script and the style stand in the page, and its policy names their hashes: so nothing else runs, whatever stands in
the data. The data are JSON in a block that is never run, of ASCII without `<`; the script puts text into the page as
text alone. The file is made in pieces, so that no page of 15 MB is held besides what it is made of.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from html import escape
from importlib.resources import files
from itertools import chain
from typing import Any, Final

from agentmesh.cli.pictures.graph import FIGURE_STYLE, figure
from agentmesh.cli.pictures.traffic import Traffic, safe
from agentmesh.cli.text import amount, moment
from agentmesh.primitives import _crypto

ROWS_MAX: Final = 200_000  # that many are listed: a browser holds them, and a page of them has 15 MB
PAIRS_MAX: Final = 200
_PIECE: Final = 4096  # rows of a column that are put into text at once
_FOLDER: Final = files("agentmesh.cli.pictures")


def report(traffic: Traffic) -> Iterator[str]:
    """Yield the file, in pieces."""
    style = f"{(_FOLDER / 'report.css').read_text('utf-8')}{FIGURE_STYLE}"
    script = (_FOLDER / "report.js").read_text("utf-8")
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; base-uri 'none'; "
        "form-action 'none'"
    )
    head = [
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        '<meta name="referrer" content="no-referrer">',
        "<title>Audit report</title>",
        f"<style>{style}</style>",
        "</head>",
        "<body>",
    ]
    for line in (*head, *_body(traffic)):
        yield f"{line}\n"
    yield '<script type="application/json" id="data">'
    yield from _data(traffic)
    yield f"</script>\n<script>{script}</script>\n</body>\n</html>\n"


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(_crypto.sha256(text.encode())).decode()}"


def _data(traffic: Traffic) -> Iterator[str]:
    """Yield the rows as columns, each text once, and numbers where they stand."""
    columns = traffic.listed.columns()
    agents = _places(columns["from"], columns["to"])  # those of the rows that are listed
    words = _places((0,), columns["event"], columns["reason"])
    names, said = traffic.names(), list(traffic.listed.words)
    head = {
        "first": traffic.first + traffic.records - len(columns["at"]),
        "agents": [names[agent] for agent in agents],
        "words": [said[word] for word in words],
    }
    yield _inert(_json(head).removesuffix("}"))
    places = {"from": agents, "to": agents, "event": words, "reason": words}
    before = ',"columns":{'
    for name, column in columns.items():
        yield f'{before}"{name}":['
        for start in range(0, len(column), _PIECE):
            some: list[Any] = list(column[start : start + _PIECE])
            if name in places:
                some = [places[name][number] for number in some]
            elif name == "receipt":
                some = [receipt.hex() for receipt in some]
            yield ("," if start else "") + _inert(_json(some))[1:-1]
        before = "],"
    yield "]}}"


def _places(*columns: Iterable[int]) -> dict[int, int]:
    """Return each number with its place among those that are there, in the order of first appearance."""
    return {number: place for place, number in enumerate(dict.fromkeys(chain(*columns)))}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))


def _inert(text: str) -> str:
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


# --- what stands there before the script runs ------------------------------------------------------------------------


def _body(traffic: Traffic) -> Iterator[str]:
    first, last = traffic.span_ms
    yield '<a class="skip" href="#records">To the records</a>'
    yield '<header><h1>Audit report</h1><p class="soft">Who wrote to whom, when and how much. No content is in it.</p>'
    yield "<dl>"
    yield _fact("records", f"{traffic.records:,}")
    yield _fact("envelopes", f"{traffic.envelopes:,}")
    yield _fact("refused", f"{traffic.refused:,}", kind="bad" if traffic.refused else "")
    yield _fact("agents", f"{len([did for did in traffic.agents if did]):,}")
    yield _fact("from", _second(first) if traffic.records else "none", kind="time")
    yield _fact("to", _second(last) if traffic.records else "none", kind="time")
    yield "</dl>"
    owner = escape(safe(traffic.owner) or "none named: a relay, or nothing of its own yet")
    yield f'<p class="soft root">owner {owner}<br>root {traffic.root}</p></header>'
    yield "<main>"
    lines, height = figure(traffic)
    yield '<section aria-label="Who talked to whom, drawn"><div class="wide">'
    yield f'<svg viewBox="0 0 1000 {height}" role="img" aria-labelledby="title desc">'
    yield from lines
    yield "</svg></div></section>"
    yield from _records(traffic)
    yield from _pairs(traffic)
    yield "</main>"


def _second(time_ms: int) -> str:
    return moment(time_ms).partition(".")[0].replace("T", " ")


def _fact(name: str, value: str, *, kind: str = "") -> str:
    return f'<div><dt>{name}</dt><dd class="{kind}">{escape(value)}</dd></div>'


def _pairs(traffic: Traffic) -> Iterator[str]:
    names = traffic.names()
    yield '<section aria-labelledby="ways"><h2 id="ways">By sender and recipient</h2>'
    yield '<div class="wide"><table id="pairs">'
    yield (
        '<thead><tr><th scope="col">from</th><th scope="col">to</th><th scope="col" class="number">envelopes</th>'
        '<th scope="col" class="number">refused</th><th scope="col" class="number">bytes</th>'
        '<th scope="col">first</th><th scope="col">last</th></tr></thead><tbody>'
    )
    for (sender, recipient), pair in traffic.busiest(PAIRS_MAX):
        yield (
            f'<tr><td class="did">{escape(names[sender])}</td><td class="did">{escape(names[recipient])}</td>'
            f'<td class="number">{pair.envelopes:,}</td><td class="number{" bad" if pair.refused else ""}">'
            f'{pair.refused:,}</td><td class="number">{pair.size_bytes:,}</td><td>{_second(pair.first_ms)}</td>'
            f"<td>{_second(pair.last_ms)}</td></tr>"
        )
    yield "</tbody></table></div>"
    left = len(traffic.pairs) - PAIRS_MAX
    if left > 0:
        yield f'<p class="soft">and {left:,} more, with less</p>'
    yield "</section>"


def _records(traffic: Traffic) -> Iterator[str]:
    most = traffic.listed.most
    left = traffic.records - most
    yield '<section aria-labelledby="records"><h2 id="records" tabindex="-1">Records</h2>'
    if left > 0:
        before = amount(left, "records")
        yield f'<p class="soft">The last {most:,} are listed; {before} before them are in the sums.</p>'
    yield "<noscript><p>The list and its filters need JavaScript, of this file alone.</p></noscript>"
    yield (
        '<form id="filters" hidden><label>event <select id="event"></select></label>'
        '<label>from or to <select id="agent"></select></label><label>outcome <select id="outcome">'
        '<option value="">all</option><option value="1">refused</option><option value="0">not refused</option></select>'
        '</label><label class="grow">search <input id="search" type="search" spellcheck="false" '
        'placeholder="DID, receipt or reason"></label><button type="reset">show all</button></form>'
    )
    yield (
        '<div id="when" hidden><svg id="timeline" viewBox="0 0 1000 120" preserveAspectRatio="none" role="img"></svg>'
        '<div class="range"><label>after <input id="after" type="range" min="0" max="120" value="0"></label>'
        '<label>before <input id="before" type="range" min="0" max="120" value="120"></label>'
        '<output id="span" for="after before"></output></div></div>'
    )
    yield '<p id="found" role="status" aria-live="polite"></p>'
    yield (
        '<div class="wide"><table id="rows" hidden><thead><tr><th scope="col" class="number">no.</th>'
        '<th scope="col">time (UTC)</th><th scope="col">event</th><th scope="col">from</th><th scope="col">to</th>'
        '<th scope="col" class="number">bytes</th><th scope="col">receipt</th><th scope="col">more</th></tr></thead>'
        "<tbody></tbody></table></div>"
    )
    yield (
        '<nav id="pages" aria-label="Pages of records" hidden><button id="begin">first</button>'
        '<button id="earlier">earlier</button><span id="page"></span><button id="later">later</button>'
        '<button id="end">last</button></nav></section>'
    )

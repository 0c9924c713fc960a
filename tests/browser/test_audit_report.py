"""The page of `audit report` in a real browser: with ten records and a hundred thousand, and with hostile text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentmesh.audit import AuditEvent, Record
from agentmesh.cli.pictures.listed import Listed
from agentmesh.cli.pictures.report import ROWS_MAX, report
from agentmesh.cli.pictures.traffic import Traffic
from agentmesh.primitives.keys import Receipt

HOSTILE = (
    "</script><script>hacked=1</script>",
    "<img src=x onerror=hacked=2>",
    "\u202egnihton\u2066",
    "]]>--><!--<svg onload=hacked=3>",
    "javascript:hacked=4",
    "\x00\x1b[2J\x9b\ud800",
    "x" * 10_000,
)


def written(path: Path, records: list[Record]) -> Path:
    traffic = Traffic(Listed(ROWS_MAX))
    for record in records:
        traffic.add(record)
    path.write_text("".join(report(traffic)), "utf-8")
    return path


def records(count: int, agents: int = 9) -> list[Record]:
    """Records of envelopes; each tenth was refused."""
    return [
        Record(
            AuditEvent.MESSAGE_REFUSED if number % 10 == 9 else AuditEvent.MESSAGE_SEALED,
            at_ms=1_767_225_600_000 + 1000 * number,
            mesh="example/test",
            sender=f"did:example:{number % agents:06}",
            recipient=f"did:example:{(number * 7 + 1) % agents:06}",
            receipt=Receipt(number.to_bytes(4, "big") * 8),
            number=number,
            size_bytes=256,
            reason="message.duplicate" if number % 10 == 9 else "",
        )
        for number in range(count)
    ]


def choose(page: Any, name: str, value: str) -> None:
    page.ask(f"(() => {{ const c = document.getElementById({name!r}); c.value = {value!r}; "
             "c.dispatchEvent(new Event('input')); })()")  # fmt: skip


def text(page: Any, name: str) -> str:
    return str(page.ask(f"document.getElementById({name!r}).textContent"))


@pytest.mark.parametrize("count", [0, 1, 10, 100_000])
def test_a_log_of_any_length_is_listed_filtered_and_turned_page_by_page(page: Any, tmp_path: Path, count: int) -> None:
    path = written(tmp_path / "report.html", records(count))
    page.open(path)
    assert text(page, "found") == f"{count:,} of {count:,} records"
    assert page.ask("document.getElementById('rows').tBodies[0].rows.length") == min(count, 100)
    choose(page, "outcome", "1")
    assert text(page, "found") == f"{count // 10:,} of {count:,} records"
    page.ask("document.querySelector('button[type=reset]').click()")
    page.ask("new Promise(done => setTimeout(done))")
    assert text(page, "found") == f"{count:,} of {count:,} records"
    page.ask("document.getElementById('end').click()")
    assert text(page, "page") == f"page {max(1, -(-count // 100)):,} of {max(1, -(-count // 100)):,}"
    if count:
        assert page.ask("[...document.getElementById('rows').tBodies[0].rows].at(-1).cells[0].textContent") == (
            f"{count - 1:,}"
        )
        choose(page, "search", (count - 1).to_bytes(4, "big").hex())
        assert text(page, "found") == f"1 of {count:,} records"
        choose(page, "search", "")
        choose(page, "after", "60")
        span_ms = 1000 * (count - 1) + 1
        kept = len([number for number in range(count) if 1000 * number * 120 // span_ms >= 60])
        assert text(page, "found") == f"{kept:,} of {count:,} records"
    assert page.requests == [path.as_uri()]
    assert page.complaints == []


def test_hostile_text_is_shown_and_does_nothing(page: Any, tmp_path: Path) -> None:
    hostile = [
        Record(AuditEvent.MESSAGE_REFUSED, at_ms=number, mesh=one, sender=one, recipient=other, reason=one)
        for number, (one, other) in enumerate(zip(HOSTILE, HOSTILE[1:] + HOSTILE[:1], strict=True))
    ]
    hostile.append(Record(AuditEvent.MESSAGE_SEALED, at_ms=2**64 - 1, mesh="m", sender="did:a:b", recipient="did:a:c"))
    path = written(tmp_path / "report.html", hostile)
    page.open(path)
    assert page.ask("typeof hacked") == "undefined"
    assert text(page, "found") == f"{len(hostile)} of {len(hostile)} records"
    assert page.ask("document.scripts.length") == 2
    assert page.ask("document.querySelectorAll('img, iframe, object, embed, link, base').length") == 0
    assert page.ask("/^[\\n\\t -~]*$/.test(document.body.innerText)")
    assert "18446744073709552000 ms" in text(page, "rows")
    assert page.requests == [path.as_uri()]
    assert page.complaints == []


def test_the_policy_lets_nothing_else_run_or_load(page: Any, tmp_path: Path) -> None:
    path = written(tmp_path / "report.html", records(10))
    page.open(path)
    page.ask("document.body.append(Object.assign(document.createElement('script'), {textContent: 'hacked = 1'}))")
    page.ask("document.body.append(Object.assign(document.createElement('img'), {src: 'http://127.0.0.1:9/x.png'}))")
    page.ask("new Promise(done => setTimeout(done))")
    assert page.ask("typeof hacked") == "undefined"
    assert len([one for one in page.complaints if "Content Security Policy" in one]) == 2


def test_it_is_used_without_a_mouse_and_says_what_it_shows(page: Any, tmp_path: Path) -> None:
    page.open(written(tmp_path / "report.html", records(1000)))
    names, seen = [], set()
    for _ in range(20):
        page.key("Tab", 9)
        name = page.ask("document.activeElement.id || document.activeElement.textContent")
        names += [name] if name not in seen else []
        seen.add(name)
    assert names[0] == "To the records"
    assert {"event", "agent", "outcome", "search", "after", "before", "later", "end"} <= seen
    page.ask("document.getElementById('later').focus()")
    page.call("Input.dispatchKeyEvent", type="keyDown", key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r")
    assert text(page, "page") == "page 2 of 10"
    unnamed = page.ask(
        "[...document.querySelectorAll('select, input, button')].filter(c => !(c.labels && c.labels.length) && "
        "!(c.tagName === 'BUTTON' && c.textContent.trim())).length"
    )
    assert unnamed == 0
    assert page.ask("document.getElementById('found').getAttribute('aria-live')") == "polite"
    assert page.ask("[...document.querySelectorAll('svg[role=img]')].every(s => s.getAttribute('aria-label') || "
                    "s.getAttribute('aria-labelledby'))")  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_in_the_dark(page: Any, tmp_path: Path, scheme: str) -> None:
    """By the contrast of WCAG 2.1, at least 4.5 to 1: of text, of what is soft, and of a refusal."""
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    page.open(written(tmp_path / "report.html", records(20)))
    contrast = """((name) => {
      const linear = (part) => (part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
      const light = (css) => {
        const [r, g, b] = css.match(/[\\d.]+/g).map((part) => linear(part / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const look = document.createElement("i");
      look.className = name;
      document.body.append(look);
      const colours = [getComputedStyle(look).color, getComputedStyle(document.body).backgroundColor];
      const [dark, bright] = colours.map(light).sort((a, b) => a - b);
      return (bright + 0.05) / (dark + 0.05);
    })"""
    for name in ("", "soft", "bad"):
        assert page.ask(f"{contrast}({name!r})") >= 4.5, name
    paper = page.ask("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") is (scheme == "light")


@pytest.mark.parametrize("width", [360, 800, 1400])
def test_it_fits_any_width(page: Any, tmp_path: Path, width: int) -> None:
    page.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
    page.open(written(tmp_path / "report.html", records(50)))
    assert page.ask("document.documentElement.scrollWidth") <= width

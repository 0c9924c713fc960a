"""The measured part of docs/benchmarks.md, between two markers; the rest of the page is written by hand."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.instructions import MAIN
from benchmarks.measure import GROUPS, HEAVY
from benchmarks.parties import PARTIES, Medians
from benchmarks.sharing import SERVER
from benchmarks.workers import MALLOC, ROOT

PAGE: Final = ROOT / "docs" / "benchmarks.md"
BEGIN: Final = "<!-- measured: written by `python -m benchmarks.run --page` -->"
END: Final = "<!-- measured: end -->"
BEGIN_STORES: Final = "<!-- stores, measured: written by `python -m benchmarks.run --stores --page` -->"
END_STORES: Final = "<!-- stores, measured: end -->"
_ABOUT_MACHINE: Final = ("machine", "Python")
_FIGURES: Final = (
    ("overhead_bytes", "bytes on the wire beyond a plaintext of 256 bytes"),
    ("exported_bytes", "an idle session exported, bytes"),
    ("exported_agent_bytes", "by how much an idle session makes an agent's export longer, bytes"),
    ("mem_session_bytes", "memory of an idle session: for ours, all that the agent keeps for it, bytes"),
    ("mem_session_bytes.accepted", "the same at the side that accepted, bytes"),
    ("mem_session_alone_bytes", "memory of the session object alone, bytes"),
    ("audit_memory", "memory of an audit record with a file sink, bytes"),
    ("long_log.opening", "opening a long log in a file, seconds"),
    ("long_log.verifying", "verifying it, seconds"),
    ("long_log.showing", "`audit show` of it, seconds"),
    ("long_log.bare", "two hashes of each of its records alone, seconds"),
    ("two_processes", "messages a second of two processes, beside those of one"),
    ("audit_hashes.most", "the most hashes of one append"),
    ("audit_hashes.mean", "hashes of an append, on average"),
)

_STORE_ROWS: Final = (
    ("store_out_100", "a message sent, in a batch of 100, microseconds"),
    ("store_in_100", "a message received, in a batch of 100"),
    ("store_out_1", "a message sent alone, forced to disk"),
    ("store_in_1", "a message received alone, forced to disk"),
)
_STORE_FIGURES: Final = (
    ("store_written.message", "bytes that a message sent alone writes"),
    ("store_opening.seconds", "opening an agent of 10,000 idle sessions, seconds"),
    ("store_opening.memory", "memory of each, bytes"),
    ("store_opening.many.seconds", "opening an agent of 100,000, seconds"),
    ("store_opening.many.memory", "memory of each, bytes"),
    ("store_opening.many.of_restored", "opening it, beside restoring its exports one by one"),
    ("store_shared.one", "one agent on PostgreSQL, messages a second"),
    ("store_shared.all", "eight, in processes of their own, together"),
    ("store_shared.of_one", "how often one agent's that is"),
    ("store_shared.waits", "how often an agent was seen waiting for a lock"),
)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _limits(result: dict[str, Any]) -> Iterator[str]:
    machine, facts, control = result["machine"], result["facts"], result["control"]
    ours = facts["ours"]
    yield "## What these numbers are worth"
    yield ""
    if result["quick"]:
        yield "**This is a quick run, which shows that everything runs. Its numbers mean little.**"
        yield ""
    yield f"- One machine: {machine['processor']}, {machine['cores']} cores, {ours['machine']}, {ours['Python']}; load"
    yield f"  averages of {machine['load before']} before the run. Another machine gives other ratios."
    yield f"- {result['rounds']} interleaved rounds. A ratio is the median of our rounds by the median of theirs;"
    yield "  beside it stands the middle half of the ratios of single rounds. Figures of bytes are taken once."
    yield "- What a round says is the median of its calls; of rows that keep audit records it is the mean, because what"
    yield "  they leave to Python's garbage collector, in few and long passes, is part of their cost."
    if result["merged"]:
        yield "- Measured in more than one run: each group of rows is whole in one of them, so no ratio is of two."
    if control:
        yield f"- Noise: the same primitives under two names gave a ratio of {control['ratio']:.2f}, its middle half"
        yield f"  {control['low']:.2f} to {control['high']:.2f}. Differences under 15 % mean nothing."
    yield "- Every worker, ours and theirs, runs with"
    yield f"  {' and '.join(f'`{name}={value}`' for name, value in MALLOC.items())}:"
    yield "  glibc otherwise gives the buffers of a large message back to the system and takes them anew each time."
    for party, versions in facts.items():
        listed = ", ".join(f"{name} {version}" for name, version in versions.items() if name not in _ABOUT_MACHINE)
        yield f"- {PARTIES[party][0]}: {listed}."
    for party, reason in result["missing"].items():
        yield f"- Missing: {PARTIES[party][0]}: {reason}."
    for key, reason in result["failed"].items():
        yield f"- Failed: {key}: {reason}."


def _targets(targets: Sequence[dict[str, Any]]) -> Iterator[str]:
    met = sum(row["met"] is True for row in targets)
    yield f"Each is a ratio, and lower is better. {met} of {len(targets)} are met."
    yield ""

    def rows() -> Iterator[Sequence[str]]:
        for number, row in enumerate(targets, start=1):
            if row["ratio"] is None:
                yield (str(number), row["says"], "-", "-", f"{row['at_most']:g}", f"missing: {row['missing']}")
                continue
            verdict = "met" if row["met"] else "**not met**" + (f": {row['note']}" if row["note"] else "")
            spread = f"{row['low']:.2f} to {row['high']:.2f}"
            yield (str(number), row["says"], f"{row['ratio']:.2f}", spread, f"{row['at_most']:g}", verdict)

    yield from _table(("", "what", "ratio", "middle half", "at most", ""), rows())


def _cells(found: Medians, parties: Sequence[str], named: Iterable[tuple[str, str]]) -> Iterator[Sequence[str]]:
    for key, says in named:
        values = [found.get(f"{party}:{key}") for party in parties]
        if any(value is not None for value in values):
            yield (says, *("" if value is None else _number(value) for value in values))


def _instructions(result: dict[str, Any]) -> Iterator[str]:
    counts, times = result["instructions"], result["medians"]
    if not counts:
        yield "They were not counted: " + result["failed"].get("instructions", "this run left them out") + "."
        return
    yield "Thousands for one message, pair or record, counted by callgrind, beside the microseconds of the clock. The"
    yield "processor that valgrind plays has no instructions for SHA-256, so that rows of many bytes count more of"
    yield "others."
    yield ""
    compiled = any(key.startswith("compiled:") for key in counts)
    parties = ("ours", *(("compiled",) if compiled else ()), "bare")

    def cell(found: Medians, key: str | None, unit: float) -> str:
        return _number(found[key] / unit) if key in found else ""

    def rows() -> Iterator[Sequence[str]]:
        for name, floor in MAIN.items():
            if f"ours:{name}" not in counts:
                continue
            keys = [floor if party == "bare" else f"{party}:{name}" for party in parties]
            counted = [cell(counts, key, 1000) for key in keys]
            ratio = f"{counts[keys[0]] / counts[floor]:.2f}" if floor in counts else ""
            clocked = [cell(times, key, 1) for key in keys]
            of_times = f"{times[keys[0]] / times[floor]:.2f}" if floor in times and keys[0] in times else ""
            yield (f"`{name}`", *counted, ratio, *clocked, of_times)

    names = ["floor" if party == "bare" else party for party in parties]
    head = ("", *(f"{name}, k" for name in names), "ours to floor", *(f"{name}, us" for name in names), "ours to floor")
    yield from _table(head, rows())


def _hubs(found: Medians) -> Iterator[str]:
    prefix = "ours:hub_curve."
    names = (key.removeprefix(prefix).partition(".")[0] for key in found if key.startswith(prefix))
    counts = sorted({int(name) for name in names if name.isdigit()})
    if not counts:
        return
    yield ""
    yield "### An agent of many sessions"
    yield ""
    kinds = ("message_us", "memory_bytes", "gc_ms", "gc_frozen_ms")

    def rows() -> Iterator[Sequence[str]]:
        for count in counts:
            cells = (found.get(f"{prefix}{count}.{kind}") for kind in kinds)
            yield (f"{count:,}", *("" if cell is None else _number(cell) for cell in cells))

    head = ("sessions", "a message, microseconds", "memory of a session, bytes", "a full garbage collection, ms",
            "the same after `gc.freeze`, ms")  # fmt: skip
    yield from _table(head, rows())


def _medians(result: dict[str, Any]) -> Iterator[str]:
    found = result["medians"]
    parties = [party for party in PARTIES if any(key.startswith(f"{party}:") for key in found)]
    titles = [PARTIES[party][0] for party in parties]
    yield "## Medians"
    yield ""
    yield "Microseconds for one message, pair or record; they serve to see what is large and what is small."
    for group, jobs in GROUPS.items():
        yield ""
        yield f"### {group.capitalize()}"
        yield ""
        yield from _table(
            ("", *titles), _cells(found, parties, ((job, f"`{job}`") for job in (*jobs, *HEAVY.get(group, ()))))
        )
    yield ""
    yield "### Bytes and counts"
    yield ""
    yield from _table(("", *titles), _cells(found, parties, _FIGURES))
    yield ""
    yield "### A log that grows"
    yield ""
    yield "Microseconds; `p99.9` is what all but one append in a thousand stay below."
    yield ""
    sizes = sorted(
        {(party, int(part)) for key in found for party, name in [key.split(":", 1)]
         for kind, part, *_ in [(*name.split("."), "")] if kind == "audit_growth" and part.isdigit()}
    )  # fmt: skip
    kinds = ("append", "p50", "p999", "longest", "proof")

    def grown() -> Iterator[Sequence[str]]:
        for party, size in sizes:
            cells = (found.get(f"{party}:audit_growth.{size}.{kind}") for kind in kinds)
            yield (PARTIES[party][0], f"{size:,}", *("" if cell is None else _number(cell) for cell in cells))

    head = ("", "records", "append, amortised", "median", "p99.9", "longest", "inclusion proof")
    yield from _table(head, grown())
    yield from _hubs(found)


def measured_part(result: dict[str, Any], plots: Sequence[str]) -> str:
    """Return the part between the markers."""
    pictures = [f"![{Path(name).stem}](benchmarks/{name})" for name in plots]
    parts: list[str] = [BEGIN, "", *_limits(result), "", "## Targets", "", *_targets(result["targets"]), ""]
    for picture in pictures:
        parts += [picture, ""]
    if result["compiled"]:
        parts += ["## Compiled build", "", *_targets(result["compiled"]), ""]
    parts += ["## Instructions", "", *_instructions(result), ""]
    return "\n".join([*parts, *_medians(result), "", END])


def stores_part(result: dict[str, Any]) -> str:
    """Return the part between the markers of stores."""
    machine, found = result["machine"], result["medians"]
    lines = [BEGIN_STORES, ""]
    if result["quick"]:
        lines += ["**A quick run, which shows that everything runs. Its numbers mean little.**", ""]
    lines += [
        f"One run, of {result['rounds']} interleaved rounds: {machine['processor']}, {machine['cores']} cores, load "
        f"averages of {machine['load before']} before it.",
        "",
        *_targets(result["stores"]),
        "",
        *_table(("", "in a store", "bare"), _cells(found, ("ours", "bare"), _STORE_ROWS)),
        "",
        *_table(("", ""), _cells(found, ("ours",), _STORE_FIGURES)),
        "",
    ]
    if "ours:store_shared.one" not in found:
        lines += [f"PostgreSQL was not measured: there was no server that `{SERVER}` named.", ""]
    return "\n".join([*lines, "![stores](benchmarks/stores.svg)", "", END_STORES])


def write_page(result: dict[str, Any], page: Path = PAGE) -> None:
    """Replace the measured parts of the page of which there is something, and draw the plots beside it."""
    from benchmarks import plots  # because matplotlib is needed for nothing else

    folder = page.parent / "benchmarks"
    text = page.read_text(encoding="utf-8")
    if result["targets"]:
        text = _replaced(page, text, BEGIN, END, measured_part(result, plots.draw(result, folder)))
    if result["stores"]:
        plots.stores(result["medians"], folder)
        text = _replaced(page, text, BEGIN_STORES, END_STORES, stores_part(result))
    page.write_text(text, encoding="utf-8")


def _replaced(page: Path, text: str, begin: str, end: str, part: str) -> str:
    before, found_begin, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise ValueError(f"{page.name} has no place for the measured part")
    return before + part + after


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description="Write the page from a JSON file.")
    parser.add_argument("json", type=Path, help="what `python -m benchmarks.run --json` wrote")
    write_page(json.loads(parser.parse_args().json.read_text(encoding="utf-8")))

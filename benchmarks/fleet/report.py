"""What a run of a fleet shows: as values for JSON, and as tables in Markdown."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import attrs

from benchmarks.fleet.audit import LogReport
from benchmarks.fleet.run import Fleet
from benchmarks.fleet.world import HOSTILE, Cause
from benchmarks.machine import facts, machine

_MIB: Final = 1 << 20
_POOLS: Final = (
    "one-time bundles published",
    "last-resort bundles published",
    "last-resort bundles rotated",
    "times a stock was low",
    "KNOCKs on a one-time bundle",
    "KNOCKs on a last-resort bundle",
)


def report_of(fleet: Fleet) -> dict[str, Any]:
    """Return everything that a run shows, as JSON has it. What is under `traffic` repeats itself with the seed."""
    world, outcome = fleet.world, fleet.outcome
    ledger = world.ledger
    busy = outcome.processor_seconds["conversations"]
    counts = {name: world.counts[name] for name in sorted(world.counts)}
    sessions, sealed = world.counts["sessions established"], world.counts["messages sealed"]
    return {
        "settings": attrs.asdict(fleet.settings),
        "machine": machine() | facts(),
        "secrets": "from the seed" if fleet.settings.seeded_secrets else "from the operating system",
        "check": {
            "ok": not ledger.faults,
            "payloads handed over": ledger.handed,
            "payloads delivered exactly once": ledger.delivered,
            "faults": dict(ledger.faults),
            "told": ledger.told,
        },
        "traffic": counts | {"payload bytes": ledger.handed_bytes},
        "seconds": outcome.seconds,
        "processor seconds": outcome.processor_seconds,
        "rates": {
            "sessions established, a second of one core": sessions / busy,
            "messages sealed and opened, a second of one core": sealed / busy,
            "payloads delivered, a second of one core": ledger.delivered / busy,
            "envelopes handed to the relay, a second of one core": world.counts["envelopes handed to the relay"] / busy,
            "share of the time inside the library": sum(world.calls.seconds.values())
            / sum(outcome.processor_seconds.values()),
        },
        "calls": {
            name: {"calls": count, "mean_us": world.calls.seconds[name] / count * 1e6}
            for name, count in sorted(world.calls.count.items())
        },
        "memory": {
            "bytes": outcome.resident,
            "bytes an agent": (outcome.resident["conversations over"] - outcome.resident["before"]) / len(fleet.agents),
        },
        "state": _spread(outcome.exported),
        "audit": _audit(fleet.settings.audit, outcome.logs, sealed),
        "pools": {name: world.counts[name] for name in _POOLS} | {"one-time bundles left": outcome.unused},
        "refusals": [
            {"cause": str(cause), "code": code, "count": count}
            for (cause, code), count in sorted(world.refused.items())
        ],
        "samples": [attrs.asdict(sample) for sample in outcome.samples],
    }


def _spread(sizes: Sequence[int]) -> dict[str, float]:
    ordered = sorted(sizes)

    def at(share: float) -> int:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    return {
        "total": sum(ordered),
        "mean": statistics.fmean(ordered),
        "least": ordered[0],
        "median": at(0.5),
        "9 of 10 below": at(0.9),
        "99 of 100 below": at(0.99),
        "most": ordered[-1],
    }


def _audit(sink: str, logs: LogReport, sealed: int) -> dict[str, Any]:
    return {
        "sink": sink,
        "logs verified": logs.logs,
        "records": logs.records,
        "bytes": logs.size_bytes,
        "bytes a record": logs.size_bytes / max(1, logs.records),
        "records a message": logs.records / max(1, sealed),
        "bytes a message": logs.size_bytes / max(1, sealed),
        "held against a checkpoint": logs.checkpoints,
        "directions compared": logs.compared,
        "envelopes recorded alike": logs.matched,
        "findings": dict(logs.findings),
        "broken": logs.broken,
    }


# --- tables ----------------------------------------------------------------------------------------------------------


def tables(report: dict[str, Any]) -> str:
    """Return the report for people."""
    settings, check = report["settings"], report["check"]
    lines = [
        f"{settings['agents']:,} agents, {settings['days']:g} days, seed {settings['seed']}; "
        f"secrets {report['secrets']}; audit log: {settings['audit']}",
        "",
        *_table("exactly once", _checks(report)),
        *_table("rates", _rates(report)),
        *_table(
            "calls", {name: f"{one['calls']:,} x {one['mean_us']:,.0f} us" for name, one in report["calls"].items()}
        ),
        *_table("memory, state and audit", _sizes(report)),
        *_table("bundles", {name: f"{count:,}" for name, count in report["pools"].items()}),
        *_table("what happened", {name: f"{count:,}" for name, count in report["traffic"].items() if count}),
        *_refusals(report["refusals"]),
        *(f"fault: {text}" for text in check["told"]),
        "Every payload arrived once, as it was sent." if check["ok"] else "THE CHECK FAILED.",
    ]
    return "\n".join(lines)


def _table(title: str, rows: dict[str, str]) -> list[str]:
    return [f"| {title} | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items()), ""]


def _checks(report: dict[str, Any]) -> dict[str, str]:
    check, audit = report["check"], report["audit"]
    rows = {
        "payloads handed over": f"{check['payloads handed over']:,}",
        "delivered once, unaltered, in their place": f"{check['payloads delivered exactly once']:,}",
        "faults": ", ".join(f"{kind}: {count:,}" for kind, count in check["faults"].items()) or "none",
    }
    if audit["logs verified"]:
        rows["audit logs verified, whole"] = f"{audit['logs verified']:,}"
        rows["of them against a checkpoint"] = f"{audit['held against a checkpoint']:,}"
        rows["directions compared, both logs"] = f"{audit['directions compared']:,}"
        rows["envelopes recorded alike"] = f"{audit['envelopes recorded alike']:,}"
    return rows


def _rates(report: dict[str, Any]) -> dict[str, str]:
    rows = {
        f"{part}, seconds": f"{seconds:,.1f} ({report['processor seconds'][part]:,.1f} of a core)"
        for part, seconds in report["seconds"].items()
    }
    for name, value in report["rates"].items():
        rows[name] = f"{value:.0%}" if name.startswith("share") else f"{value:,.0f}"
    return rows


def _sizes(report: dict[str, Any]) -> dict[str, str]:
    memory, state, audit = report["memory"], report["state"], report["audit"]
    rows = {f"resident, {name}": f"{size / _MIB:,.0f} MiB" for name, size in memory["bytes"].items()}
    rows["resident, an agent"] = f"{memory['bytes an agent']:,.0f} bytes"
    rows |= {f"exported state, {name}": f"{size:,.0f} bytes" for name, size in state.items()}
    if audit["records"]:
        rows["audit records"] = f"{audit['records']:,}"
        rows["audit bytes"] = f"{audit['bytes']:,}"
        rows["bytes a record"] = f"{audit['bytes a record']:,.0f}"
        rows["records a message, both logs and all else"] = f"{audit['records a message']:,.2f}"
        rows["bytes a message, both logs and all else"] = f"{audit['bytes a message']:,.0f}"
    return rows


def _refusals(refusals: list[dict[str, Any]]) -> list[str]:
    hostile = {str(cause) for cause in HOSTILE}
    columns: dict[str, Counter[str]] = {"honest": Counter(), "replayed": Counter(), "hostile": Counter()}
    for one in refusals:
        column = "hostile" if one["cause"] in hostile else "replayed" if one["cause"] == Cause.REPLAYED else "honest"
        columns[column][one["code"]] += one["count"]
    lines = ["| refused with | relayed, doubled, offered again | replayed | altered, misrouted |", "|---|---|---|---|"]
    for code in sorted({one["code"] for one in refusals}):
        lines.append(f"| `{code}` | " + " | ".join(f"{counted[code]:,}" for counted in columns.values()) + " |")
    return [*lines, ""]

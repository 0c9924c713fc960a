"""The plots of docs/benchmarks.md: SVG, the same bytes for the same numbers. Needs matplotlib, of the `bench` extra."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

from benchmarks.parties import PARTIES, Medians
from benchmarks.sizes import SIZES

mpl.use("svg")
mpl.rcParams.update(
    {
        "svg.hashsalt": "agentmesh",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.facecolor": "white",  # readable on dark pages too
    }
)

from matplotlib import pyplot as plt  # noqa: E402 - behind the choice of what draws
from matplotlib.figure import Figure  # noqa: E402

_LINE: Final[dict[str, Any]] = {"markersize": 4, "linewidth": 1}
_TICKS: Final = ("64 B", "256 B", "1 KiB", "16 KiB", "1 MiB")


def _save(figure: Figure, folder: Path, name: str) -> str:
    path = folder / f"{name}.svg"
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(line.rstrip() for line in lines) + "\n", encoding="utf-8")
    return path.name


def frames(found: Medians, folder: Path) -> str:
    """Draw what a message costs by its size, with audit records and without."""
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.4), sharey=True)
    kinds = (("frame", "no audit"), ("frameaudit", "audit record on both sides"))
    for axis, (kind, title) in zip(axes, kinds, strict=True):
        for party, (label, colour, marker) in PARTIES.items():
            points = [(size, found[f"{party}:{kind}_{size}"]) for size in SIZES if f"{party}:{kind}_{size}" in found]
            if points:
                axis.plot(*zip(*points, strict=True), label=label, color=colour, marker=marker, **_LINE)
        axis.set(xscale="log", yscale="log", title=f"to the wire and back, {title}", xlabel="plaintext")
        axis.set_xticks(SIZES, _TICKS)
        axis.minorticks_off()
        axis.grid(axis="y", linewidth=0.3)
    axes[0].set_ylabel("microseconds")
    axes[0].legend(frameon=False, fontsize=8)
    return _save(figure, folder, "frames")


def stores(found: Medians, folder: Path) -> str:
    """Draw how many messages an agent in a store sends in a second, by how many are one commit."""
    prefix, figure = "ours:store_batches.", plt.figure(figsize=(8.4, 3.4))
    axis = figure.add_subplot()
    spent: dict[str, dict[int, float]] = {"full": {}, "normal": {}}
    for key, value in found.items():
        count, _, mode = key.removeprefix(prefix).partition(".")
        if key.startswith(prefix) and mode:
            spent[mode][int(count)] = value
    counts = sorted(spent["full"])
    for mode, colour, label in (
        ("full", "#0b6e99", "forced to disk at each commit (FULL)"),
        ("normal", "#5a8f29", "not forced (NORMAL)"),
    ):
        axis.plot(
            counts, [1e6 / spent[mode][count] for count in counts], label=label, color=colour, marker="o", **_LINE
        )
    if prefix + "alone" in found:
        axis.axhline(1e6 / found[prefix + "alone"], color="#888888", linewidth=1, label="without a store")
    forced = [count for count in counts if spent["full"][count] > 2 * spent["normal"][count]]
    if forced:
        axis.axvspan(counts[0], forced[-1], color="#0b6e99", alpha=0.08, label="more than half is the disk's")
    axis.set(xscale="log", yscale="log", title="messages sent on SQLite", xlabel="messages in a commit")
    axis.set_xticks(counts, [str(count) for count in counts])
    axis.minorticks_off()
    axis.set_ylabel("messages a second")
    axis.grid(axis="y", linewidth=0.3)
    axis.legend(frameon=False, fontsize=8)
    return _save(figure, folder, "stores")


def _bars(axis: Any, rows: Sequence[tuple[str, str, float]]) -> None:
    for position, (label, colour, value) in enumerate(reversed(rows)):
        axis.barh(position, value, color=colour, height=0.45)
        axis.text(value, position, f" {value:,.0f}", va="center", fontsize=8)
        axis.text(0, position + 0.23, label, fontsize=8, va="bottom")
    axis.set_yticks([])
    axis.set_ylim(-0.5, len(rows) - 0.2)
    axis.set_xlim(0, max(value for *_, value in rows) * 1.15)


def establishment(found: Medians, folder: Path) -> str:
    """Draw what a session costs to set up, and a message of a ping-pong."""
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.4))
    names = {"handshake_pair": ", identities met before", "handshake_pair_cold": ", not met before"}
    for axis, keys, title in (
        (axes[0], names, "set up a pair: microseconds"),
        (axes[1], {"pingpong": ""}, "a message of a ping-pong: microseconds"),
    ):
        rows = [
            (label + (suffix if party in ("ours", "compiled", "bare") else ""), colour, found[f"{party}:{key}"])
            for party, (label, colour, _) in PARTIES.items()
            for key, suffix in keys.items()
            if f"{party}:{key}" in found
        ]
        _bars(axis, rows)
        axis.set_title(title)
    return _save(figure, folder, "establishment")


def audit(found: Medians, folder: Path) -> str:
    """Draw what an audit record costs as the log grows, and the longest pause on the way."""
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.2))
    for axis, kind, title, unit in (
        (axes[0], "append", "an append, amortised", 1.0),
        (axes[1], "longest", "the longest append on the way", 1000.0),
    ):
        for party in ("ours", "agt"):
            label, colour, marker = PARTIES[party]
            prefix = f"{party}:audit_growth."
            points = sorted(
                (int(key[len(prefix) :].partition(".")[0]), value / unit)
                for key, value in found.items()
                if key.startswith(prefix) and key.endswith(f".{kind}")
            )
            if points:
                axis.plot(*zip(*points, strict=True), label=label, color=colour, marker=marker, **_LINE)
        axis.set(xscale="log", title=title, xlabel="records in the log")
        axis.set_ylabel("microseconds" if unit == 1 else "milliseconds")
        axis.grid(axis="y", linewidth=0.3)
    axes[0].set_ylim(bottom=0)
    axes[1].set_yscale("log")
    axes[0].legend(frameon=False, fontsize=8)
    return _save(figure, folder, "audit")


def hubs(found: Medians, folder: Path) -> str:
    """Draw what a message costs an agent by how many sessions it has, and how long a garbage collection takes it."""
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.2))
    label, colour, marker = PARTIES["ours"]
    prefix = "ours:hub_curve."

    def points(kind: str) -> list[tuple[int, float]]:
        named = ((key.removeprefix(prefix).partition("."), value) for key, value in found.items())
        return sorted((int(count), value) for (count, _, found_kind), value in named if found_kind == kind)

    for axis, kind, text, shade in (
        (axes[0], "message_us", label, colour),
        (axes[1], "gc_ms", "as it is", "#c2571a"),
        (axes[1], "gc_frozen_ms", "after gc.freeze", colour),
    ):
        if points(kind):
            axis.plot(*zip(*points(kind), strict=True), label=text, color=shade, marker=marker, **_LINE)
    axes[0].set(xscale="log", title="a message, by sessions of the agent", ylabel="microseconds", ylim=(0, None))
    axes[1].set(xscale="log", yscale="log", title="a full garbage collection", ylabel="milliseconds")
    for axis in axes:
        axis.set_xlabel("sessions")
        axis.grid(axis="y", linewidth=0.3)
    if points("gc_ms"):
        axes[1].legend(frameon=False, fontsize=8)
    return _save(figure, folder, "hubs")


def targets(rows: Sequence[dict[str, Any]], folder: Path) -> str:
    """Draw each target: the measured ratio as a part of what it may be."""
    measured = [(number, row) for number, row in enumerate(rows, start=1) if row["ratio"] is not None]
    figure, axis = plt.subplots(figsize=(8.4, 3.4))
    for number, row in measured:
        value, met = row["ratio"] / row["at_most"], row["met"]
        axis.plot(
            [number] * 2, [row["low"] / row["at_most"], row["high"] / row["at_most"]], color="#bbbbbb", linewidth=3
        )
        axis.plot(number, value, marker="o" if met else "X", color="#0b6e99" if met else "#c2571a")
    axis.axhline(1, color="black", linewidth=0.8)
    axis.set_yscale("log")
    axis.set_xticks(range(1, len(rows) + 1), [str(number) for number in range(1, len(rows) + 1)], fontsize=7)
    axis.set(title="below the line: met", xlabel="row of the table", ylabel="ratio / target")
    return _save(figure, folder, "targets")


def draw(result: dict[str, Any], folder: Path) -> list[str]:
    """Draw all plots, and return the names of the files."""
    folder.mkdir(parents=True, exist_ok=True)
    found: Medians = result["medians"]
    return [
        targets(result["targets"], folder),
        frames(found, folder),
        establishment(found, folder),
        audit(found, folder),
        *([hubs(found, folder)] if any(key.startswith("ours:hub_curve.") for key in found) else []),
    ]

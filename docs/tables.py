"""Tables of the pages that are read off the code: `python -m docs.tables` writes them anew, a test compares.

They stand in the pages, between comments, and so are there for whoever reads the pages without a site.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NewType, get_args

from agentmesh import BundleClass, Conditions, Deny, Grant, Identity, IdentityKey, Intent, KnockRequest, errors, limits
from agentmesh.engine.event_rows import Kept
from agentmesh.events import Event
from agentmesh.limits import SCORE_MAX
from agentmesh.policy import Decision
from agentmesh.primitives.keys import Receipt, SessionId
from agentmesh.trust import AdmissionPolicy, Tier

PAGES = Path(__file__).parent
MARK = re.compile(
    r"^<!-- table: (?P<kind>\w+)(?: (?P<of>[\w.]+))? -->\n(?P<table>.*?)^<!-- table -->$", re.MULTILINE | re.DOTALL
)


def table(head: str, rows: Iterator[tuple[str, ...]]) -> str:
    """Return a Markdown table; `head` names its columns, with bars between."""
    columns = head.split(" | ")
    lines = [f"| {' | '.join(line)} |".replace("|  |", "| |") for line in (columns, *rows)]
    return "\n".join([lines[0], f"|{'---|' * len(columns)}", *lines[1:], ""])


# --- the names of a module -------------------------------------------------------------------------------------------


def public_names(module: str) -> list[str]:
    """Return what a module offers: its `__all__`, or what is defined in it under a name without an underscore."""
    home = importlib.import_module(module)
    defined = [name for name, value in vars(home).items() if getattr(value, "__module__", "") == module]
    return list(getattr(home, "__all__", [name for name in defined if not name.startswith("_")]))


def names(module: str) -> str:
    """Return the public names of a module, each with the first line of its docstring."""
    home = importlib.import_module(module)
    return table("name | is", ((f"`{name}`", _said(name, getattr(home, name))) for name in public_names(module)))


def _said(name: str, value: object) -> str:
    if isinstance(value, NewType):
        return f"`{value.__supertype__.__name__}` under a name for type checkers"
    if not inspect.isclass(value) and not inspect.isfunction(value):
        return OF_VALUES[name]
    lines = (inspect.getdoc(value) or "").split("\n\n")[0].splitlines()
    return " ".join(lines).replace("|", "\\|")


# What has no docstring, because it is no class and no function.
OF_VALUES = {
    "Acknowledge": "What tells a broker that an envelope is taken: called once it is durable.",
    "Clock": "What tells the time: a callable that returns milliseconds since the epoch.",
    "DIRECT_THRESHOLD": "From this score on trust is direct; one by a path stays below it, unless told otherwise.",
    "Event": "Any event.",
    "HONEST": "The faults of an honest network: none.",
    "Reference": "What a message can name: an `Attachment`, or an `UnknownReference`.",
    "StoreKey": "The key of a store: 32 bytes, a passphrase, or a callable that asks a key service.",
    "TRANSPORT_CHECKS": "Every check of the kit, in the order in which `check_transport` runs them.",
    "__version__": "The release, as `1.2.3`.",
}


# --- errors ----------------------------------------------------------------------------------------------------------


MAGIC = re.compile(r"__\w+__")  # which Markdown would set in bold


def leaves_of(branch: str) -> str:
    """Return the errors right below a branch of the tree: code, class, what is said, and what to do next."""
    base = getattr(errors, branch)
    found = [value for name in errors.__all__ if issubclass(value := getattr(errors, name), errors.AgentMeshError)]
    rows = [
        (f"`{error.code}`", f"`{error.__name__}`", error.text, MAGIC.sub(r"`\g<0>`", error.hint))
        for error in sorted(found, key=lambda error: error.code)
        if base in error.__bases__ and error.hint
    ]
    return table("code | class | says | hint", iter(rows))


# --- limits ----------------------------------------------------------------------------------------------------------

CONSTANT = re.compile(r"^(?P<name>[A-Z]\w+): Final = (?P<value>[^#]+?)(?:  # (?P<why>.*))?$")
FIELD = re.compile(r"^    (?P<name>[a-z]\w+): int = _limit\((?P<value>[^#]+)\)(?:  # (?P<why>.*))?$")
UNITS = {"bytes": ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")),
         "seconds": ((86_400, "days"), (3600, "hours"), (60, "minutes")),
         "ms": ((86_400_000, "days"), (60_000, "minutes"), (1000, "s"))}  # fmt: skip


def shown(name: str, value: int) -> str:
    """Return a number, and in a larger unit what is a round number of it."""
    for size, unit in UNITS.get(name.lower().rpartition("_")[2], ()):
        if value >= size and value % size == 0:
            return f"{value:,} ({value // size:,} {unit if value > size else unit.removesuffix('s') or unit})"
    return f"{value:,}"


def _lines() -> Iterator[tuple[str, str]]:
    """Yield (line, the comment lines right behind it), so that a reason that goes on is whole."""
    lines = (PAGES.parent / "agentmesh" / "limits.py").read_text("utf-8").splitlines()
    for index, line in enumerate(lines):
        more = []
        for following in lines[index + 1 :]:
            if not following.startswith("# ") or following.startswith("# ---"):
                break
            more.append(following.removeprefix("# "))
        yield line, " ".join(more)


def constants(_of: str) -> str:
    """Return what the protocol fixes, with the reason that stands behind each."""
    rows = [
        (
            f"`{match['name']}`",
            shown(match["name"], getattr(limits, match["name"])),
            f"{match['why'] or ''} {more}".strip(),
        )
        for line, more in _lines()
        if (match := CONSTANT.match(line))
    ]
    return table("constant | value | why", iter(rows))


def settable(_of: str) -> str:
    """Return what an agent may set, in the groups of `Limits`, each under the reason that stands above it."""
    defaults, parts, comment, fresh = limits.Limits(), [], [], False
    for line, _ in _lines():
        if line.startswith("    # "):
            comment = [line.strip(" #")] if fresh else [*comment, line.strip(" #")]
            fresh = False
        elif match := FIELD.match(line):
            row = (f"`{match['name']}`", shown(match["name"], getattr(defaults, match["name"])), match["why"] or "")
            if not fresh:
                parts.append((" ".join(comment), [row]))
            else:
                parts[-1][1].append(row)
            fresh = True
        elif parts and line.strip():
            break
    return "\n".join(f"{why}\n\n{table('limit | default | why', iter(rows))}" for why, rows in parts)


# --- events ----------------------------------------------------------------------------------------------------------

ATTRIBUTE = re.compile(r"^    (?P<name>\w+): (?P<said>.+(?:\n {8}.+)*)$", re.MULTILINE)


def events(_of: str) -> str:
    """Return every event: when it is told, what it has, and whether an inbox keeps it until `done`."""
    rows = [
        (f"`{kind.__name__}`", _said(kind.__name__, kind), "yes" if kind in get_args(Kept) else "no", _attributes(kind))
        for kind in get_args(Event)
    ]
    return table("event | told when | `done` | attributes", iter(rows))


def _attributes(kind: type[Any]) -> str:
    """Return what an event has, each with its type and the first sentence that its docstring says of it."""
    said = {}
    for base in reversed(kind.__mro__):
        _, _, listed = (inspect.getdoc(base) or "").partition("\nAttributes:\n")
        said.update((match["name"], " ".join(match["said"].split())) for match in ATTRIBUTE.finditer(listed))
    types = {name: str(given.annotation) for name, given in inspect.signature(kind).parameters.items()}
    for name, value in inspect.getmembers(kind, lambda value: isinstance(value, property)):
        types[name], said[name] = value.fget.__annotations__["return"], inspect.getdoc(value)
    # What a maker takes and no event has, and the reply of those that never have one, is left out.
    shown = [name for name, of in types.items() if of != "None" and hasattr(kind, name)]
    parts = (f"`{name}`, `{types[name]}`: {said[name].partition('. ')[0].rstrip('.')}" for name in shown)
    return "<br>".join(parts).replace("|", "\\|")


# --- scores ----------------------------------------------------------------------------------------------------------

# The policy of the page of policies, as its code has it.
TIERS = [
    Tier(min_score=500, actions=["summarise"]),
    Tier(min_score=800, actions=["summarise", "delete"], conditions=Conditions(max_messages=10)),
]
SCORED = {"tiers": TIERS, "ask_from": 300}


def scores(_of: str) -> str:
    """Return what each score gets at a policy of tiers: by asking it about every score, on either list and on none."""
    rows = []
    peer = Identity.from_seed(bytes(32)).key
    for listed, where in ({}, ""), ({"allow": [peer]}, ", on the allow list"), ({"block": [peer]}, ", blocked"):
        bands: list[tuple[tuple[str, ...], list[int]]] = []
        for score in range(SCORE_MAX + 1):
            fares = _fares(AdmissionPolicy(scores=lambda _, score=score: score, **SCORED, **listed), peer)
            if not bands or bands[-1][0] != fares:
                bands.append((fares, [score]))
            bands[-1][1].append(score)
        for fares, (first, *_, last) in bands:
            rows.append((f"{first} to {last}{where}".replace("0 to 0", "0"), *fares))
    return table("score | KNOCK for `summarise` | KNOCK for `delete` | messages of a session | known", iter(rows))


def _fares(policy: AdmissionPolicy, peer: IdentityKey) -> tuple[str, ...]:
    return (
        *(_decided(policy.decide(_knock(peer, action))) for action in ("summarise", "delete")),
        "go on" if policy.still_allowed(peer) else "refused",
        "yes" if policy.is_known(peer.raw) else "no",
    )


def _decided(decision: Decision) -> str:
    if isinstance(decision, Grant):
        [tier] = [tier for tier in TIERS if tier.conditions == decision.conditions]
        return f"the tier of {tier.min_score}"
    return "rejected" if isinstance(decision, Deny) else "the application is asked"


def _knock(peer: IdentityKey, action: str) -> KnockRequest:
    return KnockRequest(
        peer=peer, session_id=SessionId(bytes(16)), receipt=Receipt(bytes(32)), intent=Intent(action),
        bundle_class=BundleClass.ONE_TIME, time_ms=0, expires_ms=0, has_early_payload=False, fresh=False,
        open_sessions=0,
    )  # fmt: skip


KINDS = {
    "names": names, "errors": leaves_of, "constants": constants, "limits": settable, "events": events, "scores": scores,
}  # fmt: skip


def written(page: str) -> str:
    """Return a page with its tables as the code has them now."""
    return MARK.sub(
        lambda mark: mark[0].replace(f"-->\n{mark['table']}", f"-->\n\n{KINDS[mark['kind']](mark['of'])}\n", 1), page
    )


def main() -> None:
    for path in sorted(PAGES.rglob("*.md")):
        page = path.read_text("utf-8")
        if (anew := written(page)) != page:
            path.write_text(anew, "utf-8", newline="\n")


if __name__ == "__main__":
    main()

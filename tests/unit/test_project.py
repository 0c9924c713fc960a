"""The house rules that a parser can see: who imports what, what is never used, what every error and label must be.

Each rule takes one parsed module and yields what breaks it. `PLANTED` shows for each rule a line that it must catch.
"""

from __future__ import annotations

import ast
import builtins
import importlib.metadata
import inspect
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import pytest

import agentmesh
from agentmesh import errors
from agentmesh.primitives import _labels

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "agentmesh"
MODULE_LINES_MAX = 500

FUNCTION_LINES_MAX = 60

ROOMS_PAGE = ROOT / "docs" / "architecture.md"


def rooms(page: str) -> tuple[frozenset[str], ...]:
    """Return the floors of the page's table, from the bottom up, each as patterns of module names.

    A module imports from its own floor and from those before it, never from those after it; every module must match
    exactly one floor. Names are relative to agentmesh.
    """
    table = page.split("<!-- rooms -->")[1]
    rows = [line.split("|") for line in table.splitlines() if re.match(r"\| \d+ \|", line)]
    assert [int(row[1]) for row in rows] == list(range(1, len(rows) + 1))
    floors = []
    for row in rows:
        patterns: set[str] = set()
        for room in re.findall(r"`([\w.]+/?)`", row[2]):
            name = room.removesuffix(".py")
            patterns |= {name[:-1], f"{name[:-1]}.*"} if room.endswith("/") else {name}
        floors.append(frozenset(patterns))
    return tuple(floors)


LAYERS = rooms(ROOMS_PAGE.read_text(encoding="utf-8"))

# Who alone may import what. Anything else that is neither here nor in the standard library is a new dependency.
ANYBODY = ("*",)
INPUT_AND_OUTPUT = (
    "_thread", "asyncio", "concurrent", "ctypes", "fcntl", "fileinput", "ftplib", "glob", "http", "io", "mmap",
    "multiprocessing", "pathlib", "select", "selectors", "shutil", "signal", "smtplib", "socket", "socketserver",
    "sqlite3", "ssl", "subprocess", "tempfile", "urllib", "webbrowser",
)  # fmt: skip
# Who waits for something: the courier, and what tests it. All else is called, and returns.
WAITS = ("courier.courier", "courier.workings", "testing.broker", "testing.transport_bench", "testing.transport_kit")
TOUCHES_THE_WORLD = ("store", "store.*", "cli", "cli.*", "__main__")
# Values that applications and relays share between threads.
LOCKED = ("primitives.buckets", "relay.limiter", "trust.steps")
THIRD_PARTY = {
    "attrs": ANYBODY,
    "cryptography": ("primitives._crypto",),
    "hypothesis": ("testing", "testing.*"),
    "msgpack": ("primitives._wire",),
    "nacl": ("primitives._crypto", "primitives._sodium"),
    "psycopg": ("store.postgres_link",),
}
STANDARD_LIBRARY = {
    "datetime": ("agt.encoding", "audit.exports", *TOUCHES_THE_WORLD),
    "hashlib": ("primitives._crypto",),
    "hmac": ("primitives._crypto",),
    "os": ("namesake", "primitives.build", "primitives.entropy", "primitives.forked", *TOUCHES_THE_WORLD),
    "random": ("testing.*",),
    "secrets": (),
    "threading": ("engine.seam", "audit.log", *LOCKED, *TOUCHES_THE_WORLD),
    "time": ("engine.hooks", "relay.limiter", *TOUCHES_THE_WORLD),
    **dict.fromkeys(("_pickle", "importlib", "marshal", "pickle", "runpy", "shelve", "yaml"), ()),
    **dict.fromkeys(INPUT_AND_OUTPUT, TOUCHES_THE_WORLD),
    **dict.fromkeys(("asyncio", "concurrent"), (*TOUCHES_THE_WORLD, *WAITS)),
}
# Where only a part of such a module may be used.
PARTS = {
    ("os", "namesake"): {"listdir"},  # once a process, where metadata of another package would be
    ("os", "primitives.build"): {"environ", "urandom"},
    ("os", "primitives.entropy"): {"urandom"},
    ("os", "primitives.forked"): {"getpid", "register_at_fork"},
    ("threading", "engine.seam"): {"RLock"},
    ("threading", "audit.log"): {"Lock"},
    ("time", "relay.limiter"): {"monotonic_ns"},
    **{("threading", name): {"Lock", "RLock"} for name in LOCKED},
}
IMPORTLIB_PARTS = {"importlib.resources", "importlib.metadata"}  # data and versions, not code


# --- the source ------------------------------------------------------------------------------------------------------


class Module(NamedTuple):
    name: str  # relative to agentmesh: "audit.log", "__init__" for agentmesh itself
    tree: ast.Module
    is_package: bool = False


def parse(name: str, source: str, *, is_package: bool = False) -> Module:
    return Module(name, ast.parse(source), is_package)


@cache
def module_paths() -> dict[str, Path]:
    paths = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if len(parts) > 1 and parts[-1] == "__init__":
            parts = parts[:-1]
        paths[".".join(parts)] = path
    return paths


@cache
def modules() -> tuple[Module, ...]:
    return tuple(
        parse(name, path.read_text(encoding="utf-8"), is_package=path.stem == "__init__")
        for name, path in module_paths().items()
    )


def is_one_of(name: str, patterns: tuple[str, ...] | frozenset[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def imports(module: Module) -> Iterator[tuple[int, str, str | None]]:
    """Yield (line, absolute module, imported name or None) of every import, wherever it stands."""
    package = ["agentmesh", *module.name.split(".")]
    if not module.is_package or module.name == "__init__":
        package.pop()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, None
        elif isinstance(node, ast.ImportFrom):
            parts = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*parts, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, source, alias.name


def imported_modules(module: Module, known: frozenset[str]) -> Iterator[tuple[int, str]]:
    """Yield (line, relative name) of every module of this package that `module` imports."""
    for line, source, name in imports(module):
        if source != "agentmesh" and not source.startswith("agentmesh."):
            continue
        relative = source.removeprefix("agentmesh").removeprefix(".")
        inner = f"{relative}.{name}".removeprefix(".")
        yield line, inner if name is not None and inner in known else relative or "__init__"


# --- the rules -------------------------------------------------------------------------------------------------------

Rule = Callable[[Module], Iterator[str]]


def layer_of(name: str) -> int:
    rows = [index for index, row in enumerate(LAYERS) if is_one_of(name, row)]
    assert len(rows) == 1, f"agentmesh.{name} has {len(rows)} rooms in {ROOMS_PAGE.name}; give it one"
    return rows[0]


def imports_only_downwards(module: Module) -> Iterator[str]:
    known = frozenset(module_paths())
    for line, target in imported_modules(module, known):
        if layer_of(target) > layer_of(module.name):
            yield f"{line}: {module.name} imports {target}, which is above it"


def imports_only_what_it_may(module: Module) -> Iterator[str]:
    for line, source, name in imports(module):
        top = source.partition(".")[0]
        if top == "agentmesh" or source in IMPORTLIB_PARTS or f"{source}.{name}" in IMPORTLIB_PARTS:
            continue
        is_standard = top in sys.stdlib_module_names
        allowed = STANDARD_LIBRARY.get(top, ANYBODY) if is_standard else THIRD_PARTY.get(top, ())
        if not is_one_of(module.name, allowed):
            yield f"{line}: {module.name} may not import {source}"
        parts = PARTS.get((top, module.name))
        if parts is not None and name is not None and name not in parts:
            yield f"{line}: {module.name} may not import {name} from {source}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            parts = PARTS.get((node.value.id, module.name))
            if parts is not None and node.attr not in parts:
                yield f"{node.lineno}: {module.name} may not use {node.value.id}.{node.attr}"


def runs_no_code_from_data(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Name) and node.id in {"eval", "exec", "__import__", "compile", "breakpoint"}:
            yield f"{node.lineno}: {node.id}"


def neither_opens_nor_prints(module: Module) -> Iterator[str]:
    if is_one_of(module.name, TOUCHES_THE_WORLD):
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Name) and node.id in {"open", "print", "input"}:
            yield f"{node.lineno}: {node.id}"
        elif isinstance(node, ast.Attribute) and node.attr in {"stdin", "stdout", "stderr", "__stdout__", "__stderr__"}:
            yield f"{node.lineno}: {node.attr}"


def says_what_it_is(module: Module) -> Iterator[str]:
    # What a private module or class holds is not public.
    if ast.get_docstring(module.tree) is None:
        yield f"1: module {module.name}"
    if any(part.startswith("_") and not part.startswith("__") for part in module.name.split(".")):
        return
    yield from _undocumented(module.tree.body)


def _undocumented(body: list[ast.stmt]) -> Iterator[str]:
    for node in _statements(body):
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
            continue
        decorators = {ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list}
        if ast.get_docstring(node) is None and not decorators & {"overload", "override", "setter", "deleter"}:
            yield f"{node.lineno}: {node.name}"
        if isinstance(node, ast.ClassDef):
            yield from _undocumented(node.body)


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a module or class, those inside an `if`, `try` or `with` included."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try | ast.With):
            yield from _statements([child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)])


def defines_no_error(module: Module) -> Iterator[str]:
    if module.name.startswith("errors"):
        return
    exceptions = {error.__name__ for error in ERRORS}
    exceptions |= {
        name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, BaseException)
    }
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ClassDef):
            for base in node.bases:
                if ast.unparse(base).rpartition(".")[2] in exceptions:
                    yield f"{node.lineno}: {node.name}({ast.unparse(base)})"


def says_why_in_its_own_words(module: Module) -> Iterator[str]:
    # What is wrong with an argument is said in fixed phrases: a phrase that is put together may hold the argument.
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call) or ast.unparse(node.func).rpartition(".")[2] != "ArgumentInvalid":
            continue
        words = [*node.args[1:2], *(word.value for word in node.keywords if word.arg == "why")]
        phrases = [
            phrase
            for word in words
            for phrase in ((word.body, word.orelse) if isinstance(word, ast.IfExp) else (word,))
        ]
        for phrase in phrases:
            if not (isinstance(phrase, ast.Constant) and type(phrase.value) is str):
                yield f"{node.lineno}: {ast.unparse(phrase)}"


def writes_down_public_types(module: Module) -> Iterator[str]:
    # Each type checker infers in its own way: what is only inferred is another type in another editor.
    if any(part.startswith("_") and not part.startswith("__") for part in module.name.split(".")):
        return
    classes = [node for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef)]
    for place in (module.tree, *(class_ for class_ in classes if not class_.name.startswith("_"))):
        given = list(_public_names(place))
        written = {name for name, node in given if isinstance(node, ast.AnnAssign)}
        for name, node in given:
            if isinstance(node, ast.AnnAssign):
                is_clear = ast.unparse(node.annotation).rpartition(".")[2] != "ClassVar"
            else:
                is_literal = isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
                is_type = isinstance(place, ast.Module) and re.fullmatch(r"[A-Z]\w*[a-z]\w*", name) is not None
                is_clear = is_literal or is_type or name in written
            if not is_clear:
                yield f"{node.lineno}: {name}"


def _public_names(place: ast.Module | ast.ClassDef) -> Iterator[tuple[str, ast.stmt]]:
    """Yield each public name that a module or class is given, in a class also on `self`, with what gives it."""
    own = list(_statements(place.body))
    for node in own if isinstance(place, ast.Module) else ast.walk(place):
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign | ast.AugAssign):
            targets = [node.target]
        else:
            continue
        for target in targets:
            for one in target.elts if isinstance(target, ast.Tuple) else (target,):
                name = ast.unparse(one)
                if node not in own and not name.startswith("self."):
                    continue  # a local name of a method
                name = name.removeprefix("self.")
                if re.fullmatch(r"[A-Za-z]\w*", name):
                    yield name, node


def writes_no_label(module: Module) -> Iterator[str]:
    if module.name == "primitives._labels":
        return
    docstrings = {id(node.value) for node in ast.walk(module.tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes) and id(node) not in docstrings:
            text = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
            if text.startswith(("am1-", "agentmesh/v1/", "AgentMesh_", "trustgraph.")):
                yield f"{node.lineno}: {text!r}"


SECRET_WORDS = frozenset(
    ("mk", "ek", "kc", "ck", "rk", "hk", "prk", "ss", "seed", "secret", "secrets", "commitment", "tag", "mac")
)
SECRET_NAME = re.compile(
    r"(.*_)?(root|cks|ckr|hks|hkr|nhk|nhks|nhkr|shared"
    r"|(root|chain|message|header|intent|box|signing|disclosure|sealing|kem)_keys?(_[a-z]{1,2})?)"
)
NOT_SECRET_SUFFIX = re.compile(r".*_(size|count|len|length|bytes_max|label|kind|id|ms|seconds)")
# Comparisons that are constant-time although they are written `==`, each with its reason.
CONSTANT_TIME_ANYWAY = {
    (
        "handshake.prekeys",
        "self.prekey_secret == other.prekey_secret",
    ): "both are wrapped in Secret, whose == is constant-time",
    ("handshake.prekeys", "self.kem_seed == other.kem_seed"): "both are wrapped in Secret, whose == is constant-time",
}


def is_secret_name(name: str) -> bool:
    name = name.lstrip("_")
    if NOT_SECRET_SUFFIX.fullmatch(name):
        return False
    return bool(SECRET_WORDS & set(name.split("_"))) or SECRET_NAME.fullmatch(name) is not None


def _names_a_secret(node: ast.expr) -> bool:
    if isinstance(node, ast.Name):
        return is_secret_name(node.id)
    if isinstance(node, ast.Attribute):
        return is_secret_name(node.attr)
    if isinstance(node, ast.Subscript):
        return _names_a_secret(node.value)
    if isinstance(node, ast.Tuple | ast.List):
        return any(_names_a_secret(item) for item in node.elts)
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "reveal"


def secret_comparisons(module: Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Compare):
            continue
        is_equality = any(isinstance(operator, ast.Eq | ast.NotEq) for operator in node.ops)
        if is_equality and any(_names_a_secret(side) for side in (node.left, *node.comparators)):
            yield node.lineno, ast.unparse(node)


def compares_secrets_in_constant_time(module: Module) -> Iterator[str]:
    for line, text in secret_comparisons(module):
        if (module.name, text) not in CONSTANT_TIME_ANYWAY:
            yield f"{line}: {text}"


BARE_SECRETS = {"RootKey", "ChainKey", "MessageKey", "HeaderKey", "IntentKey", "X25519Secret"}  # plain bytes to Python
PRINTING_DECORATORS = {"attrs.frozen", "attrs.define", "frozen", "define", "dataclass", "dataclasses.dataclass"}


def prints_no_bare_secret(module: Module) -> Iterator[str]:
    # A generated __repr__ prints its fields and a generated __eq__ compares them one by one. Redacted does neither.
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.ClassDef):
            continue
        switched_off: set[str] = set()
        is_generated = any(ast.unparse(base) in {"NamedTuple", "typing.NamedTuple"} for base in node.bases)
        for decorator in node.decorator_list:
            called = decorator.func if isinstance(decorator, ast.Call) else decorator
            if ast.unparse(called) in PRINTING_DECORATORS:
                is_generated = True
                if isinstance(decorator, ast.Call):
                    switched_off |= {f"{word.arg}={ast.unparse(word.value)}" for word in decorator.keywords}
        if not is_generated or switched_off >= {"repr=False", "eq=False"}:
            continue
        for statement in node.body:
            # A field that takes or returns such a key is a function, and holds none.
            if isinstance(statement, ast.AnnAssign) and not ast.unparse(statement.annotation).startswith("Callable["):
                named = {name.id for name in ast.walk(statement.annotation) if isinstance(name, ast.Name)}
                if named & BARE_SECRETS:
                    yield f"{statement.lineno}: {node.name}.{ast.unparse(statement.target)}"


def leaves_primitives_to_the_suite(module: Module) -> Iterator[str]:
    if module.name == "session.ratchet":
        for line, target in imported_modules(module, frozenset(module_paths())):
            if target in {"primitives._crypto", "primitives._labels", "primitives.aead"}:
                yield f"{line}: ratchet imports {target}"


# Each rule, with what it must catch: (module, source).
PLANTED: dict[Rule, list[tuple[str, str]]] = {
    imports_only_downwards: [
        ("primitives.keys", "from agentmesh.handshake import agreement"),
        ("primitives.keys", "from agentmesh.handshake.agreement import respond"),
        ("primitives.keys", "import agentmesh.handshake.agreement"),
        ("primitives.keys", "from .. import handshake"),
        ("primitives.keys", "from ..handshake.agreement import respond"),
        ("primitives.keys", "def f():\n    from agentmesh.handshake.agreement import respond"),
        ("primitives.keys", "from agentmesh import __version__"),
        ("audit.log", "from ..agent import Agent"),
        ("errors", "from agentmesh.primitives import _crypto"),
    ],
    imports_only_what_it_may: [
        ("primitives.aead", "import nacl.secret"),
        ("primitives.aead", "from hashlib import sha256"),
        ("identity", "import hmac as h"),
        ("primitives._crypto", "import msgpack"),
        ("session.established", "from cryptography.hazmat.primitives import hashes"),
        ("agent", "import pickle"),
        ("store.sqlite", "import pickle"),
        ("cli.demo.parent", "import yaml"),
        ("agent", "import socket"),
        ("agent", "import asyncio"),
        ("courier.intake", "import asyncio"),
        ("courier.courier", "import socket"),
        ("testing.network", "from pathlib import Path"),
        ("session.established", "import threading"),
        ("agent", "from threading import Thread"),
        ("agent", "import threading\nthreading.Thread(target=f)"),
        ("primitives.entropy", "import os\nos.remove(path)"),
        ("primitives.forked", "import os\nos.fork()"),
        ("session.ratchet", "import os"),
        ("session.ratchet", "import random"),
        ("session.established", "import time"),
        ("session.established", "import importlib"),
        ("agent", "import hypothesis"),
        ("store.postgres", "import psycopg"),
        ("agent", "import requests"),
    ],
    runs_no_code_from_data: [("agent", "eval(text)"), ("cli.demo.parent", "exec(text)"), ("agent", "__import__(name)")],
    neither_opens_nor_prints: [
        ("agent", "open(path)"),
        ("agent", "print(key)"),
        ("testing", "sys.stderr.write(text)"),
    ],
    says_what_it_is: [
        ("agent", "x = 1"),
        ("agent", '"""Doc."""\ndef f():\n    pass'),
        ("agent", '"""Doc."""\nclass C:\n    pass'),
        ("agent", '"""Doc."""\nclass C:\n    """Doc."""\n    def f(self):\n        pass'),
        ("agent", '"""Doc."""\nif x:\n    def f():\n        pass'),
        ("primitives._wire", "x = 1"),
    ],
    defines_no_error: [
        ("agent", "class Bad(ValueError):\n    pass"),
        ("agent", "class Bad(errors.LocalError):\n    pass"),
        ("cli.demo.parent", "class Bad(Exception):\n    pass"),
    ],
    says_why_in_its_own_words: [
        ("agent", "raise ArgumentInvalid('did', f'not {did}')"),
        ("agent", "raise errors.ArgumentInvalid('did', did)"),
        ("agent", "raise ArgumentInvalid('did', why=str(error))"),
        ("agent", "raise ArgumentInvalid('did', 'one' if x else did)"),
    ],
    writes_down_public_types: [
        ("agent", "class A:\n    def __init__(self, x: int) -> None:\n        self.x = x"),
        ("agent", "class A:\n    def __init__(self) -> None:\n        self._y, self.x = 1, 2"),
        ("agent", "class A:\n    x = 0\n    def f(self) -> None:\n        self.x += 1"),
        ("agent", "class A:\n    def f(self) -> None:\n        x: int = 0\n        self.x = x"),
        ("agent", "class A:\n    x: ClassVar = Phase.PENDING"),
        ("agent", "class A:\n    if True:\n        Size = len(b'')"),
        ("agent", "HONEST = Faults()"),
    ],
    writes_no_label: [
        ("session.ratchet", 'x = b"am1-other"'),
        ("identity", 'x = f"agentmesh/v1/{name}"'),
        ("agt.agreement", 'x = b"AgentMesh_X3DH_v1"'),
        ("agt.projection", 'x = b"trustgraph.v1"'),
    ],
    compares_secrets_in_constant_time: [
        ("session.ratchet", "mk == other"),
        ("session.ratchet", "if expected != sealed.commitment: pass"),
        ("session.ratchet", "x = self._chain_key == y"),
        ("session.ratchet", "x = derived[32:] == kc[:32]"),
        ("session.ratchet", "x = y == identity_seed.reveal()"),
        ("session.ratchet", "x = (a, tag) == (b, c)"),
        ("session.ratchet", "x = a == seed.reveal()"),
        ("session.ratchet", "x = keys.header_key_ab == y"),
    ],
    prints_no_bare_secret: [
        ("session.established", "@frozen(kw_only=True)\nclass Keys:\n    root: RootKey"),
        ("session.established", "@attrs.define(eq=False)\nclass Keys:\n    chains: dict[int, ChainKey] = field()"),
        ("session.established", "class Keys(NamedTuple):\n    chain: ChainKey | None"),
    ],
    leaves_primitives_to_the_suite: [("session.ratchet", "from agentmesh.primitives import _crypto")],
}
# What looks close to a breach and is none.
FINE: dict[Rule, list[tuple[str, str]]] = {
    imports_only_downwards: [
        ("handshake.agreement", "from agentmesh.primitives import keys"),
        ("session.established", "from agentmesh.session.ratchet import Ratchet"),
        ("cli.demo.parent", "from agentmesh import Agent, __version__"),
        ("audit.log", "from .record import Record\nfrom . import proof\nfrom ..primitives import _crypto"),
    ],
    imports_only_what_it_may: [
        ("engine.seam", "from threading import RLock"),
        ("audit.log", "import threading\nlock = threading.Lock()"),
        ("primitives.entropy", "import os\nos.urandom(32)"),
        ("cli.demo.parent", "import subprocess, socket\nfrom importlib import resources"),
        ("store.file", "from pathlib import Path"),
        ("testing", "from hypothesis import strategies"),
    ],
    runs_no_code_from_data: [("agent", "self.exec(x)\nre.compile(y)")],
    neither_opens_nor_prints: [("agent", "session.open(x)"), ("cli.demo.parent", "print(x)")],
    says_what_it_is: [
        ("primitives._wire", '"""Doc."""\ndef f():\n    pass'),
        ("agent", '"""Doc."""\ndef _f():\n    pass\nclass _C:\n    def f(self):\n        pass'),
        ("agent", '"""Doc."""\ndef f():\n    """Doc."""\n    def inner():\n        pass'),
    ],
    defines_no_error: [("agent", "class Good(Redacted):\n    pass")],
    says_why_in_its_own_words: [
        ("agent", "raise ArgumentInvalid(name, 'over the limit', len(x), 5)"),
        ("agent", "raise ArgumentInvalid('x', 'one' if y else 'two')"),
        ("agent", "raise ArgumentInvalid('x')"),
    ],
    writes_down_public_types: [
        ("agent", "class A:\n    def __init__(self, x: int) -> None:\n        self.x: int = x\n        self._y = x"),
        ("agent", "class A:\n    x: int\n    def f(self) -> None:\n        self.x = y = len(b'')"),
        ("agent", "class A:\n    def f(self) -> None:\n        self.x: int\n        self.x, self._y = f()"),
        ("agent", "class A:\n    code = 'a.b'\n    SIZE: Final = len(b'')\n    phase: ClassVar[Phase] = Phase.PENDING"),
        ("agent", "class _A:\n    def __init__(self) -> None:\n        self.x = len(b'')"),
        ("agent", "Key = NewType('Key', bytes)\nKeys = dict[int, Key]\nMESH = 'a'\n_HONEST = Faults()"),
        ("primitives._crypto", "compare = hmac.compare_digest"),
    ],
    writes_no_label: [("session.ratchet", '"""am1-chain is a label."""\nx = "agentmesh"')],
    compares_secrets_in_constant_time: [
        ("session.ratchet", "x = secret is None or len(seed) == 32 or session_id == y or public_key == z"),
        ("session.ratchet", "x = seed_count == 3 and key.size == 32 and stage == STAGE"),
    ],
    prints_no_bare_secret: [
        ("session.established", "@frozen(repr=False, eq=False)\nclass Keys:\n    root: RootKey"),
        ("session.established", "@frozen\nclass Keys:\n    kdf: Callable[[bytes], bytes]\n    key: DisclosureKey"),
        ("session.established", "class Keys(Redacted):\n    root: RootKey"),
    ],
    leaves_primitives_to_the_suite: [("session.suite", "from agentmesh.primitives import _crypto")],
}


@pytest.mark.parametrize("rule", PLANTED, ids=lambda rule: rule.__name__)
def test_every_module_keeps_the_rule(rule: Rule) -> None:
    broken = [f"agentmesh.{module.name}:{breach}" for module in modules() for breach in rule(module)]
    assert broken == []


@pytest.mark.parametrize(
    ("rule", "name", "source"),
    [(rule, name, source) for rule, cases in PLANTED.items() for name, source in cases],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_rule_catches_a_planted_breach(rule: Rule, name: str, source: str) -> None:
    assert list(rule(parse(name, source)))


@pytest.mark.parametrize(
    ("rule", "name", "source"),
    [(rule, name, source) for rule, cases in FINE.items() for name, source in cases],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_rule_lets_pass_what_is_no_breach(rule: Rule, name: str, source: str) -> None:
    assert list(rule(parse(name, source))) == []


def test_every_exempt_comparison_still_exists() -> None:
    found = {(module.name, text) for module in modules() for _, text in secret_comparisons(module)}
    assert CONSTANT_TIME_ANYWAY.keys() <= found


# --- the package as a whole ------------------------------------------------------------------------------------------


def test_every_module_has_one_place() -> None:
    assert {name: layer_of(name) for name in module_paths()}


def test_every_room_has_a_module() -> None:
    empty = [
        room for floor in LAYERS for room in sorted(floor) if not any(fnmatchcase(n, room) for n in module_paths())
    ]
    assert empty == []


def test_a_module_without_a_room_is_found() -> None:
    with pytest.raises(AssertionError, match="has 0 rooms"):
        layer_of("basement")


def test_the_order_of_the_rooms_is_the_pages() -> None:
    floors = rooms("<!-- rooms -->\n| 1 | `errors/`, `limits.py` | x |\n| 2 | `agent.py` | `store/` |\n<!-- rooms -->")
    assert floors == ({"errors", "errors.*", "limits"}, {"agent"})
    assert len(LAYERS) > 10


def test_modules_import_one_another_in_no_circle() -> None:
    known = frozenset(module_paths())
    waiting = {module.name: {target for _, target in imported_modules(module, known)} for module in modules()}
    while free := [name for name, targets in waiting.items() if not targets & waiting.keys()]:
        for name in free:
            del waiting[name]
    assert waiting == {}


def test_no_module_is_too_long() -> None:
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in module_paths().items()}
    assert {name: length for name, length in lengths.items() if length > MODULE_LINES_MAX} == {}


def long_functions(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield f"{module.name}.{node.name}: {lines}"


def test_no_function_is_too_long() -> None:
    assert [name for module in modules() for name in long_functions(module)] == []


@pytest.mark.parametrize("lines", [FUNCTION_LINES_MAX, FUNCTION_LINES_MAX + 1])
def test_a_function_that_is_too_long_is_found(lines: int) -> None:
    source = "class C:\n    async def f():\n" + "        x = 1\n" * (lines - 1)
    assert bool(list(long_functions(parse("agent", source)))) is (lines > FUNCTION_LINES_MAX)


def test_the_package_says_that_it_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()


def test_every_dependency_has_a_floor_that_can_be_installed() -> None:
    # `.ci/run` makes an environment of exactly these: "24.1" alone may name no release.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    floored = [*project["dependencies"], *extras["testing"], *extras["postgres"], *extras["examples"]]
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*(\[binary\])?>=\d+\.\d+\.\d+", requirement) for requirement in floored), (
        floored
    )
    assert {requirement.partition(">=")[0] for requirement in project["dependencies"]} == {
        "attrs", "cryptography", "msgpack", "pynacl",
    }  # fmt: skip


def test_the_installed_version_is_the_packages_own() -> None:
    try:
        installed = importlib.metadata.version("agentmesh-e2ee")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("agentmesh-e2ee is not installed here: pip install '.[test]'")
    assert installed == agentmesh.__version__


# --- errors ----------------------------------------------------------------------------------------------------------

ERRORS = [
    value
    for value in vars(errors).values()
    if isinstance(value, type)
    and issubclass(value, BaseException)
    and value.__module__.startswith(errors.__name__)
    and not issubclass(value, Warning)
]
WARNINGS = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Warning)]
BRANCHES = [error for error in ERRORS if any(other is not error and issubclass(other, error) for other in ERRORS)]
LEAVES = [error for error in ERRORS if error not in BRANCHES]


def test_the_tree_has_the_branches_that_callers_catch() -> None:
    assert {branch.__name__ for branch in BRANCHES} == {
        "AgentMeshError",
        "AttachmentBroken",
        "LocalError",
        "RemoteError",
        "StoreError",
        "TryAgain",
    }
    assert all(issubclass(error, errors.AgentMeshError) for error in ERRORS)
    assert all(issubclass(leaf, errors.LocalError | errors.RemoteError | errors.StoreError) for leaf in LEAVES)


def test_the_error_module_exports_its_errors_and_nothing_else() -> None:
    names = sorted(error.__name__ for error in (*ERRORS, *WARNINGS))
    own = [
        value for value in vars(errors).values() if str(getattr(value, "__module__", "")).startswith(errors.__name__)
    ]
    assert sorted(value.__name__ for value in own if not value.__name__.startswith("_")) == names
    assert sorted(getattr(errors, "__all__", names)) == names


def test_every_error_has_a_code_of_its_own() -> None:
    codes = [vars(error).get("code") for error in ERRORS]
    assert len(set(codes)) == len(ERRORS)
    assert all(code is not None for code in codes)


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.__name__)
def test_a_leaf_says_what_went_wrong_and_what_to_do(leaf: type[errors.AgentMeshError]) -> None:
    own = vars(leaf)
    assert re.fullmatch(r"[a-z]+\.[a-z_]+", own["code"])
    for sentence in (own["text"], own["hint"]):
        assert sentence.strip() == sentence != ""
        assert "\n" not in sentence
        assert not sentence.endswith(".")  # because str() joins them
    parameters = list(inspect.signature(leaf).parameters.values())
    error = leaf(*("argument" for parameter in parameters if parameter.default is parameter.empty))
    assert all(part in str(error) for part in (leaf.code, leaf.text, leaf.hint))
    assert error.args == ()  # because args are printed, pickled and logged by whoever catches


# --- labels ----------------------------------------------------------------------------------------------------------

LABELS = [value for name, value in vars(_labels).items() if isinstance(value, bytes) and name.isupper()]


def test_the_label_tables_hold_every_label_once() -> None:
    tables = [*_labels.KDF_LABELS, *_labels.SIGNATURE_LABELS, *_labels.AGT_INFOS, *_labels.KARS_LABELS]
    assert sorted(tables) == sorted(LABELS)
    assert len(set(tables)) == len(tables)


def test_no_label_is_a_prefix_of_another() -> None:
    assert [(one, other) for one, other in permutations(LABELS, 2) if other.startswith(one)] == []


@pytest.mark.parametrize("label", _labels.KDF_LABELS)
def test_a_kdf_label_is_a_personalisation(label: bytes) -> None:
    assert len(label) <= 16  # BLAKE2b's person
    assert re.fullmatch(rb"am1-[a-z-]+", label)  # no zero byte, because hashlib pads with zeros


@pytest.mark.parametrize("info", _labels.AGT_INFOS)
def test_an_info_of_agts_looks_like_no_label_of_ours(info: bytes) -> None:
    assert re.fullmatch(rb"AgentMesh_[A-Za-z0-9]+_v1", info)


@pytest.mark.parametrize("label", _labels.SIGNATURE_LABELS)
def test_a_signature_label_ends_with_a_zero_byte(label: bytes) -> None:
    assert re.fullmatch(rb"agentmesh/v1/[a-z]+\x00", label)


# --- words -----------------------------------------------------------------------------------------------------------

# Paths of one machine and hosts of registries. Each is written in two halves, so that this file holds none of them.
FORBIDDEN = re.compile(
    "|".join(
        first + second
        for first, second in (
            (r"/wo", r"rk/"),
            (r"/fa", r"rm/"),
            (r"/ro", r"ot/"),
            (r"/ho", r"me/(?!user\b|you\b)\w"),
            (r"/Us", r"ers/\w"),
            (r"bash_", r"jobs"),
            (r"py", r"pi\.org"),
            (r"python", r"hosted"),
            (r"registry\.np", r"mjs"),
            (r"deb\.deb", r"ian"),
        )
    )
)


def project_files() -> list[Path]:
    """Return the files that git tracks or would track; all files where git is missing, or this is a source archive."""
    if (ROOT / ".git").exists() and shutil.which("git") is not None:
        command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0")
        return [path for name in sorted(set(listed)) if name and (path := ROOT / name).is_file()]
    hidden = re.compile(r"\.(?!ci$|github$|gitignore$)|__pycache__$|dist$|build$|.*\.egg-info$")
    return [
        path
        for path in sorted(ROOT.rglob("*"))
        if path.is_file() and not any(hidden.match(part) for part in path.relative_to(ROOT).parts)
    ]


def test_without_git_no_file_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("git and a checkout are needed to compare with")
    with_git = set(project_files())
    monkeypatch.setenv("PATH", "")
    assert with_git <= set(project_files())


def test_the_files_of_the_project_name_no_machine_and_no_registry() -> None:
    found = []
    for path in project_files():
        data = path.read_bytes()
        if b"\0" in data:
            continue  # not text
        for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), start=1):
            if match := FORBIDDEN.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {match[0]}")
    assert found == []


@pytest.mark.parametrize(
    ("text", "is_forbidden"),
    [
        ("see /wo" + "rk/main", True),
        ("https://py" + "pi.org/project/x", True),
        ("/ho" + "me/alice/key", True),
        ("a framework/plugin for /home/user", False),
        ("pip install agentmesh-e2ee", False),
    ],
)
def test_the_forbidden_words_are_found(text: str, is_forbidden: bool) -> None:
    assert (FORBIDDEN.search(text) is not None) is is_forbidden

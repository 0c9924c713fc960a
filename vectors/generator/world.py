"""Who and what stands in the vectors: identities, bundles, times; and the file that each scenario becomes.

Every secret is drawn by its name, so that a new scenario changes no other. ML-KEM encapsulation takes no seed: its
results were recorded once, in inputs/encapsulations.json, and are replayed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import runner
from attrs import frozen

from agentmesh.errors import AgentMeshError
from agentmesh.handshake.prekeys import BundleClass, PublishedBundle, issue_bundle
from agentmesh.identity import Identity
from agentmesh.primitives import _crypto
from agentmesh.testing import ManualClock, SeededEntropy

Json = dict[str, Any]

FOLDER: Final = Path(__file__).resolve().parents[1]
ENCAPSULATIONS: Final = FOLDER / "inputs" / "encapsulations.json"

VERSION: Final = 1
MESH: Final = "example/vectors"
NOW_MS: Final = ManualClock().now_ms
DAY_MS: Final = 86_400_000
TOLERANCE_MS: Final = 300_000
EXPIRES_MS: Final = NOW_MS + DAY_MS
NOT_AFTER_MS: Final = NOW_MS + 30 * DAY_MS
# What an ACCEPT allows: everything, and little.
UNLIMITED: Final = {"max_messages": None, "ttl_seconds": None, "allowed_actions": None}
LIMITED: Final = {"max_messages": 3, "ttl_seconds": 3600, "allowed_actions": ["summarise", "translate"]}
# The smallest envelope that Limits allows, with what has to be smaller for it.
SMALL: Final = {
    "plaintext_max_bytes": 1,
    "intent_detail_max_bytes": 1,
    "capabilities_max": 1,
    "envelope_max_bytes": 4300,
}


def token(name: str, size: int = 32) -> bytes:
    """Return the `size` bytes of this name."""
    return SeededEntropy(f"agentmesh/vectors/v1/{name}").token(size)


@cache
def identity(name: str) -> Identity:
    """Return the identity of this name: `alice` and `carol` knock, `bob` is knocked at, `mallory` is none of them."""
    return Identity.from_seed(token(f"{name}/identity"))


ALICE: Final = identity("alice")
BOB: Final = identity("bob")
MALLORY: Final = identity("mallory")
CAROL: Final = identity("carol")


class _Tokens:
    def __init__(self, *values: bytes) -> None:
        self._values = list(values)

    def token(self, _size: int, /) -> bytes:
        return self._values.pop(0)

    def encapsulate(self, _public_key: bytes, /) -> tuple[bytes, bytes]:
        raise LookupError("a bundle needs no encapsulation")


@frozen(kw_only=True)
class Stock:
    """A bundle with everything about it, its secrets too."""

    name: str
    bundle_class: int
    data: bytes
    published: PublishedBundle
    prekey_secret: bytes
    kem_seed: bytes
    not_before_ms: int
    not_after_ms: int

    @property
    def prekey(self) -> bytes:
        """The X25519 prekey."""
        return _crypto.x25519_public(self.prekey_secret)

    @property
    def kem_key(self) -> bytes:
        """The encapsulation key."""
        return _crypto.kem_public(_crypto.kem_key(self.kem_seed))

    def secrets(self) -> Json:
        """Return what its owner keeps of it, as `knock.run` takes it."""
        return {
            "bundle_ref": self.published.ref.hex(),
            "class": self.bundle_class,
            "not_before_ms": self.not_before_ms,
            "not_after_ms": self.not_after_ms,
            "prekey_secret": self.prekey_secret.hex(),
            "kem_seed": self.kem_seed.hex(),
        }


@cache
def stock(
    name: str,
    bundle_class: int = 1,
    not_before_ms: int = NOW_MS,
    not_after_ms: int = NOT_AFTER_MS,
    of: str = "bob",
) -> Stock:
    """Return the bundle of this name, Bob's or somebody else's."""
    prekey_secret, kem_seed = token(f"{of}/{name}/prekey"), token(f"{of}/{name}/kem", 64)
    data, published = issue_bundle(
        identity(of),
        bundle_class=BundleClass(bundle_class),
        mesh=MESH,
        not_before_ms=not_before_ms,
        not_after_ms=not_after_ms,
        entropy=_Tokens(prekey_secret, kem_seed),
    )
    return Stock(
        name=name,
        bundle_class=bundle_class,
        data=data,
        published=published,
        prekey_secret=prekey_secret,
        kem_seed=kem_seed,
        not_before_ms=not_before_ms,
        not_after_ms=not_after_ms,
    )


ONE_TIME: Final = stock("one-time")
OTHER_ONE_TIME: Final = stock("other-one-time")
LAST_RESORT: Final = stock("last-resort", 2, not_after_ms=NOW_MS + 21 * DAY_MS)
SHORT: Final = stock("short", not_after_ms=NOW_MS + DAY_MS // 2)
ALICES: Final = stock("alices", 2, of="alice")
STOCK: Final = (ONE_TIME, OTHER_ONE_TIME, LAST_RESORT, SHORT, ALICES)
ENCAPSULATIONS_EACH: Final = 2


@cache
def _recorded() -> Mapping[str, list[Json]]:
    recorded: Mapping[str, list[Json]] = json.loads(ENCAPSULATIONS.read_text(encoding="ascii"))
    return recorded


def encapsulation(bundle: Stock, index: int = 0) -> tuple[bytes, bytes]:
    """Return the recorded (ciphertext, shared secret) for a bundle, checked by decapsulating it."""
    entry = _recorded()[bundle.name][index]
    ciphertext, shared = bytes.fromhex(entry["ciphertext"]), bytes.fromhex(entry["shared_secret"])
    if _crypto.kem_decapsulate(_crypto.kem_key(bundle.kem_seed), ciphertext) != shared:
        raise ValueError(f"{ENCAPSULATIONS.name} holds an encapsulation for another key than that of {bundle.name}")
    return ciphertext, shared


def record_encapsulations() -> None:
    """Draw the encapsulations that are not recorded yet; those that are stay, since vectors rest on them."""
    recorded = dict(_recorded())
    for bundle in STOCK:
        if bundle.name in recorded:
            continue
        pairs = [_crypto.kem_encapsulate(bundle.kem_key) for _ in range(ENCAPSULATIONS_EACH)]
        recorded[bundle.name] = [{"ciphertext": ct.hex(), "shared_secret": shared.hex()} for ct, shared in pairs]
    ENCAPSULATIONS.write_text(json.dumps(recorded, indent=2) + "\n", encoding="ascii")
    _recorded.cache_clear()


# --- files -----------------------------------------------------------------------------------------------------------


class Files:
    """The vectors of one family, by name."""

    def __init__(self, family: str) -> None:
        self.family = family
        self.by_name: dict[str, Json] = {}

    def write(
        self,
        name: str,
        operation: str,
        comment: str,
        *,
        spec: str,
        expect: str,
        given: Json,
        intermediate: Json | None = None,
        output: Json,
    ) -> Json:
        """Add a vector whose results are known."""
        if name in self.by_name:
            raise ValueError(f"{self.family}/{name} is there twice")
        if name.startswith("refuse-") != (expect != "ok"):
            raise ValueError(f"{self.family}/{name}: the name says other than {expect}")
        vector = {
            "version": VERSION,
            "family": self.family,
            "name": name,
            "comment": comment,
            "spec": spec,
            "operation": operation,
            "expect": expect,
            "input": given,
            "intermediate": intermediate or {},
            "output": output,
        }
        self.by_name[name] = vector
        return vector

    def add(
        self,
        name: str,
        operation: str,
        comment: str,
        *,
        spec: str,
        given: Json,
        expect: str = "ok",
        intermediate: Json | None = None,
        output: Json | None = None,
    ) -> Json:
        """Add a vector: the library gives the output, which must be as expected; `output` is a part to agree with."""
        code, found = runner.run(operation, given)
        if code != expect:
            raise ValueError(f"{self.family}/{name}: {code} and not {expect}")
        for key, value in (output or {}).items():
            if found[key] != value:
                raise ValueError(f"{self.family}/{name}: another {key}")
        return self.write(
            name,
            operation,
            comment,
            spec=spec,
            expect=expect,
            given=given,
            intermediate=intermediate,
            output=found,
        )

    def add_each(self, operation: str, spec: str, cases: Iterable[tuple[Any, ...]]) -> None:
        """Add a vector for each (name, comment, input), or (name, comment, input, code) where it is refused."""
        for name, comment, given, *code in cases:
            self.add(name, operation, comment, spec=spec, given=given, expect=code[0] if code else "ok")


def refusal(operation: str, given: Json) -> str | None:
    """Return the code with which an operation refuses this input, or `None`."""
    try:
        runner.OPERATIONS[operation](given)
    except AgentMeshError as error:
        return error.code
    return None

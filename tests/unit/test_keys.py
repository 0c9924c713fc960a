"""Secrets show nothing, compare in constant time and never leave by accident; randomness is watched."""

from __future__ import annotations

import base64
import copy
import hmac
import json
import logging
import os
import pickle
import pprint
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh.agt_identity import AgtIdentity
from agentmesh.errors import ArgumentInvalid, BadPoint, RandomnessFailed
from agentmesh.handshake.agreement import Initiation, SessionKeys, initiate
from agentmesh.handshake.prekeys import BundleClass, BundleSecrets, PublishedBundle, issue_bundle, verify_bundle
from agentmesh.identity import Identity, OwnIdentity
from agentmesh.primitives import _crypto
from agentmesh.primitives._labels import KdfLabel
from agentmesh.primitives.base58 import base58_encode
from agentmesh.primitives.entropy import CheckedEntropy, Entropy, SystemEntropy, check_entropy
from agentmesh.primitives.keys import (
    AttachmentKey,
    Disclosure,
    DisclosureKey,
    IdentitySeed,
    KemSeed,
    PrekeySecret,
    Redacted,
    Secret,
    TranscriptHash,
)

LABEL = KdfLabel(b"test")
SECRET_TYPES = (IdentitySeed, PrekeySecret, KemSeed, DisclosureKey, Disclosure, AttachmentKey)
SIZES = {KemSeed: 64, Disclosure: 96}


class Counting:
    """A source that never repeats itself and can be repeated."""

    def __init__(self, start: int) -> None:
        self.start = start

    def token(self, size: int, /) -> bytes:
        self.start += 1
        return (_crypto.kdf(self.start.to_bytes(8, "big"), LABEL, b"", 64) * 2)[:size]

    def encapsulate(self, public_key: bytes, /) -> tuple[bytes, bytes]:
        return _crypto.kem_encapsulate(public_key)


# --- one holder of every kind, with all the secrets in it -------------------------------------------------------------


def holders() -> dict[str, tuple[object, list[bytes]]]:
    source = Counting(0)
    alice, bob = Identity.generate(source), Identity.generate(source)
    data, published = issue_bundle(
        bob, bundle_class=BundleClass.ONE_TIME, mesh="m", not_before_ms=0, not_after_ms=10, entropy=source
    )
    bundle = verify_bundle(data, did=bob.did, mesh="m", now_ms=5)
    initiation = initiate(alice, bundle, expires_ms=9, entropy=source)
    assert published.secrets is not None
    bundle_secrets = [published.secrets.prekey_secret.reveal(), published.secrets.kem_seed.reveal()]
    session = initiation.keys
    session_secrets = [session.root, session.intent_key, session.header_key_ba, session.header_key_ab]
    found: dict[str, tuple[object, list[bytes]]] = {
        "Identity": (alice, [alice.seed.reveal(), alice.dh_secret]),
        "AgtIdentity": (agt := AgtIdentity.generate(source), [agt.seed.reveal(), agt.dh_secret]),
        "BundleSecrets": (published.secrets, bundle_secrets),
        "PublishedBundle": (published, bundle_secrets),
        "SessionKeys": (session, session_secrets),
        "Initiation": (initiation, [initiation.ephemeral_secret, *session_secrets]),
    }
    for secret_type in SECRET_TYPES:
        value = source.token(secret_type.size)
        found[secret_type.__name__] = (secret_type(value), [value])
    return found


HOLDERS = holders()
each_holder = pytest.mark.parametrize("name", HOLDERS)


def spellings(secret: bytes) -> Iterator[str]:
    """The secret, and each half of it, as anybody might print it."""
    for part in (secret, secret[: len(secret) // 2], secret[len(secret) // 2 :]):
        yield part.hex()
        yield part.hex().upper()
        yield part.hex(" ")
        yield base64.b64encode(part).decode().rstrip("=")
        yield base64.urlsafe_b64encode(part).decode().rstrip("=")
        yield base64.b32encode(part).decode().rstrip("=")
        yield base58_encode(part)
        yield str(int.from_bytes(part, "big"))
        yield str(int.from_bytes(part, "little"))
        yield f"{int.from_bytes(part, 'big'):x}"
        yield ", ".join(map(str, part))
        yield ",".join(map(str, part))
        yield repr(part)[2:-1]
        yield part.decode("latin-1")


def exposed(text: str, secrets: list[bytes]) -> list[str]:
    return [form for secret in secrets for form in spellings(secret) if form in text]


def log_text(value: object) -> str:
    logger = logging.getLogger("agentmesh.tests.secrets")
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(handler.format(record))  # type: ignore[method-assign]
    logger.addHandler(handler)
    logger.debug("%s %r", value, value, extra={"value": value})
    logger.removeHandler(handler)
    return "".join(lines)


SINKS: dict[str, Callable[[Any], str]] = {
    "repr": repr,
    "str": str,
    "ascii": ascii,
    "format": format,
    "f-string": lambda value: f"{value} {value!r} {value!s} {value!a} {value:}",
    "percent": lambda value: "%s %r" % (value, value),  # noqa: UP031
    "in containers": lambda value: f"{[value]} {(value,)} { {'k': value} }",
    "pprint": pprint.pformat,
    "pprint in a dict": lambda value: pprint.pformat({"k": [value]}),
    "json default": lambda value: json.dumps({"k": value}, default=str) + json.dumps(value, default=repr),
    "logging": log_text,
    "exception": lambda value: "".join(traceback.format_exception(RuntimeError(value))),
    "attrs.asdict": lambda value: pprint.pformat(attrs.asdict(value) if attrs.has(type(value)) else [value]),
    "attrs.astuple": lambda value: repr(attrs.astuple(value) if attrs.has(type(value)) else [value]),
}


def test_the_search_finds_what_it_looks_for() -> None:
    secret = SystemEntropy().token(32)
    for text in (repr(secret), secret.hex(), base64.b64encode(secret).decode(), str(list(secret)), repr(secret[:16])):
        assert exposed(f"x{text}y", [secret])
    assert not exposed("<redacted>", [secret])


@each_holder
@pytest.mark.parametrize("sink", SINKS)
def test_nothing_prints_a_secret(name: str, sink: str) -> None:
    value, secrets = HOLDERS[name]
    text = SINKS[sink](value)
    assert text
    assert exposed(text, secrets) == []


@each_holder
def test_repr_says_that_it_hides(name: str) -> None:
    value, _ = HOLDERS[name]
    assert "<redacted>" in repr(value)
    assert type(value).__name__ in repr(value)


@each_holder
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_no_secret_is_pickled(name: str, protocol: int) -> None:
    value, secrets = HOLDERS[name]
    for whole in (value, [value], {"k": (value,)}):
        with pytest.raises(TypeError) as caught:
            pickle.dumps(whole, protocol)
        assert exposed(str(caught.value), secrets) == []


@each_holder
def test_no_secret_is_copied(name: str) -> None:
    value, secrets = HOLDERS[name]
    for copier in (copy.copy, copy.deepcopy):
        if copier is copy.copy and name == "PublishedBundle":
            continue  # a shallow copy shares the secrets and holds none of its own
        with pytest.raises(TypeError) as caught:
            copier(value)
        assert exposed(str(caught.value), secrets) == []
    with pytest.raises(TypeError):
        copy.deepcopy([value])


@each_holder
def test_vars_finds_nothing(name: str) -> None:
    value, _ = HOLDERS[name]
    with pytest.raises(TypeError):
        vars(value)
    assert not hasattr(value, "__dict__")


def test_every_redacted_type_has_slots_and_a_holder_here() -> None:
    def below(base: type[object]) -> Iterator[type[object]]:
        for child in base.__subclasses__():
            yield child
            yield from below(child)

    here = {type(value).__name__ for value, _ in HOLDERS.values()}
    for child in below(Redacted):
        assert "__dict__" not in dir(child), child
        if child.__module__ in (
            "agentmesh.primitives.keys",
            "agentmesh.identity",
            "agentmesh.agt_identity",
            "agentmesh.handshake.prekeys",
            "agentmesh.handshake.agreement",
        ):
            assert child in (Secret, OwnIdentity) or child.__name__ in here, child  # the two are bases, never made


# --- the wrapper ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("secret_type", SECRET_TYPES)
def test_a_secret_takes_bytes_of_its_size_only(secret_type: type[Secret]) -> None:
    size = secret_type.size
    assert size == SIZES.get(secret_type, 32)
    value = bytes(range(size))
    assert secret_type(value).reveal() == value

    class Derived(bytes):
        pass

    bad: list[Any] = [
        b"", value[:-1], value + b"\x00", value * 2, bytearray(value[:-1]), memoryview(value * 2), Derived(value[:-1]),
        value.hex(), list(value), None, 0, secret_type(value),
    ]  # fmt: skip
    for wrong in bad:
        with pytest.raises(ArgumentInvalid) as caught:
            secret_type(wrong)
        error = caught.value
        assert error.argument == "value"
        shown = f"{error} {error!r} {error.args} {vars(error)}"
        assert exposed(shown, [value]) == []
    for same in (bytearray(value), memoryview(value), memoryview(bytearray(value)), Derived(value)):
        revealed = secret_type(same).reveal()
        assert (type(revealed), revealed) == (bytes, value)


def test_a_secret_is_a_copy_of_what_its_owner_may_wipe() -> None:
    buffer = bytearray(range(32))
    secret, identity = PrekeySecret(buffer), Identity.from_seed(buffer)  # type: ignore[arg-type]
    buffer[:] = bytes(32)
    assert secret.reveal() == identity.seed.reveal() == bytes(range(32))


@given(st.binary(min_size=32, max_size=32), st.integers(0, 255))
def test_equality_is_of_the_bytes_within_one_type(value: bytes, bit: int) -> None:
    flipped = bytearray(value)
    flipped[bit // 8] ^= 1 << bit % 8
    secret = PrekeySecret(value)
    assert secret == PrekeySecret(bytes(bytearray(value)))
    assert not secret != PrekeySecret(value)  # noqa: SIM202
    assert secret != PrekeySecret(bytes(flipped))
    assert secret != IdentitySeed(value)
    assert secret != DisclosureKey(value)
    assert secret != value
    assert value != secret
    assert secret != None  # noqa: E711


def test_equality_is_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def spy(first: bytes, second: bytes) -> bool:
        compared.append((first, second))
        return first == second

    monkeypatch.setattr(_crypto, "constant_time_equal", spy)
    one, two = bytes(32), b"\x01" * 32
    assert PrekeySecret(one) != PrekeySecret(two)
    assert compared == [(one, two)]
    # Both halves are compared whatever the first says.
    first = BundleSecrets(PrekeySecret(one), KemSeed(bytes(64)))
    second = BundleSecrets(PrekeySecret(two), KemSeed(bytes(64)))
    compared.clear()
    assert first != second
    assert compared == [(one, two), (bytes(64), bytes(64))]


def test_the_comparison_is_the_standard_library_s() -> None:
    assert _crypto.constant_time_equal is hmac.compare_digest


@pytest.mark.parametrize("secret_type", SECRET_TYPES)
def test_a_secret_has_no_hash_length_order_or_bytes(secret_type: type[Secret]) -> None:
    secret: Any = secret_type(bytes(secret_type.size))
    for call in (
        hash,
        len,
        bytes,
        iter,
        list,
        int,
        bytearray,
        memoryview,
        lambda s: s < s,
        lambda s: s + b"",
        lambda s: {s},
    ):
        with pytest.raises(TypeError):
            call(secret)


def test_other_holders_have_no_hash_of_secrets() -> None:
    with pytest.raises(TypeError):
        hash(HOLDERS["BundleSecrets"][0])
    with pytest.raises(TypeError):
        hash(HOLDERS["PublishedBundle"][0])


def test_session_keys_and_initiation_are_what_they_say() -> None:
    assert isinstance(HOLDERS["SessionKeys"][0], SessionKeys)
    assert isinstance(HOLDERS["Initiation"][0], Initiation)
    assert isinstance(HOLDERS["PublishedBundle"][0], PublishedBundle)
    assert repr(SessionKeys(TranscriptHash(bytes(64)), b"")) == "SessionKeys(<redacted>)"


# --- randomness -------------------------------------------------------------------------------------------------------


class Fixed:
    """Returns the given draws, one after the other."""

    def __init__(self, *draws: Any) -> None:
        self.draws = list(draws)

    def token(self, size: int, /) -> bytes:
        draw: bytes = self.draws.pop(0)
        return draw

    def encapsulate(self, public_key: bytes, /) -> tuple[bytes, bytes]:
        raise AssertionError


GOOD_1, GOOD_2 = bytes(range(32)), bytes(range(1, 33))


@pytest.mark.parametrize(
    "draws",
    [
        (GOOD_1, GOOD_1),
        (bytes(32), GOOD_1),
        (GOOD_1, bytes(32)),
        (b"\xff" * 32, GOOD_1),
        (b"\x42" * 32, b"\x43" * 32),
        (GOOD_1[:31], GOOD_2),
        (GOOD_1, GOOD_2 + b"\x00"),
        (b"", b""),
        (bytearray(GOOD_1), GOOD_2),
        (GOOD_1.hex()[:32], GOOD_2),
        (None, GOOD_1),
        (list(GOOD_1), GOOD_2),
    ],
)
def test_a_stuck_source_is_refused(draws: tuple[Any, Any]) -> None:
    with pytest.raises(RandomnessFailed) as caught:
        check_entropy(Fixed(*draws))
    assert caught.value.__context__ is None


def test_a_working_source_passes() -> None:
    check_entropy(Fixed(GOOD_1, GOOD_2))
    check_entropy(SystemEntropy())
    check_entropy(Counting(0))


@pytest.mark.parametrize("draw", [b"", bytes(15), bytes(17), bytes(32), bytearray(16), "0" * 16, None, 16, [0] * 16])
def test_a_checked_source_refuses_a_wrong_draw(draw: Any) -> None:
    checked = CheckedEntropy(Fixed(GOOD_1[:16], draw, GOOD_2[:16]))
    assert checked.token(16) == GOOD_1[:16]
    with pytest.raises(RandomnessFailed):
        checked.token(16)
    assert checked.token(16) == GOOD_2[:16]  # what was refused is forgotten


@pytest.mark.parametrize(
    "pair",
    [
        (b"", b""),
        (bytes(1087), bytes(32)),
        (bytes(1089), bytes(32)),
        (bytes(1088), bytes(31)),
        (bytes(1088), bytes(33)),
        (bytes(32), bytes(1088)),
        (bytearray(1088), bytes(32)),
        (bytes(1088), bytearray(32)),
        ("0" * 1088, "0" * 32),
        ([0] * 1088, [0] * 32),
    ],
)
def test_a_checked_source_refuses_a_wrong_encapsulation(pair: Any) -> None:
    class Broken(SystemEntropy):
        def encapsulate(self, public_key: bytes, /) -> tuple[bytes, bytes]:
            answer: tuple[bytes, bytes] = pair
            return answer

    with pytest.raises(RandomnessFailed):
        CheckedEntropy(Broken()).encapsulate(bytes(1184))


def test_a_checked_source_passes_a_good_one_on() -> None:
    checked = CheckedEntropy(SystemEntropy())
    assert len({checked.token(24) for _ in range(500)}) == 500
    key = _crypto.kem_key(bytes(64))
    ciphertext, shared = checked.encapsulate(_crypto.kem_public(key))
    assert _crypto.kem_decapsulate(key, ciphertext) == shared
    with pytest.raises(BadPoint):
        checked.encapsulate(b"\xff" * 1184)


def test_a_patched_system_source_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "urandom", lambda size: GOOD_1[:size])
    with pytest.raises(RandomnessFailed):
        check_entropy(SystemEntropy())


def test_the_system_source_never_repeats() -> None:
    source: Entropy = SystemEntropy()
    assert [len(source.token(size)) for size in (0, 1, 16, 24, 32, 64)] == [0, 1, 16, 24, 32, 64]
    assert len({source.token(16) for _ in range(2000)}) == 2000
    public = _crypto.kem_public(_crypto.kem_key(bytes(64)))
    pairs = [source.encapsulate(public) for _ in range(20)]
    assert len({ciphertext for ciphertext, _ in pairs}) == len({shared for _, shared in pairs}) == 20


FORKING = """
import os, sys
from agentmesh.primitives import _crypto
from agentmesh.primitives.entropy import SystemEntropy
from agentmesh.identity import Identity
from agentmesh.handshake.prekeys import BundleClass, issue_bundle

source = SystemEntropy()
source.token(32)  # the parent has drawn before, so that a kept pool would be shared
public = _crypto.kem_public(_crypto.kem_key(bytes(64)))
source.encapsulate(public)

def draw():
    identity = Identity.generate()
    bundle, kept = issue_bundle(
        identity, bundle_class=BundleClass.ONE_TIME, mesh="m", not_before_ms=0, not_after_ms=1, entropy=source
    )
    ciphertext, shared = source.encapsulate(public)
    found = [source.token(32), source.token(24), identity.seed.reveal(), kept.secrets.prekey_secret.reveal()]
    found += [kept.secrets.kem_seed.reveal(), ciphertext, shared, bundle]
    return "".join(value.hex() + "\\n" for value in found).encode()

pipes = []
for _ in range(6):
    reader, writer = os.pipe()
    if os.fork() == 0:
        with os.fdopen(writer, "wb") as out:
            out.write(draw())
        os._exit(0)
    os.close(writer)
    pipes.append(reader)
sys.stdout.write(draw().decode())
for reader in pipes:
    with os.fdopen(reader, "rb") as answers:
        sys.stdout.write(answers.read().decode())
for _ in pipes:
    assert os.wait()[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_forked_children_never_repeat_one_another() -> None:
    # In a process of its own, because the test runner has threads and a fork of those is not what is tested.
    result = subprocess.run(
        [sys.executable, "-c", FORKING],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    values = result.stdout.split()
    assert len(values) == 7 * 8  # six children and the parent, eight values each
    assert len(set(values)) == len(values)

"""Published vectors, through the library's own functions: what it accepts, what it refuses, and what it computes.

Those from RFCs and papers stand here. The large files do not: AGENTMESH_PUBLIC_VECTORS names the folder that holds them
(see `SOURCES`). Every count is asserted, so that an empty or a changed file fails.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgpack
import pytest

from agentmesh.errors import (
    AgentMeshError,
    ArgumentInvalid,
    BadIdentityKey,
    BadPoint,
    BadSignature,
    DecryptionFailed,
    Malformed,
)
from agentmesh.handshake.prekeys import verify_bundle
from agentmesh.identity import Identity, IdentityKey, sign_statement
from agentmesh.primitives import _crypto
from agentmesh.primitives._labels import SIGN_BUNDLE, HkdfInfo, KdfLabel, SignatureLabel
from agentmesh.primitives.keys import KemSeed

SOURCES = (
    "set AGENTMESH_PUBLIC_VECTORS to a folder with "
    "wycheproof/: ed25519_test.json, x25519_test.json, mlkem_768_test.json, mlkem_768_encaps_test.json, "
    "mlkem_768_keygen_seed_test.json, hmac_sha256_test.json, hkdf_sha256_test.json and chacha20_poly1305_test.json "
    "from testvectors_v1 of github.com/C2SP/wycheproof at commit dac1dd47; "
    "cctv/: ed25519vectors.json and ML-KEM-768.modulus.txt.gz of github.com/C2SP/CCTV at commit 1e3d2860; "
    "blake2/: blake2b-kat.json from testvectors of github.com/BLAKE2/BLAKE2 at commit ed1974ea"
)
NO_LABEL, NO_PERSON = SignatureLabel(b""), KdfLabel(b"")
P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P

h = bytes.fromhex


@pytest.fixture(scope="module")
def folder() -> Path:
    name = os.environ.get("AGENTMESH_PUBLIC_VECTORS")
    if not name:
        pytest.skip(SOURCES)
    return Path(name)


def cases(path: Path) -> Iterator[dict[str, Any]]:
    """The cases of a Wycheproof file, each with its group's fields."""
    parsed = json.loads(path.read_text("utf-8"))
    counted = 0
    for group in parsed["testGroups"]:
        for case in group["tests"]:
            counted += 1
            yield {"group": group, **case}
    assert counted == parsed["numberOfTests"]


def fingerprint(numbers: list[int]) -> str:
    return hashlib.sha256(",".join(map(str, numbers)).encode()).hexdigest()


def outcome(call: Any) -> type[AgentMeshError] | None:
    """The class of ours that a call raises, or None; anything foreign fails the test by itself."""
    try:
        call()
    except AgentMeshError as error:
        if error.__context__ is not None:
            raise
        return type(error)
    return None


# --- Ed25519 ----------------------------------------------------------------------------------------------------------

RFC_8032 = [  # section 7.1: seed, public key, message, signature
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24"
        "655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aee"
        "b00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28d"
        "c027beceea1ec40a",
    ),
    (
        "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        hashlib.sha512(b"abc").hexdigest(),
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17a"
        "d9bef1177331a704",
    ),
]


@pytest.mark.parametrize(("seed", "public", "message", "signature"), RFC_8032)
def test_rfc_8032(seed: str, public: str, message: str, signature: str) -> None:
    identity = Identity.from_seed(h(seed))
    assert identity.key.raw == h(public)
    assert identity.sign(NO_LABEL, h(message)) == h(signature)
    IdentityKey(h(public)).verify(NO_LABEL, h(message), h(signature))
    with pytest.raises(BadSignature):
        IdentityKey(h(public)).verify(NO_LABEL, h(message) + b"\x00", h(signature))


Point = tuple[int, int, int, int]  # extended coordinates, as RFC 8032, section 5.1.4 writes them
IDENTITY: Point = (0, 1, 1, 0)


def add(first: Point, second: Point) -> Point:
    a = (first[1] - first[0]) * (second[1] - second[0]) % P
    b = (first[1] + first[0]) * (second[1] + second[0]) % P
    c = 2 * first[3] * second[3] * D % P
    d = 2 * first[2] * second[2] % P
    e, f, g, i = b - a, d - c, d + c, b + a
    return e * f % P, g * i % P, f * g % P, e * i % P


def times(scalar: int, point: Point) -> Point:
    result = IDENTITY
    while scalar:
        if scalar & 1:
            result = add(result, point)
        point, scalar = add(point, point), scalar >> 1
    return result


def is_identity(point: Point) -> bool:
    return point[0] % P == 0 and (point[1] - point[2]) % P == 0


def encode(point: Point) -> bytes:
    inverse = pow(point[2], -1, P)
    x, y = point[0] * inverse % P, point[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def decode(data: bytes) -> Point | None:
    """RFC 8032, section 5.1.3, which refuses what is not canonical."""
    number = int.from_bytes(data, "little")
    y, sign = number & (1 << 255) - 1, number >> 255
    if y >= P:
        return None
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    if (x * x - square) % P or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = P - x
    return x, y, 1, x * y % P


BASE = decode((4 * pow(5, -1, P) % P).to_bytes(32, "little"))


@cache
def is_good_key(data: bytes) -> bool:
    """Section 1 of the protocol: canonical, in the prime-order subgroup, and not the identity."""
    point = decode(data)
    return point is not None and is_identity(times(L, point)) and not is_identity(point)


def is_valid(key: bytes, message: bytes, signature: bytes) -> bool:
    """Section 1 of the protocol, word for word."""
    point, r = decode(key), decode(signature[:32])
    if len(signature) != 64 or not is_good_key(key) or point is None or r is None or BASE is None:
        return False
    s = int.from_bytes(signature[32:], "little")
    if s >= L or is_identity(times(8, r)):
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + key + message).digest(), "little") % L
    return encode(add(times(s, BASE), times(L - k, point))) == signature[:32]


def test_the_reference_knows_good_from_bad() -> None:
    seed, public, message, signature = map(h, RFC_8032[1])
    assert seed
    assert is_valid(public, message, signature)
    assert not is_valid(public, message + b"\x00", signature)
    s = int.from_bytes(signature[32:], "little")
    assert not is_valid(public, message, signature[:32] + (s + L).to_bytes(32, "little"))
    assert not is_good_key(bytes(32))
    assert not is_good_key(b"\x01" + bytes(31))
    assert not is_good_key((P + 1).to_bytes(32, "little"))


# Whatever is marked with one of these breaks a clause of the rule. A residue, or a component of small order in R, is
# left over where [S]B - [k]A is not R byte for byte, since with a key of prime order both sides of that have none.
BREAKS_THE_RULE = {
    "low_order_A",
    "low_order_component_A",
    "non_canonical_A",
    "low_order_R",
    "low_order_component_R",
    "non_canonical_R",
    "low_order_residue",
}


def test_ed25519_edge_cases(folder: Path) -> None:
    vectors = json.loads((folder / "cctv/ed25519vectors.json").read_text("utf-8"))
    assert len(vectors) == 914
    flags = {flag for vector in vectors for flag in vector["flags"] or ()}
    assert flags == BREAKS_THE_RULE | {"reencoded_k"}
    expected = [vector["number"] for vector in vectors if not BREAKS_THE_RULE & set(vector["flags"] or ())]
    assert expected == [305]
    assert fingerprint(expected) == "090d3859ff6840b2280f4708cf08cdaed873d967183a4d1deedc1a7964a21eee"

    good_keys = {vector["key"]: is_good_key(h(vector["key"])) for vector in vectors}
    assert (len(good_keys), sum(good_keys.values())) == (22, 1)
    outcomes: dict[Any, int] = {}
    for vector in vectors:
        key, signature, message = h(vector["key"]), h(vector["sig"]), vector["msg"].encode()
        # Twice from different ends: the vectors' own description, and the rule computed on the bytes.
        assert is_valid(key, message, signature) is (vector["number"] in expected)
        got = outcome(lambda k=key, m=message, s=signature: IdentityKey(k).verify(NO_LABEL, m, s))
        want = None if vector["number"] in expected else BadSignature if good_keys[vector["key"]] else BadIdentityKey
        assert got is want, vector
        outcomes[got] = outcomes.get(got, 0) + 1
    assert outcomes == {None: 1, BadSignature: 27, BadIdentityKey: 886}


def test_ed25519_wycheproof(folder: Path) -> None:
    accepted, seen = [], 0
    for case in cases(folder / "wycheproof/ed25519_test.json"):
        seen += 1
        key, message, signature = h(case["group"]["publicKey"]["pk"]), h(case["msg"]), h(case["sig"])
        got = outcome(lambda k=key, m=message, s=signature: IdentityKey(k).verify(NO_LABEL, m, s))
        assert got is (None if case["result"] == "valid" else BadSignature), case["tcId"]
        assert is_valid(key, message, signature) is (got is None)
        if got is None:
            accepted.append(case["tcId"])
    assert seen == 151
    assert len(accepted) == 88
    assert fingerprint(accepted) == "943247c35454b68b8e9dfc27a2be013200e204b9bacf3cc47a95a6bc15fd4fd1"


# --- X25519 -----------------------------------------------------------------------------------------------------------


def test_rfc_7748() -> None:
    for scalar, u, shared in (
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",  # its top bit is to be masked
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
    ):
        assert _crypto.x25519(h(scalar), h(u)) == h(shared)
    # Section 6.1.
    alice = h("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    bob = h("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    alice_public = h("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
    bob_public = h("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
    shared_secret = h("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
    assert (_crypto.x25519_public(alice), _crypto.x25519_public(bob)) == (alice_public, bob_public)
    assert _crypto.x25519(alice, bob_public) == _crypto.x25519(bob, alice_public) == shared_secret


def test_rfc_7748_iterated() -> None:
    k = u = b"\x09" + bytes(31)
    for count in range(1, 1001):
        k, u = _crypto.x25519(k, u), k
        if count == 1:
            assert k == h("422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079")
    assert k == h("684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51")


def test_x25519_wycheproof(folder: Path) -> None:
    seen, refused, non_canonical = 0, [], 0
    for case in cases(folder / "wycheproof/x25519_test.json"):
        seen += 1
        secret, public = h(case["private"]), h(case["public"])
        is_zero = case["shared"] == "00" * 32
        assert is_zero is ("ZeroSharedSecret" in case["flags"])
        got = outcome(lambda s=secret, p=public: _crypto.x25519(s, p))
        assert got is (BadPoint if is_zero else None), case["tcId"]
        if is_zero:
            refused.append(case["tcId"])
        else:
            assert _crypto.x25519(secret, public) == h(case["shared"]), case["tcId"]
        canonical = int.from_bytes(public, "little") < P
        assert outcome(lambda p=public: _crypto.check_x25519_encoding(p)) is (None if canonical else BadPoint)
        if "NonCanonicalPublic" in case["flags"]:
            assert not canonical
        non_canonical += not canonical
    assert seen == 518
    assert len(refused) == 31
    assert fingerprint(refused) == "2b8a4adb43fa3ae02f315aca314c427bf586d259eee555fd9bd577487f95172f"
    assert non_canonical == 29


# --- ML-KEM-768 -------------------------------------------------------------------------------------------------------

BOB = Identity.from_seed(b"vectors!" * 4)


def offer(kem_key: bytes) -> type[AgentMeshError] | None:
    """What becomes of a bundle that carries this encapsulation key under a good signature."""
    body = msgpack.packb([1, 1, "m", BOB.key.raw, BOB.key.dh, kem_key, 0, 0])
    bundle = sign_statement(BOB, SIGN_BUNDLE, body)
    return outcome(lambda: verify_bundle(bundle, did=BOB.did, mesh="m", now_ms=0))


def test_ml_kem_decapsulation(folder: Path) -> None:
    outcomes: dict[Any, int] = {}
    for case in cases(folder / "wycheproof/mlkem_768_test.json"):
        seed, ciphertext = h(case["seed"]), h(case["c"])
        got = outcome(lambda s=seed, c=ciphertext: _crypto.kem_decapsulate(_crypto.kem_key(KemSeed(s).reveal()), c))
        want = None if case["result"] == "valid" else ArgumentInvalid if len(seed) != 64 else BadPoint
        assert got is want, case["tcId"]
        outcomes[got] = outcomes.get(got, 0) + 1
        if got is None:
            key = _crypto.kem_key(seed)
            assert _crypto.kem_decapsulate(key, ciphertext) == h(case["K"]), case["tcId"]
            assert _crypto.kem_public(key) == h(case["ek"])
    assert outcomes == {None: 153, ArgumentInvalid: 20, BadPoint: 20}


def test_ml_kem_encapsulation_keys(folder: Path) -> None:
    outcomes: dict[Any, int] = {}
    for case in cases(folder / "wycheproof/mlkem_768_encaps_test.json"):
        key = h(case["ek"])
        want = None if case["result"] == "valid" else BadPoint
        assert outcome(lambda k=key: _crypto.kem_check(k)) is want, case["tcId"]
        assert outcome(lambda k=key: _crypto.kem_encapsulate(k)) is want, case["tcId"]
        # In a bundle, a key of another length does not fit the layout and gets no further.
        assert offer(key) is (want if len(key) == 1184 else Malformed), case["tcId"]
        outcomes[want] = outcomes.get(want, 0) + 1
    assert outcomes == {None: 133, BadPoint: 132}


def test_ml_kem_keys_from_seeds(folder: Path) -> None:
    seen = 0
    for case in cases(folder / "wycheproof/mlkem_768_keygen_seed_test.json"):
        assert case["result"] == "valid"
        key = _crypto.kem_key(KemSeed(h(case["seed"])).reveal())
        assert _crypto.kem_public(key) == h(case["ek"]), case["tcId"]
        ciphertext, shared = _crypto.kem_encapsulate(h(case["ek"]))
        assert _crypto.kem_decapsulate(key, ciphertext) == shared
        seen += 1
    assert seen == 100


def test_ml_kem_keys_with_an_unreduced_coefficient(folder: Path) -> None:
    keys = gzip.decompress((folder / "cctv/ML-KEM-768.modulus.txt.gz").read_bytes()).decode("ascii").split()
    assert (len(keys), len(set(keys))) == (780, 778)
    for key in map(h, keys):
        assert len(key) == 1184
        assert outcome(lambda k=key: _crypto.kem_check(k)) is BadPoint
        assert outcome(lambda k=key: _crypto.kem_encapsulate(k)) is BadPoint
        assert offer(key) is BadPoint


# --- hashes -----------------------------------------------------------------------------------------------------------


def test_rfc_7693() -> None:
    assert _crypto.kdf(b"", NO_PERSON, b"abc", 64) == h(
        "ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d17d87c5392aab792dc252d5de4533cc9518d38aa8dbf1925a"
        "b92386edd4009923"
    )


def test_blake2b_known_answers(folder: Path) -> None:
    vectors = json.loads((folder / "blake2/blake2b-kat.json").read_text("utf-8"))
    keyed = 0
    for vector in vectors:
        assert vector["hash"] == "blake2b"
        assert _crypto.kdf(h(vector["key"]), NO_PERSON, h(vector["in"]), 64) == h(vector["out"])
        # An empty personalisation is none, and a label is something else.
        assert _crypto.kdf(h(vector["key"]), KdfLabel(b"am1-chain"), h(vector["in"]), 64) != h(vector["out"])
        keyed += bool(vector["key"])
    assert (len(vectors), keyed) == (512, 256)


@pytest.mark.parametrize(
    ("data", "digest"),
    [
        (b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (
            b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
        ),
        (b"a" * 1_000_000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
    ],
    ids=["empty", "abc", "448 bits", "a million"],
)
def test_fips_180_4(data: bytes, digest: str) -> None:
    assert _crypto.sha256(data) == h(digest)
    for cut in (0, 1, len(data) // 2, len(data)):
        assert _crypto.sha256_of_two(data[:cut], data[cut:]) == h(digest)


# --- XSalsa20-Poly1305 ------------------------------------------------------------------------------------------------


def test_nacl_secretbox() -> None:
    """The example of "Cryptography in NaCl", sections 7 to 10."""
    key = h("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389")
    nonce = h("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37")
    message = h(
        "be075fc53c81f2d5cf141316ebeb0c7b5228c52a4c62cbd44b66849b64244ffce5ecbaaf33bd751a1ac728d45e6c61296cdc3c01233561f4"
        "1db66cce314adb310e3be8250c46f06dceea3a7fa1348057e2f6556ad6b1318a024a838f21af1fde048977eb48f59ffd4924ca1c60902e52"
        "f0a089bc76897040e082f937763848645e0705"
    )
    box = h(
        "f3ffc7703f9400e52a7dfb4b3d3305d98e993b9f48681273c29650ba32fc76ce48332ea7164d96a4476fb8c531a1186ac0dfc17c98dce87b"
        "4da7f011ec48c97271d2c20f9b928fe2270d6fb863d51738b48eeee314a7cc8ab932164548e526ae90224368517acfeabd6bb3732bc0e9da"
        "99832b61ca01b6de56244a9e88d5f9b37973f622a43d14a6599b1f654cb45a74e355a5"
    )
    assert _crypto.secretbox(message, nonce, key) == box
    assert _crypto.secretbox_open(box, nonce, key) == message
    with pytest.raises(DecryptionFailed):
        _crypto.secretbox_open(box[:-1] + bytes([box[-1] ^ 1]), nonce, key)


# --- what AGT's protocol takes: HMAC and HKDF with SHA-256, ChaCha20-Poly1305 -----------------------------------------


@pytest.mark.parametrize(
    ("key", "data", "tag"),
    [
        ("0b" * 20, b"Hi There".hex(), "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
        (
            b"Jefe".hex(),
            b"what do ya want for nothing?".hex(),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        ),
        ("aa" * 20, "dd" * 50, "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
        (
            "aa" * 131,
            b"Test Using Larger Than Block-Size Key - Hash Key First".hex(),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        ),
    ],
)
def test_rfc_4231(key: str, data: str, tag: str) -> None:
    assert _crypto.hmac_sha256(h(key), h(data)) == h(tag)


@pytest.mark.parametrize(
    ("ikm", "salt", "info", "okm"),
    [
        (
            "0b" * 22,
            "000102030405060708090a0b0c",
            "f0f1f2f3f4f5f6f7f8f9",
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (
            bytes(range(0x50)).hex(),
            bytes(range(0x60, 0xB0)).hex(),
            bytes(range(0xB0, 0x100)).hex(),
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09da3275600c2f09"
            "b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
        ),
        (
            "0b" * 22,
            "",
            "",
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
    ],
    ids=["A.1", "A.2", "A.3"],
)
def test_rfc_5869(ikm: str, salt: str, info: str, okm: str) -> None:
    assert _crypto.hkdf_sha256(h(ikm), h(salt), HkdfInfo(h(info)), len(okm) // 2) == h(okm)


def test_rfc_8439() -> None:
    """Section 2.8.2, and the appendix A.5."""
    key, nonce, aad = (
        h("808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f"),
        h("070000004041424344454647"),
        h("50515253c0c1c2c3c4c5c6c7"),
    )
    plaintext = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
        b"sunscreen would be it."
    )
    sealed = h(
        "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b1a71de0a9e060b29"
        "05d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc3ff4def08e4b7a9de576d26586cec64b"
        "61161ae10b594f09e26a7e902ecbd0600691"
    )
    assert _crypto.chacha20poly1305_seal(key, nonce, plaintext, aad) == sealed
    assert _crypto.chacha20poly1305_open(key, nonce, sealed, aad) == plaintext
    opened = _crypto.chacha20poly1305_open(
        h("1c9240a5eb55d38af333888604f6b5f0473917c1402b80099dca5cbc207075c0"),
        h("000000000102030405060708"),
        h(
            "64a0861575861af460f062c79be643bd5e805cfd345cf389f108670ac76c8cb24c6cfc18755d43eea09ee94e382d26b0bdb7b73c321b01"
            "00d4f03b7f355894cf332f830e710b97ce98c8a84abd0b948114ad176e008d33bd60f982b1ff37c8559797a06ef4f0ef61c186324e2b35"
            "06383606907b6a7c02b0f9f6157b53c867e4b9166c767b804d46a59b5216cde7a4e99040c5a40433225ee282a1b0a06c523eaf4534d7f8"
            "3fa1155b0047718cbc546a0d072b04b3564eea1b422273f548271a0bb2316053fa76991955ebd63159434ecebb4e466dae5a1073a67276"
            "27097a1049e617d91d361094fa68f0ff77987130305beaba2eda04df997b714d6c6f2c29a6ad5cb4022b02709b"
            "eead9d67890cbb22392336fea1851f38"
        ),
        h("f33388860000000000004e91"),
    )
    assert opened.startswith(b"Internet-Drafts are draft documents valid for a maximum of six months")
    assert len(opened) == 265


def test_hmac_sha256_wycheproof(folder: Path) -> None:
    outcomes = {"valid": 0, "invalid": 0}
    for case in cases(folder / "wycheproof/hmac_sha256_test.json"):
        tag = _crypto.hmac_sha256(h(case["key"]), h(case["msg"]))[: case["group"]["tagSize"] // 8]
        assert (tag == h(case["tag"])) is (case["result"] == "valid"), case["tcId"]
        outcomes[case["result"]] += 1
    assert outcomes == {"valid": 66, "invalid": 108}


def test_hkdf_sha256_wycheproof(folder: Path) -> None:
    outcomes = {"valid": 0, "invalid": 0}
    for case in cases(folder / "wycheproof/hkdf_sha256_test.json"):
        arguments = (h(case["ikm"]), h(case["salt"]), HkdfInfo(h(case["info"])), case["size"])
        outcomes[case["result"]] += 1
        if case["result"] == "valid":
            assert _crypto.hkdf_sha256(*arguments) == h(case["okm"]), case["tcId"]
            continue
        assert case["size"] == 8161  # the caller's own number: one that is too large is a fault of ours
        with pytest.raises(ValueError, match="8160"):
            _crypto.hkdf_sha256(*arguments)
    assert outcomes == {"valid": 83, "invalid": 3}


def test_chacha20_poly1305_wycheproof(folder: Path) -> None:
    outcomes: dict[Any, int] = {}
    for case in cases(folder / "wycheproof/chacha20_poly1305_test.json"):
        key, nonce, aad, plaintext = (h(case[name]) for name in ("key", "iv", "aad", "msg"))
        sealed = h(case["ct"] + case["tag"])
        got = outcome(lambda k=key, n=nonce, s=sealed, a=aad: _crypto.chacha20poly1305_open(k, n, s, a))
        assert got is (None if case["result"] == "valid" else DecryptionFailed), case["tcId"]
        outcomes[got] = outcomes.get(got, 0) + 1
        if got is None:
            assert _crypto.chacha20poly1305_open(key, nonce, sealed, aad) == plaintext
            assert _crypto.chacha20poly1305_seal(key, nonce, plaintext, aad) == sealed
    assert outcomes == {None: 256, DecryptionFailed: 69}

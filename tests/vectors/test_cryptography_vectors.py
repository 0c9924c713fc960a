"""Known answers that the PyPI package cryptography-vectors carries, through the library's own functions.

Ed25519: the 1,024 of the Ed25519 authors' sign.input. ML-KEM-768: the 1,000 of kat_MLKEM_768.rsp, each with a key pair,
a ciphertext and one that is to be rejected implicitly (FIPS 203).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agentmesh.errors import BadSignature
from agentmesh.identity import IdentityKey
from agentmesh.primitives import _crypto

package = pytest.importorskip("cryptography_vectors", reason="pip install cryptography-vectors (56 MB) to run these")
FOLDER = Path(str(package.__file__)).parent / "asymmetric"


def signatures() -> Iterator[tuple[bytes, bytes, bytes, bytes]]:
    for line in (FOLDER / "Ed25519" / "sign.input").read_text(encoding="ascii").splitlines():
        seed_and_key, key, message, signed = (bytes.fromhex(part) for part in line.split(":")[:4])
        assert seed_and_key[32:] == key
        yield seed_and_key[:32], key, message, signed[:64]


def test_the_1024_signatures_of_the_ed25519_authors() -> None:
    count = 0
    for seed, key, message, signature in signatures():
        public, signing_key = _crypto.ed25519_keypair(seed)
        assert public == key
        assert _crypto.ed25519_sign(signing_key, message) == signature
        IdentityKey(key)
        _crypto.ed25519_verify(key, message, signature)
        with pytest.raises(BadSignature):
            _crypto.ed25519_verify(key, message + b"\x00", signature)
        count += 1
    assert count == 1024


def known_answers() -> Iterator[dict[str, bytes]]:
    text = (FOLDER / "MLKEM" / "kat_MLKEM_768.rsp").read_text(encoding="ascii")
    for block in text.split("count = ")[1:]:
        pairs = (line.split(" = ", 1) for line in block.splitlines() if " = " in line)
        yield {name.strip(): bytes.fromhex(value) for name, value in pairs}


def test_the_1000_known_answers_of_ml_kem_768() -> None:
    count = 0
    for answer in known_answers():
        key = _crypto.kem_key(answer["d"] + answer["z"])
        assert _crypto.kem_public(key) == answer["pk"]
        assert _crypto.kem_decapsulate(key, answer["ct"]) == answer["ss"]
        assert _crypto.kem_decapsulate(key, answer["ct_n"]) == answer["ss_n"]
        count += 1
    assert count == 1000

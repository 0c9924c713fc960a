"""AGT's registry: captured requests made again byte for byte, and bundles held to the DID they were asked for."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh.agt.encoding import read_timestamp, std64, timestamp, unbase64, url64, write_object
from agentmesh.agt.registry import (
    FetchedBundle,
    HttpRequest,
    OneTimePublic,
    describe,
    discover,
    fetch,
    heartbeat,
    presence,
    read_answer,
    read_bundle,
    registration,
    reputation,
    sign_prekey,
    upload,
    withdrawal,
)
from agentmesh.agt_identity import AgtIdentity, mesh_did_of
from agentmesh.errors import (
    ArgumentInvalid,
    BadIdentityKey,
    BadPoint,
    BadSignature,
    BundleIdentityMismatch,
    LocalError,
    Malformed,
    RegistryRefused,
    RemoteError,
    TooLarge,
)
from agentmesh.primitives.keys import X25519PublicKey

VECTORS = Path(__file__).resolve().parents[2] / "vectors" / "agt"
KATS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(VECTORS.glob("kat-*.json"))}
CAPTURED = [
    pytest.param(kat, http, id=f"{name}-{number}-{http['method']}")
    for name, kat in KATS.items()
    for number, http in enumerate(kat["http"])
]
MAX = 1 << 20
P = 2**255 - 19

ALICE, BOB = (AgtIdentity.from_seed(bytes([seed]) * 32) for seed in (1, 2))
NOW_MS = 1_787_552_282_472


def header_of(request: HttpRequest) -> tuple[str, str, str, str]:
    scheme, did, time, signature = request.headers["Authorization"].split(" ")
    return scheme, did, time, signature


# --- requests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kat", "http"), CAPTURED)
def test_a_captured_request_is_made_again(kat: dict[str, Any], http: dict[str, Any]) -> None:
    # Bodies are compared byte for byte, and headers; of paths some clients quote the colons.
    body = json.loads(http["body"]) if http["body"] else {}
    key = body.get("public_key") or body.get("identity_key_ed")
    identity = next(
        AgtIdentity.from_seed(bytes.fromhex(kat[side]["ed25519_seed"]))
        for side in ("initiator", "responder")
        if key is None or key in (url64(bytes.fromhex(kat[side][f"{kind}_public"])) for kind in ("ed25519", "x25519"))
    )
    now_ms = read_timestamp(http["authorization"].split(" ")[2]) if http["authorization"] else NOW_MS
    if http["method"] == "POST":
        made = registration(
            identity,
            read_timestamp(body["proof_timestamp"]) if "proof" in body else NOW_MS,
            capabilities=body["capabilities"],
            metadata=body["metadata"],
        )
    elif http["method"] == "PUT":
        signed = body["signed_pre_key"]
        made = upload(
            identity,
            now_ms,
            sign_prekey(identity, signed["key_id"], X25519PublicKey(unbase64(signed["public_key"]))),
            [OneTimePublic(one["key_id"], unbase64(one["public_key"])) for one in body["one_time_pre_keys"]],
        )
    else:
        made = fetch(unquote(http["path"]).split("/")[3])
    assert (made.method, made.path) == (http["method"], unquote(http["path"]))
    if kat["legacy_kdf"] and http["method"] == "POST":
        assert "proof" not in body  # a release without proofs: today's registry refuses it
        return
    assert made.body.decode() == http["body"]
    if http["method"] == "PUT" and http["authorization"]:
        assert made.headers["Authorization"] == http["authorization"]


def test_the_proof_is_over_the_texts_as_sent() -> None:
    request = registration(ALICE, NOW_MS)
    body = json.loads(request.body)
    assert list(body) == ["public_key", "proof", "proof_timestamp", "capabilities", "metadata"]
    assert (body["capabilities"], body["metadata"]) == ([], {})
    assert body["public_key"] == url64(ALICE.key.raw)
    ALICE.key.verify_bare((body["public_key"] + body["proof_timestamp"]).encode(), unbase64(body["proof"], 64))
    assert request.headers == {"Content-Type": "application/json"}
    assert not {"+", "/", "="} & set(body["public_key"] + body["proof"])


@given(st.integers(0, 253_402_300_799_999))
def test_authorization_is_over_the_time_alone(now_ms: int) -> None:
    one = OneTimePublic(0, ALICE.key.dh)
    for request in (
        heartbeat(ALICE, now_ms),
        withdrawal(ALICE, now_ms),
        reputation(ALICE, now_ms, BOB.did, 0.5, "kind"),
        upload(ALICE, now_ms, sign_prekey(ALICE, 0, ALICE.key.dh), [one]),
    ):
        scheme, did, time, signature = header_of(request)
        assert (scheme, did, time) == ("Ed25519-Timestamp", ALICE.did, timestamp(now_ms))
        ALICE.key.verify_bare(time.encode(), unbase64(signature, 64))
        assert ("Content-Type" in request.headers) is bool(request.body)


def test_requests_go_where_the_registry_has_them() -> None:
    base = f"/v1/agents/{BOB.did}"
    assert fetch(BOB.did) == HttpRequest("GET", base + "/prekeys", {}, b"")
    assert describe(BOB.did) == HttpRequest("GET", base)
    assert presence(BOB.did) == HttpRequest("GET", base + "/presence")
    own = f"/v1/agents/{ALICE.did}"
    assert (heartbeat(ALICE, 0).method, heartbeat(ALICE, 0).path) == ("POST", own + "/heartbeat")
    assert (withdrawal(ALICE, 0).method, withdrawal(ALICE, 0).path) == ("DELETE", own)
    rated = reputation(ALICE, 0, BOB.did, 0.25, "kind")
    assert (rated.method, rated.path, rated.body) == ("POST", base + "/reputation", b'{"score":0.25,"reason":"kind"}')


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=30), st.integers(1, 200))
def test_a_search_is_for_what_was_asked(capability: str, limit: int) -> None:
    path = urlsplit(discover(capability, limit).path)
    assert path.path == "/v1/discover"
    assert parse_qs(path.query, strict_parsing=True, separator="&") == {
        "capability": [capability],
        "limit": [str(limit)],
    }
    assert discover(capability).path.endswith("&limit=20")


@pytest.mark.parametrize("did", ["", None, 5, "did:agentmesh:" + "2" * 27, BOB.did + "/../x", BOB.did.upper()])
def test_what_is_no_did_is_not_asked_for(did: Any) -> None:
    for make in (fetch, describe, presence):
        with pytest.raises(ArgumentInvalid):
            make(did)
    with pytest.raises(ArgumentInvalid):
        read_bundle(did, b"{}", MAX)
    with pytest.raises(ArgumentInvalid):
        reputation(ALICE, 0, did, 1, "")


@pytest.mark.parametrize(
    "call",
    [
        lambda: discover(""),
        lambda: discover("x" * 129),
        lambda: discover("x", 0),
        lambda: discover("x", 201),
        lambda: discover("\ud800"),
        lambda: registration(ALICE, 0, capabilities="one"),
        lambda: registration(ALICE, 0, capabilities=[""]),
        lambda: registration(ALICE, 0, capabilities=["x"] * 65),
        lambda: registration(ALICE, 0, metadata={"x": 1}),  # type: ignore[dict-item]
        lambda: registration(ALICE, 0, metadata={1: "x"}),  # type: ignore[dict-item]
        lambda: registration(ALICE, 0, metadata=["x"]),  # type: ignore[arg-type]
        lambda: registration(ALICE, 0, metadata={str(one): "" for one in range(65)}),
        lambda: registration(ALICE, -1),
        lambda: sign_prekey(ALICE, -1, ALICE.key.dh),
        lambda: sign_prekey(ALICE, 2**32, ALICE.key.dh),
        lambda: upload(ALICE, 0, sign_prekey(ALICE, 0, ALICE.key.dh), [OneTimePublic(2**32, ALICE.key.dh)]),
        lambda: reputation(ALICE, 0, ALICE.did, 1, ""),
        lambda: reputation(ALICE, 0, BOB.did, 1.5, ""),
        lambda: reputation(ALICE, 0, BOB.did, -0.1, ""),
        lambda: reputation(ALICE, 0, BOB.did, float("nan"), ""),
        lambda: reputation(ALICE, 0, BOB.did, True, ""),
        lambda: reputation(ALICE, 0, BOB.did, 1, "x" * 1025),
        lambda: read_answer(200, b"{}", None),  # type: ignore[arg-type]
        lambda: read_answer(-1, b"", MAX),
        lambda: read_answer(True, b"", MAX),
        lambda: read_answer(200, "{}", MAX),  # type: ignore[arg-type]
        lambda: read_bundle(BOB.did, None, MAX),  # type: ignore[arg-type]
    ],
)
def test_a_mistaken_call_is_the_callers(call: Any) -> None:
    with pytest.raises(ArgumentInvalid):
        call()


def test_a_request_prints_neither_its_proof_nor_its_header() -> None:
    for request in (registration(ALICE, NOW_MS), heartbeat(ALICE, NOW_MS)):
        assert "Timestamp" not in repr(request)
        assert "proof" not in repr(request)
        assert request.path in repr(request)


# --- bundles ----------------------------------------------------------------------------------------------------------


def bundle_of(identity: AgtIdentity, *, write: Any = url64) -> dict[str, Any]:
    return {
        "identity_key": write(identity.key.dh),
        "identity_key_ed": write(identity.key.raw),
        "signed_pre_key": {
            "key_id": 0,
            "public_key": write(BOB.key.dh),
            "signature": write(identity.sign(BOB.key.dh)),
        },
        "one_time_pre_key": {"key_id": 0, "public_key": write(ALICE.key.dh)},
    }


def read(bundle: dict[str, Any], did: str = ALICE.did) -> FetchedBundle:
    return read_bundle(did, json.dumps(bundle).encode(), MAX)


@pytest.mark.parametrize(
    ("kat", "http"),
    [case for case in CAPTURED if case.values[1]["method"] == "GET"],  # type: ignore[index]
)
def test_a_captured_bundle_is_read(kat: dict[str, Any], http: dict[str, Any]) -> None:
    side = kat["responder"]
    bundle = read_bundle(side["did"], http["response"].encode(), MAX)
    assert (bundle.key.did, bundle.key.raw.hex()) == (side["did"], side["ed25519_public"])
    assert (bundle.signed_id, bundle.signed.hex()) == (0, side["signed_pre_key"]["public"])
    assert (bundle.one_time_id, bundle.one_time.hex()) == (0, side["one_time_pre_keys"][0]["public"])  # type: ignore[union-attr]
    assert read_answer(200, http["response"].encode(), MAX) == json.loads(http["response"])


@pytest.mark.parametrize(
    "write",
    [std64, url64, lambda data: std64(data).rstrip("="), lambda data: url64(data) + "=" * (-len(data) % 3)],
)  # fmt: skip
def test_a_bundle_is_read_in_every_flavour(write: Any) -> None:
    bundle = read(bundle_of(ALICE, write=write))
    assert bundle == FetchedBundle(ALICE.key, 0, BOB.key.dh, 0, ALICE.key.dh)


def test_a_bundle_may_have_no_one_time_prekey() -> None:
    empty, without = bundle_of(ALICE), bundle_of(ALICE)
    empty["one_time_pre_key"] = None
    del without["one_time_pre_key"]
    for bundle in (read(empty), read(without)):
        assert (bundle.one_time_id, bundle.one_time) == (None, None)


def test_a_bundle_of_another_identity_is_refused() -> None:
    mallory = AgtIdentity.from_seed(b"m" * 32)
    with pytest.raises(BundleIdentityMismatch):
        read(bundle_of(mallory))  # whole and rightly signed, by another
    theirs = {**bundle_of(ALICE), "identity_key": url64(mallory.key.dh)}
    with pytest.raises(BundleIdentityMismatch):
        read(theirs)
    with pytest.raises(BundleIdentityMismatch):
        read(bundle_of(ALICE), BOB.did)
    swapped = {**bundle_of(ALICE), "signed_pre_key": bundle_of(mallory)["signed_pre_key"]}
    with pytest.raises(BadSignature):
        read(swapped)


def test_a_signature_is_the_whole_prekeys() -> None:
    for message in (b"", BOB.key.dh[:31], BOB.key.dh + b"x", url64(BOB.key.dh).encode()):
        bundle = bundle_of(ALICE)
        bundle["signed_pre_key"]["signature"] = url64(ALICE.sign(message))
        with pytest.raises(BadSignature):
            read(bundle)


def test_a_key_that_no_honest_agent_has_is_refused() -> None:
    for raw in (bytes(32), b"\x01" + bytes(31), (P + 1).to_bytes(32, "little")):
        with pytest.raises(BadIdentityKey):
            read({**bundle_of(ALICE), "identity_key_ed": url64(raw)}, mesh_did_of(raw))


NOT_KEYS = [None, 5, "", True, [], {}, url64(bytes(31)), url64(bytes(33)), url64(bytes([7] * 32))[:-1] + "d"]
NOT_POINTS = [url64((P + 1).to_bytes(32, "little")), url64(b"\xff" * 32)]
NOT_IDS = [None, -1, 2**32, True, 0.0, "0", []]
SIGNED, ONE_TIME = "signed_pre_key", "one_time_pre_key"
REFUSED = [
    *((path, value, Malformed) for path in ("identity_key", "identity_key_ed") for value in NOT_KEYS),
    *((f"{name}.public_key", value, Malformed) for name in (SIGNED, ONE_TIME) for value in NOT_KEYS),
    *((f"{name}.public_key", value, BadPoint) for name in (SIGNED, ONE_TIME) for value in NOT_POINTS),
    *((f"{name}.key_id", value, Malformed) for name in (SIGNED, ONE_TIME) for value in NOT_IDS),
    *((f"{SIGNED}.signature", value, Malformed) for value in (None, 5, "", url64(bytes(63)), url64(bytes(65)))),
    *((SIGNED, value, Malformed) for value in (None, 5, "x", [], True)),
    *((ONE_TIME, value, Malformed) for value in (5, "x", [], True, False, 0, "", {})),
]


@pytest.mark.parametrize(("path", "value", "error"), REFUSED)
def test_a_field_out_of_its_form_is_refused(path: str, value: Any, error: type[RemoteError]) -> None:
    bundle = bundle_of(ALICE)
    *parents, name = path.split(".")
    inner = bundle[parents[0]] if parents else bundle
    inner[name] = value
    with pytest.raises(error) as refused:
        read(bundle)
    assert type(refused.value) is error
    if value is None and path != ONE_TIME:
        del inner[name]
        with pytest.raises(error):
            read(bundle)


@given(st.integers(0, 10_000), st.integers(0, 4), st.binary(max_size=3))
def test_any_mutation_is_refused_typed_or_of_the_same_identity(at: int, cut: int, put: bytes) -> None:
    data = write_object(bundle_of(ALICE))
    at %= len(data)
    with contextlib.suppress(RemoteError):
        bundle = read_bundle(ALICE.did, data[:at] + put + data[at + cut :], MAX)
        assert (bundle.key, bundle.signed) == (ALICE.key, BOB.key.dh)


def test_a_bundle_over_the_limit_is_refused_by_its_size() -> None:
    data = write_object(bundle_of(ALICE))
    with pytest.raises(TooLarge):
        read_bundle(ALICE.did, data, len(data) - 1)


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [0, 199, 300, 301, 400, 401, 403, 404, 409, 418, 422, 429, 500, 503, 999])
def test_a_refusal_says_its_status_and_nothing_of_the_registrys(status: int) -> None:
    for body in (b'{"detail":"REGISTRY"}', b"REGISTRY", b"x" * (MAX + 1)):
        with pytest.raises(RegistryRefused) as refused:
            read_answer(status, body, MAX)
        assert isinstance(refused.value, LocalError)
        assert refused.value.status == status
        assert str(status) in str(refused.value)
        assert "REGISTRY" not in str(refused.value)


def test_known_refusals_say_what_they_mean() -> None:
    for status in (400, 401, 403, 404, 409, 422, 429, 500, 503):
        with pytest.raises(RegistryRefused) as refused:
            read_answer(status, b"", MAX)
        assert refused.value.why
        assert refused.value.why in str(refused.value)


def test_success_is_read_strictly() -> None:
    assert read_answer(200, b'{"a":1}', MAX) == {"a": 1}
    assert read_answer(204, b"", MAX) == {}
    with pytest.raises(Malformed):
        read_answer(200, b"[]", MAX)
    with pytest.raises(TooLarge):
        read_answer(200, b'{"a":1}', 6)

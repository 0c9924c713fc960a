"""The operations of vectors/README.md."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable

from verifier import attachment, audit_disclosure, audit_log, audit_record, audit_tree, trust_statements
from verifier.agent import Agent
from verifier.common import KNOCK, LIMITS, MESSAGE_MIN_BYTES, Json, Refused, Trace, Unusable, limits_of, refuse, unhex
from verifier.encoding import encode
from verifier.epochs import encapsulated_of
from verifier.gate import Gate
from verifier.handshake import (
    ALL_KEYS,
    build_reject,
    initiate,
    open_intent,
    parse_knock,
    respond,
    signed_header,
    transcript_hash,
)
from verifier.primitives import (
    agree,
    check_kem_key,
    decapsulate,
    kdf,
    kdf_chain,
    kdf_root,
    kem_public,
    label_of,
    open_sealed,
    pad,
    padme,
    personalisation,
    seal,
    to_x25519,
    unpad,
    verify,
    x25519_public,
)
from verifier.ratchet import Ratchet, ratchet_in, ratchet_out
from verifier.session import Session
from verifier.structures import Identity, did_of, encode_header, parse_did, parse_envelope, verify_bundle
from verifier.trust_graph import GraphRun
from verifier.trust_ledger import LedgerRun
from verifier.trust_lists import ContinuityRun, RevocationRun


def did_derive(given: Json, trace: Trace) -> Json:
    """did.derive."""
    key = unhex(given["public_key"])
    trace["sha256"] = hashlib.sha256(key).digest()
    trace["hash"] = trace["sha256"][:20]
    return {"did": did_of(key)}


def keys_identity(given: Json, trace: Trace) -> Json:
    """keys.identity."""
    own = Identity(unhex(given["seed"]))
    trace["sha512_first_half"] = hashlib.sha512(own.seed).digest()[:32]
    return {
        "public_key": own.key,
        "did": own.did,
        "x25519_secret": own.dh_secret,
        "x25519_public": x25519_public(own.dh_secret),
    }


def keys_sign(given: Json, trace: Trace) -> Json:
    """keys.sign."""
    body = unhex(given["body"])
    trace["signed"] = label_of(given["label"]) + body
    return {"signature": Identity(unhex(given["seed"])).sign(given["label"], body)}


def keys_verify(given: Json, _: Trace) -> Json:
    """keys.verify."""
    verify(unhex(given["public_key"]), given["label"], unhex(given["body"]), unhex(given["signature"]))
    return {}


def keys_kem_check(given: Json, _: Trace) -> Json:
    """keys.kem_check."""
    check_kem_key(unhex(given["kem_key"]))
    return {}


def kdf_hash(given: Json, trace: Trace) -> Json:
    """kdf.hash."""
    trace["personalisation"] = personalisation(given["label"])
    return {"derived": kdf(unhex(given["key"]), given["label"], unhex(given["data"]), given["length"])}


def aead_seal(given: Json, trace: Trace) -> Json:
    """aead.seal."""
    key, context, plaintext, nonce = (unhex(given[name]) for name in ("key", "context", "plaintext", "nonce"))
    return {"sealed": seal(key, given["label"], context, plaintext, nonce, trace)}


def aead_open(given: Json, trace: Trace) -> Json:
    """aead.open."""
    key, context, sealed = (unhex(given[name]) for name in ("key", "context", "sealed"))
    return {"plaintext": open_sealed(key, given["label"], context, sealed, trace)}


def bundle_issue(given: Json, trace: Trace) -> Json:
    """bundle.issue."""
    own = Identity(unhex(given["identity_seed"]))
    prekey, kem_key = x25519_public(unhex(given["prekey_secret"])), kem_public(unhex(given["kem_seed"]))
    validity = given["not_before_ms"], given["not_after_ms"]
    body = encode([1, given["class"], given["mesh"], own.key, prekey, kem_key, *validity])
    signature = own.sign("bundle", body)
    trace |= {"identity": own.key, "prekey": prekey, "body": body}
    trace |= {"signed": label_of("bundle") + body, "signature": signature}
    return {"bundle": encode([body, signature]), "bundle_ref": hashlib.sha256(body).digest()}


def bundle_verify(given: Json, _: Trace) -> Json:
    """bundle.verify."""
    bundle = verify_bundle(unhex(given["bundle"]), given["did"], given["mesh"], given["now_ms"])
    return {
        "class": bundle.bundle_class,
        "identity": bundle.identity,
        "prekey": bundle.prekey,
        "kem_key": bundle.kem_key,
        "not_before_ms": bundle.not_before,
        "not_after_ms": bundle.not_after,
        "bundle_ref": bundle.ref,
    }


def handshake_initiate(given: Json, trace: Trace) -> Json:
    """handshake.initiate."""
    _, ek, keys = initiate(given, given["now_ms"], trace)
    return {"ephemeral": ek} | keys.named(*ALL_KEYS)


def handshake_respond(given: Json, trace: Trace) -> Json:
    """handshake.respond."""
    own, mesh, expires = Identity(unhex(given["identity_seed"])), given["mesh"], given["expires_ms"]
    names = ("initiator", "bundle_ref", "ephemeral", "kem_ciphertext", "prekey_secret", "kem_seed")
    initiator, ref, ek, ct, prekey, seed = (unhex(given[name]) for name in names)
    th = transcript_hash(mesh, initiator, own.key, ref, ek, ct, expires, trace)
    return respond(own, initiator, ek, ct, th, prekey, seed, trace).named(*ALL_KEYS)


def envelope_build(given: Json, _: Trace) -> Json:
    """envelope.build."""
    header = encode_header(*(given[name] for name in ("kind", "mesh", "sender", "recipient", "time_ms")))
    return {"header": header, "envelope": encode([header, unhex(given["body"])])}


def envelope_parse(given: Json, _: Trace) -> Json:
    """envelope.parse."""
    envelope = parse_envelope(unhex(given["envelope"]), limits_of(given))
    return {
        "kind": envelope.kind,
        "mesh": envelope.mesh,
        "sender": envelope.sender,
        "recipient": envelope.recipient,
        "time_ms": envelope.time,
        "header": envelope.header,
        "body": envelope.body,
    }


def receipt_compute(given: Json, trace: Trace) -> Json:
    """receipt.compute."""
    envelope = parse_envelope(unhex(given["envelope"]), limits_of(given))
    trace["hashed"] = label_of("receipt") + envelope.data
    return {"receipt": envelope.receipt}


def knock_build(given: Json, trace: Trace) -> Json:
    """knock.build."""
    own, mesh, expires = Identity(unhex(given["identity_seed"])), given["mesh"], given["expires_ms"]
    bundle, ek, keys = initiate(given, given["time_ms"], trace)
    header = encode_header(KNOCK, mesh, own.did, given["did"], given["time_ms"])
    early_payload = None if given["early_payload"] is None else unhex(given["early_payload"])
    intent = [given["action"], given["capabilities"], unhex(given["detail"])]
    content = encode([intent, early_payload, given["fresh"]])
    sealed = seal(keys.intent_key, "am1-intent", header, pad(content), unhex(given["nonce"]), {})
    inner = encode([own.key, bundle.ref, ek, unhex(given["kem_ciphertext"]), expires, sealed])
    signature = own.sign("knock", signed_header(header, inner))
    trace |= {"header": header, "content": content, "padded": pad(content), "sealed": sealed}
    trace |= {"inner": inner, "signature": signature}
    data = encode([header, encode([inner, signature])])
    receipt = parse_envelope(data, LIMITS).receipt
    return {"envelope": data, "receipt": receipt, "ephemeral": ek} | keys.named(*ALL_KEYS)


def reject_build(given: Json, trace: Trace) -> Json:
    """reject.build."""
    own, receipt = Identity(unhex(given["identity_seed"])), unhex(given["knock_receipt"])
    recipient, time, reason, retry = (given[k] for k in ("recipient", "time_ms", "reason", "retry_after_seconds"))
    return {"envelope": build_reject(own, given["mesh"], recipient, time, receipt, reason, retry, trace)}


Step = Callable[[Json, Trace], Json]
SKIPPED_SHOWN = 16  # so many kept keys an output lists


def run_steps(steps: list[Json], trace: Trace, take: Step) -> tuple[list[Json], str]:
    """The results of the steps, and the code of the file."""
    results, code = [], "ok"
    trace["steps"] = []
    for step in steps:
        values: Trace = {}
        try:
            results.append({"expect": "ok"} | take(step, values))
        except Refused as refused:
            code = refused.code
            results.append({"expect": code})
        trace["steps"].append(values)
    return results, code


def first_knock_values(given: Json, step: Json) -> Trace:
    """The values of section 5 of the KNOCK that a step receives, whatever the gate made of it."""
    trace: Trace = {}
    own = Identity(unhex(given["identity_seed"]))
    envelope = parse_envelope(unhex(step["envelope"]), limits_of(given))
    knock = parse_knock(envelope)
    ek, ct = knock.ephemeral, knock.ciphertext
    th = transcript_hash(given["mesh"], knock.identity, own.key, knock.ref, ek, ct, knock.expires, trace)
    for bundle in given["bundles"]:
        if unhex(bundle["bundle_ref"]) == knock.ref:
            open_intent(own, envelope, knock, th, unhex(bundle["prekey_secret"]), unhex(bundle["kem_seed"]), trace)
    return trace


def knock_run(given: Json, trace: Trace) -> tuple[Json, str]:
    """knock.run."""
    gate = Gate(given)
    results, code = run_steps(given["steps"], trace, gate.take)
    first = next((at for at, step in enumerate(given["steps"]) if step["do"] == "receive"), None)
    if code == "ok" and first is not None:
        trace["steps"][first] |= first_knock_values(given, given["steps"][first])
    now = given["steps"][-1]["now_ms"]
    return {"steps": results, "bundles_left": gate.bundles_left(now), "undecided": gate.undecided(now)}, code


def agent_run(given: Json, trace: Trace) -> tuple[Json, str]:
    """agent.run."""
    results, code = run_steps(given["steps"], trace, Agent(given).take)
    return {"steps": results}, code


def session_run(given: Json, trace: Trace) -> tuple[Json, str]:
    """session.run. Each step works on a copy, which a refusal drops."""
    session = Session.of(given)

    def take(step: Json, values: Trace) -> Json:
        nonlocal session
        trial = copy.copy(session)
        try:
            result = trial.take(step, values)
        except Refused as refused:
            if refused.code == "message.duplicate":
                session.heard_again(step["now_ms"])
            raise
        session = trial
        return result

    results, code = run_steps(given["steps"], trace, take)
    output: Json = {"steps": results}
    if session.status not in ("pending", "undecided"):
        output |= {"data_sent": session.data_sent, "data_opened": session.opened.count}
    if session.status == "established":
        output |= {"missing": session.missing, "delivered": session.delivered.ranges}
    if session.ratchet is not None:
        output |= state_at_the_end(session.ratchet, code)
    return output, code


def state_at_the_end(state: Ratchet, code: str) -> Json:
    """What an output tells of a ratchet: a state of many kept keys by their number, another one in a valid file."""
    if len(state.kept) > SKIPPED_SHOWN:
        return {"skipped_count": len(state.kept)}
    return {"state": ratchet_out(state)} if code == "ok" else {}


def ratchet_run(given: Json, trace: Trace) -> tuple[Json, str]:
    """ratchet.run."""
    context, limits = unhex(given["context"]), limits_of(given)
    if "state" in given:
        state = ratchet_in(given["state"])
    else:
        names = ("root", "hk_ab", "hk_ba", "ephemeral_secret", "ephemeral", "ratchet_secret")
        start = {name: unhex(given["start"][name]) for name in names if name in given["start"]}
        keys = start["root"], start["hk_ab"], start["hk_ba"]
        if given["start"]["role"] == "initiator":
            state = Ratchet.start_initiator(*keys, start["ephemeral_secret"])
        else:
            trace["start"] = {}
            state = Ratchet.start_responder(*keys, start["ratchet_secret"], start["ephemeral"], trace["start"])

    def take(step: Json, values: Trace) -> Json:
        nonlocal state
        if step["do"] == "seal":
            after, item = state, b""
            if "now_ms" in step:
                seed = unhex(step["kem_seed"]) if "kem_seed" in step else None
                after, item = state.with_item(step["now_ms"], seed, limits)
            state, message = after.seal(unhex(step["plaintext"]), unhex(step["nonce"]), context, values)
            return {"message": message} | ({"item": item} if item else {})
        if step["do"] != "open":
            raise Unusable(f"unknown step {step['do']!r}")
        message = unhex(step["message"])
        if len(message) < MESSAGE_MIN_BYTES - 16:
            refuse("wire.malformed")
        secret = unhex(step["ratchet_secret"]) if "ratchet_secret" in step else None
        opened = state.open(message, context, step["now_ms"], secret, limits, values)
        state = opened.finish(unhex(step.get("item", "")), encapsulated_of(step))
        return {"plaintext": opened.content}

    results, code = run_steps(given["steps"], trace, take)
    return {"steps": results} | state_at_the_end(state, code), code


Side = GraphRun | LedgerRun | ContinuityRun | RevocationRun


def trust_run(side_of: Callable[[Json], Side]) -> Callable[[Json, Trace], tuple[Json, str]]:
    """The operations with steps of section 9: what a side tells after its steps stands beside them."""

    def call(given: Json, trace: Trace) -> tuple[Json, str]:
        side = side_of(given)
        results, code = run_steps(given["steps"], trace, side.take)
        return {"steps": results} | side.told(), code

    return call


ONE_CALL: dict[str, Step] = {
    "did.derive": did_derive,
    "did.parse": lambda given, _: {"hash": parse_did(given["did"])},
    "keys.identity": keys_identity,
    "keys.convert": lambda given, _: {"x25519_public": to_x25519(unhex(given["public_key"]))},
    "keys.sign": keys_sign,
    "keys.verify": keys_verify,
    "keys.agree": lambda given, _: {"shared_secret": agree(unhex(given["secret"]), unhex(given["public"]))},
    "keys.kem_key": lambda given, _: {"kem_key": kem_public(unhex(given["kem_seed"]))},
    "keys.kem_check": keys_kem_check,
    "keys.kem_decapsulate": lambda given, _: {
        "kem_shared_secret": decapsulate(unhex(given["kem_seed"]), unhex(given["kem_ciphertext"]))
    },
    "kdf.hash": kdf_hash,
    "kdf.root": lambda given, _: dict(
        zip(("rk_next", "ck", "nhk"), kdf_root(*(unhex(given[k]) for k in ("rk", "dh", "pq"))), strict=True)
    ),
    "kdf.chain": lambda given, _: dict(zip(("ck_next", "mk"), kdf_chain(unhex(given["ck"])), strict=True)),
    "aead.seal": aead_seal,
    "aead.open": aead_open,
    "padding.length": lambda given, _: {"padded_lengths": [padme(length) for length in given["lengths"]]},
    "padding.pad": lambda given, _: {"padded": pad(unhex(given["plaintext"]))},
    "padding.unpad": lambda given, _: {"plaintext": unpad(unhex(given["padded"]))},
    "bundle.issue": bundle_issue,
    "bundle.verify": bundle_verify,
    "handshake.initiate": handshake_initiate,
    "handshake.respond": handshake_respond,
    "envelope.build": envelope_build,
    "envelope.parse": envelope_parse,
    "receipt.compute": receipt_compute,
    "knock.build": knock_build,
    "reject.build": reject_build,
    **attachment.OPERATIONS,
    **audit_record.OPERATIONS,
    **audit_tree.OPERATIONS,
    **audit_log.OPERATIONS,
    **audit_disclosure.OPERATIONS,
    **trust_statements.OPERATIONS,
}
WITH_STEPS: dict[str, Callable[[Json, Trace], tuple[Json, str]]] = {
    "knock.run": knock_run,
    "session.run": session_run,
    "agent.run": agent_run,
    "ratchet.run": ratchet_run,
    "ledger.run": trust_run(LedgerRun),
    "graph.run": trust_run(GraphRun),
    "revocation.run": trust_run(RevocationRun),
    "continuity.run": trust_run(ContinuityRun),
}
# How the operations of each family begin.
FAMILIES = {
    "did": ("did.",),
    "keys": ("keys.",),
    "kdf": ("kdf.",),
    "aead": ("aead.",),
    "padding": ("padding.",),
    "bundle": ("bundle.",),
    "handshake": ("handshake.",),
    "envelope": ("envelope.",),
    "receipt": ("receipt.",),
    "knock": ("knock.",),
    "accept": ("session.",),
    "reject": ("reject.", "session."),
    "ratchet": ("ratchet.",),
    "message": ("session.",),
    "pair": ("agent.",),
    "attachment": ("attachment.",),
    "record": ("record.",),
    "merkle": ("merkle.",),
    "checkpoint": ("checkpoint.",),
    "log": ("log.",),
    "disclosure": ("disclosure.",),
    "trust": ("trust.",),
    "ledger": ("ledger.",),
    "edge": ("edge.",),
    "graph": ("graph.",),
    "revocation": ("revocation.",),
    "continuity": ("continuity.",),
}


def run(vector: Json) -> tuple[str, Json, Trace]:
    """The code, the output and the values on the way that this implementation has for a vector's input."""
    trace: Trace = {}
    operation, given = vector["operation"], vector["input"]
    if vector["version"] != 1:
        raise Unusable("unknown version")
    if not operation.startswith(FAMILIES.get(vector["family"], ())):
        raise Unusable(f"no operation {operation!r} in a family {vector['family']!r}")
    if operation in WITH_STEPS:
        output, code = WITH_STEPS[operation](given, trace)
        return code, output, trace
    if operation not in ONE_CALL:
        raise Unusable(f"unknown operation {operation!r}")
    try:
        return "ok", ONE_CALL[operation](given, trace), trace
    except Refused as refused:
        return refused.code, refused.output, trace

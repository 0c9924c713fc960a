"""The important tests can fail: each fault in this table, put into a copy of the library, is caught by a test.

A fault is one edit of one line or two. The copy is tested in a process of its own with the tests named beside it, which
must fail; the same tests pass on the library as it is, in the rest of the suite.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from attrs import frozen

ROOT = Path(__file__).resolve().parents[2]


@frozen
class Fault:
    name: str
    module: str
    was: str
    becomes: str
    tests: tuple[str, ...]
    times: int = 1


RATCHET = ("tests/unit/test_ratchet.py",)
EPOCHS = ("tests/unit/test_epochs.py",)
MESSAGES = ("tests/hostile/test_messages.py",)
ACKNOWLEDGING = ("tests/unit/test_acknowledging.py",)
KNOCK = ("tests/hostile/test_knock.py",)
VERDICT = ("tests/hostile/test_verdict.py",)
KNOCK_MEMORY = ("tests/hostile/test_knock_memory.py",)
BUNDLES = ("tests/hostile/test_bundles.py",)
SESSIONS = ("tests/hostile/test_sessions.py",)
SENDING = ("tests/stateful/test_sending_model.py",)
TRAIL = ("tests/property/test_trail.py",)
AGT_ENCODING, AGT_FRAMES, AGT_REGISTRY, AGT_LINK = (
    (f"tests/unit/test_agt_{name}.py",) for name in ("encoding", "frames", "registry", "link")
)
ATTACHMENTS, ATTACHMENT_ATTACKS = (("tests/unit/test_attachments.py",), ("tests/hostile/test_attachments.py",))
ATTACHMENT_FILE, ATTACHMENT_SEALING = ((f"tests/unit/test_attachment_{name}.py",) for name in ("file", "sealing"))
ATTACHMENTS_IO, MANY = (("tests/hostile/test_attachments_io.py",), ("tests/hostile/test_many.py",))

COURIER = ("tests/unit/test_courier.py",)


def broken_off(*tests: str) -> tuple[str, ...]:
    return tuple(f"tests/hostile/test_broken_off.py::test_{test}" for test in tests)


def index(*tests: str) -> tuple[str, ...]:
    return tuple(f"tests/unit/test_audit_index.py::test_{test}" for test in tests)


FORGED = index("a_forged_hash_is_never_signed_nor_handed_over_nor_verified")
PAGES = ("tests/unit/test_audit_page.py",)

PICTURES = ("tests/unit/test_audit_pictures.py",)

ONCE = broken_off("a_call_that_is_broken_off_did_nothing_or_all_and_can_be_made_again")

FAULTS = (
    Fault(
        "no Diffie-Hellman step",
        "session/suite.py",
        "return _crypto.x25519(secret, public)",
        "return bytes(32)",
        RATCHET,
    ),
    Fault(
        "the context is ignored",
        "session/suite.py",
        " + context, 64)",
        ", 64)",
        MESSAGES,
        times=2,
    ),
    Fault(
        "the commitment is not compared",
        "primitives/aead.py",
        "not _crypto.constant_time_equal(derived[32:], commitment) or ",
        "",
        ("tests/unit/test_aead.py",),
    ),
    Fault(
        "state is committed before authentication",
        "session/ratchet.py",
        "        plaintext = self.suite.open_body(message_key, frame, context)\n        after",
        "        chain.n, chain.key = n + 1, chain_key\n"
        "        plaintext = self.suite.open_body(message_key, frame, context)\n        after",
        RATCHET,
    ),
    Fault(
        "a skipped key is taken before its message opened",
        "session/ratchet.py",
        "kept = self.skipped.get(at)",
        "kept = self.skipped.pop(at, None)",
        RATCHET,
    ),
    Fault(
        "a used skipped key stays",
        "session/kept.py",
        "        after.pop(delta.taken, None)",
        "        pass",
        RATCHET,
    ),
    Fault(
        "one more skipped message than the limit",
        "session/ratchet.py",
        "if n - chain.n > limits.skipped_keys_per_step:",
        "if n - chain.n > limits.skipped_keys_per_step + 1:",
        RATCHET,
    ),
    Fault(
        "an authentic header may contradict its chain",
        "session/ratchet.py",
        "            key != chain.peer_key\n            or epoch != chain.epoch\n"
        "            or previous_length != chain.previous_length\n            or n",
        "            n",
        RATCHET,
    ),
    Fault(
        "an epoch may change within a chain",
        "session/ratchet.py",
        "            or epoch != chain.epoch\n",
        "",
        EPOCHS,
    ),
    Fault(
        "the tag of an answer is not compared",
        "session/epochs.py",
        "if not _crypto.constant_time_equal(tag, item.tag):",
        "if False:",
        EPOCHS,
    ),
    Fault(
        "a first chain offers",
        "session/epochs.py",
        "            and self.turns >= 1\n",
        "",
        EPOCHS,
    ),
    Fault(
        "the secret of an epoch is not mixed",
        "session/turns.py",
        "suite.dh(secret, peer_key) + mixed",
        "suite.dh(secret, peer_key)",
        EPOCHS,
    ),
    Fault(
        "a late chain is not kept",
        "session/kept.py",
        "return (*late[-LATE_CHAINS:], *past[-KEPT_CHAINS:]), evicted",
        "return past[-KEPT_CHAINS:], evicted",
        RATCHET,
    ),
    Fault(
        "late chains are not bounded",
        "session/kept.py",
        "return (*late[-LATE_CHAINS:], ",
        "return (*late, ",
        RATCHET,
    ),
    Fault(
        "a bundle's signature is not checked",
        "handshake/prekeys.py",
        "    verify_statement(identity, SIGN_BUNDLE, body, signature)\n",
        "",
        ("tests/unit/test_prekeys.py",),
    ),
    Fault(
        "a KNOCK's signature is not checked",
        "engine/gate.py",
        "    parsed.verify(initiator, outer.header_bytes)\n",
        "",
        KNOCK,
    ),
    Fault(
        "an ACCEPT's signature is not checked",
        "handshake/verdict.py",
        "    acceptor.verify(SIGN_ACCEPT, signed, signature)\n",
        "",
        VERDICT,
    ),
    Fault(
        "an ACCEPT's signature leaves out the ratchet key",
        "handshake/verdict.py",
        "th + knock_receipt + ratchet_key + conditions)",
        "th + knock_receipt + conditions)",
        VERDICT,
    ),
    Fault(
        "a REJECT's signature is not checked",
        "engine/knocking.py",
        "            reject.verify(held.facts.peer, outer.header_bytes)\n",
        "",
        VERDICT,
    ),
    Fault(
        "a one-time bundle serves twice",
        "engine/verdicts.py",
        "        changes.append(BundleUsed(knock.published.ref))",
        "        pass",
        BUNDLES,
    ),
    Fault(
        "a KNOCK is not remembered",
        "engine/gate.py",
        "    memo = state.knocks.get(th)\n    if memo is not None:",
        "    memo = state.knocks.get(th)\n    if False:",
        ("tests/hostile/test_knock_replay.py",),
    ),
    Fault(
        "a sender is charged before its signature is checked",
        "engine/gate.py",
        "    is_known = core.is_known(parsed.claimed_key)\n",
        "    is_known = core.is_known(parsed.claimed_key)\n    core.budgets.knocks.take(parsed.claimed_key, now_ms)\n",
        ("tests/hostile/test_knock_flood.py",),
    ),
    Fault(
        "what does not open fills the memory of what did",
        "engine/verdicts.py",
        "        core.unopened.remember(memo)\n        raise",
        "        core.state.knocks.remember(memo)\n        raise",
        KNOCK_MEMORY,
    ),
    Fault(
        "what does not open is kept without a bound",
        "engine/replay.py",
        "            self._by_th.pop(next(iter(self._by_th)), None)\n",
        "            pass\n",
        KNOCK_MEMORY,
    ),
    Fault(
        "a REJECT says what may change",
        "engine/gate.py",
        "    if not is_valid_at(now_ms, published.not_before_ms, published.not_after_ms):\n        raise Busy\n",
        "    if not is_valid_at(now_ms, published.not_before_ms, published.not_after_ms):\n        return False\n",
        KNOCK_MEMORY,
    ),
    Fault(
        "a REJECT before the opening shares the rate of other answers",
        "engine/gate.py",
        "core.budgets.rejections, leave, now_ms)",
        "core.budgets.answers, leave, now_ms)",
        ("tests/hostile/test_knock_replay.py",),
    ),
    Fault(
        "the hour is charged when it is asked for",
        "trust/admission.py",
        "self._one_time.has(None, now_ms, leave=leave)",
        "self._one_time.take(None, now_ms, leave=leave)",
        KNOCK_MEMORY,
    ),
    Fault(
        "an export holds bundles past their time",
        "engine/export.py",
        " if now_ms <= bundle.forget_at_ms],",
        "],",
        KNOCK_MEMORY,
    ),
    Fault(
        "a bundle past its time serves until poll",
        "engine/gate.py",
        "    if published is None or now_ms > published.forget_at_ms:",
        "    if published is None:",
        KNOCK_MEMORY,
    ),
    Fault(
        "a charge is not given back where the journal fails",
        "engine/seam.py",
        "        if charged is not None:\n",
        "        if False:\n",
        ("tests/unit/test_gate.py",),
    ),
    Fault(
        "whoever offers most keeps most",
        "retries.py",
        "self._let_go(max(self._bytes, key=self._bytes.__getitem__))",
        "self._let_go(next(iter(self._bytes)))",
        ("tests/unit/test_retries.py",),
    ),
    Fault(
        "a peer may write another name on its envelopes",
        "engine/conversing.py",
        "    if outer.header.sender != peer.did:\n        raise SenderMismatch\n",
        "",
        MESSAGES,
    ),
    Fault(
        "a held-back KNOCK is not stale",
        "engine/gate.py",
        "request.time_ms <= peer.latest_knock_ms",
        "False",
        KNOCK,
    ),
    Fault(
        "max_messages is not enforced by the receiver",
        "session/opening.py",
        "if conditions.max_messages is not None and index > conditions.max_messages:",
        "if False:",
        MESSAGES,
    ),
    Fault(
        "an index opens twice",
        "session/opening.py",
        " or not session.received.is_new(index):",
        ":",
        ACKNOWLEDGING,
    ),
    Fault(
        "an index may be larger than its position",
        "session/opening.py",
        "if index > position or",
        "if",
        ACKNOWLEDGING,
    ),
    Fault(
        "what was never sent is delivered",
        "session/opening.py",
        "    if ranges[-1][1] > session.data_sent:\n",
        "    if False:\n",
        ACKNOWLEDGING,
    ),
    Fault(
        "a duplicate is answered at any rate",
        "engine/conversing.py",
        " and core.budgets.signals.take(session_id, now_ms):\n",
        ":\n",
        ACKNOWLEDGING,
    ),
    Fault(
        "a signal asks the ratchet for no item",
        "session/sealing.py",
        "    item, half = session.ratchet.item_out(now_ms, entropy, limits)\n    padded = pad_signal(item, ack)\n",
        '    half = None\n    padded = pad_signal(b"", ack)\n',
        ACKNOWLEDGING,
    ),
    Fault(
        "ranges that touch are two",
        "session/content.py",
        "least = last + 2",
        "least = last + 1",
        ("tests/unit/test_content.py",),
    ),
    Fault(
        "ranges are kept without end",
        "session/indices.py",
        "        if len(ranges) <= most:\n",
        "        if True:\n",
        ("tests/unit/test_indices.py",),
    ),
    Fault(
        "padding is not checked",
        "primitives/padding.py",
        " or padded[length:] != padding(length):",
        ":",
        ("tests/unit/test_aead.py",),
    ),
    Fault(
        "mixed-order identity keys pass",
        "primitives/_crypto.py",
        "        converted: bytes = crypto_sign_ed25519_pk_to_curve25519(public_key)\n        return converted\n",
        "        return bytes(public_key)\n",
        ("tests/unit/test_identity.py",),
    ),
    Fault(
        "the KEM's secret is left out",
        "handshake/agreement.py",
        "        + shared_kem\n",
        "        + bytes(32)\n",
        ("tests/unit/test_handshake.py",),
    ),
    Fault(
        "a secret prints itself",
        "primitives/keys.py",
        'return f"{type(self).__name__}(<redacted>)"',
        "return repr([getattr(self, name, None) for name in self.__slots__])",
        ("tests/unit/test_keys.py",),
    ),
    Fault(
        "an error carries its inner frames",
        "primitives/arguments.py",
        "return error.with_traceback(None)",
        "return error",
        ("tests/hostile/test_leaks.py",),
    ),
    Fault(
        "the state changes before the journal has it",
        "engine/seam.py",
        "        if self.batch is None and self._journal is not None and (step.changes or step.records):\n",
        "        for change in step.changes:\n            change.apply(self._core.state)\n"
        "        if self.batch is None and self._journal is not None and (step.changes or step.records):\n",
        ("tests/unit/test_gate.py",),
    ),
    Fault(
        "a step that was broken off is not finished by the next call",
        "engine/seam.py",
        "            self._resume()\n        if self.left:\n            self._take_up()\n        if self._unreturned:",
        "            pass\n        if self.left:\n            self._take_up()\n        if self._unreturned:",
        broken_off("events_are_given_whatever_was_called_in_between"),
    ),
    Fault(
        "what a journal says of the step before is taken for this one",
        "store/keeping.py",
        "        if self._outcome:  # else the last is not settled\n            self._outcome = False\n",
        "        return\n",
        ("tests/unit/test_batch.py", "tests/unit/test_store.py"),
    ),
    Fault(
        "a row that is written again stays in the hash of the set",
        "store/sealing.py",
        "                total ^= old[name]\n",
        "",
        ("tests/unit/test_store_sealing.py",),
    ),
    Fault(
        "the hash of the set is not compared",
        "store/sealing.py",
        " or not _crypto.constant_time_equal(sum_of_set, _sum_bytes(total))",
        "",
        ("tests/unit/test_store_sealing.py",),
    ),
    Fault(
        "a message is sent whose envelope has no room",
        "engine/delivery.py",
        "        check_outbox(core, len(sealed.envelope))\n",
        "        pass\n",
        ("tests/unit/test_delivery.py",),
    ),
    Fault(
        "a message is opened that has no room",
        "engine/delivery.py",
        "    _check_inbox(core, event.peer.did, size_of(event))\n",
        "",
        ("tests/unit/test_delivery.py",),
    ),
    Fault(
        "what is held is forgotten where order is asked for no more",
        "engine/delivery.py",
        " and not core.in_order and not core.state.inbox.held",
        " and not core.in_order",
        ("tests/unit/test_delivery.py",),
    ),
    Fault(
        "what waits is not found by its receipt",
        "engine/outbox.py",
        "self._unread.pop(sequence, None)",
        "pass",
        ("tests/unit/test_delivery.py",),
    ),
    Fault(
        "a receipt that was looked for is kept behind its envelope",
        "engine/outbox.py",
        "self._unread.pop(sequence, None)\n        if waiting.has_receipt:",
        "if sequence in self._unread:\n            del self._unread[sequence]\n        else:",
        broken_off("a_receipt_that_was_looked_for_and_broken_off_is_of_its_envelope_alone"),
    ),
    Fault(
        "a child of a fork commits its parent's batch",
        "engine/seam.py",
        "if self.birthplace.is_here:  # the batch",
        "if True:  # the batch",
        broken_off("a_child_of_a_fork_commits_no_batch_of_its_parents"),
    ),
    Fault(
        "every refusal is counted again",
        "engine/many.py",
        "partial(_call_all, afterwards)",
        "lambda: _call_all(deque(afterwards))",
        ("tests/hostile/test_many.py",),
    ),
    Fault(
        "a KNOCK under another name is another",
        "agt/knocking.py",
        "if not _crypto.is_x25519_prime_order(frame.ephemeral):",
        "if False:",
        ("tests/hostile/test_agt.py",),
    ),
    Fault(
        "a sum counts a change that was broken off twice",
        "engine/tally.py",
        "if self._before[0] != change:",
        "if True:",
        ("tests/unit/test_delivery.py",),
    ),
    Fault(
        "the counter is told of a new agent behind its first write",
        "store/opened.py",
        "            counter.advance(max(state.generation, known))\n        self._write_first()\n",
        "            pass\n        self._write_first()\n"
        "        if counter is not None:\n            counter.advance(max(state.generation, known))\n",
        ("tests/unit/test_store.py",),
    ),
    Fault(
        "a change of states in a batch is durable before its end",
        "store/states.py",
        "        if self._in_batch():\n            return False\n",
        "",
        ("tests/unit/test_states.py",),
    ),
    Fault(
        "a batch whose end was broken off is ended by nobody",
        "engine/seam.py",
        "            self._end(self.batch)  # its with statement was left, and its end not begun\n",
        "            pass\n",
        ("tests/unit/test_batch.py",),
    ),
    Fault(
        "a step counts as taken whatever the journal says",
        "engine/seam.py",
        "            if not self._was_taken():\n",
        "            if False:\n",
        ONCE,
    ),
    Fault(
        "a step that the journal has is done anew",
        "engine/seam.py",
        "            if not self._was_taken():\n",
        "            if True:\n",
        ONCE,
    ),
    Fault(
        "what a broken-off call was to return is gone",
        "engine/seam.py",
        "            if again is not None:\n                return again.output\n",
        "",
        ONCE,
    ),
    Fault(
        "a call that is broken off again while it waits keeps nothing",
        "engine/guard.py",
        "            seam.left.append(step)  # one call, so that nothing comes before it\n",
        "            with lock:\n                seam.left.append(step)\n",
        broken_off("it_may_be_broken_off_again_while_it_waits_for_the_lock_to_keep_its_output"),
    ),
    Fault(
        "what any call was to return is kept behind another",
        "engine/seam.py",
        "if _are_events(one[1])]",
        "]",
        broken_off("what_is_published_in_between_is_withdrawn_too"),
    ),
    Fault(
        "the journal's word on a refused step counts for the next",
        "engine/seam.py",
        "        if step is self._telling:\n",
        "        if self._journal is not None and step.call is not None:\n",
        broken_off("what_the_journal_refuses_in_between_takes_no_events_with_it"),
    ),
    Fault(
        "a policy is told twice that a bundle served",
        "engine/seam.py",
        "            step.afterwards = None  # a policy counts what it is told\n",
        "",
        broken_off("a_policy_is_told_once_that_a_bundle_served"),
    ),
    Fault(
        "a change adds",
        "session/established.py",
        "        session.received = self.received\n",
        "        session.received = session.received.with_index(session.received.last + 1, 9999)\n",
        ONCE,
    ),
    Fault(
        "a session that nobody confirmed is preferred",
        "engine/core.py",
        "    if held.confirmed is not best.confirmed:\n        return held.confirmed\n",
        "",
        SENDING,
    ),
    Fault(
        "a session that nobody confirmed sends for ever",
        "session/established.py",
        "if self.begin_by_ms is not None and now_ms > self.begin_by_ms and not answer:",
        "if False:",
        ("tests/unit/test_session_edges.py",),
    ),
    Fault(
        "a fresh KNOCK that was held back ends what came after it",
        "engine/core.py",
        "[one for one in established if _entered_ms(one) < knock_ms]",
        "established",
        SENDING,
    ),
    Fault(
        "a fresh KNOCK ends only what its maker began",
        "engine/core.py",
        "[one for one in established if _entered_ms(one) < knock_ms]",
        "[one for one in established if not one.facts.initiator and _entered_ms(one) < knock_ms]",
        SENDING,
    ),
    Fault(
        "lost ACCEPTs keep every further KNOCK out",
        "engine/core.py",
        "        return unheard[: max(0, surplus)]",
        "        return []",
        SESSIONS,
    ),
    Fault(
        "more bundles than the limit",
        "engine/upkeep.py",
        " or (last_resort and _with_secrets(core) >= limits.bundles_max):",
        ":",
        BUNDLES,
    ),
    Fault(
        "used bundles are remembered without a bound",
        "engine/upkeep.py",
        ", _REMEMBERED * most - len(core.state.bundles))",
        ", most)",
        BUNDLES,
    ),
    Fault(
        "a longer msgpack form passes",
        "primitives/_wire.py",
        "    if encode(value) != data:\n        raise Malformed\n",
        "",
        ("tests/unit/test_wire.py",),
    ),
    Fault(
        "each session keeps how its messages begin",
        "envelope.py",
        "@lru_cache(maxsize=1024)  # public: of agents in this process, for each length that a peer's DID has\n",
        "",
        ("tests/unit/test_hub.py",),
    ),
    Fault(
        "a pattern knows a longer form of a number",
        "primitives/_patterns.py",
        r'(0xFFFF, rb"\xcd[^\x00].")',
        r'(0xFFFF, rb"\xcd..")',
        ("tests/unit/test_wire.py",),
    ),
    Fault(
        "a pattern knows numbers past the maximum",
        "primitives/_patterns.py",
        "if most <= maximum)])",
        "if most // 0x100 <= maximum)])",
        ("tests/unit/test_wire.py",),
    ),
    Fault(
        "a change of the ledger is not kept till it is whole",
        "trust/steps.py",
        "            self._make_whole()\n            if self._keeper is None",
        "            write, self._step = self._step, None\n            write[0]()\n"
        "            self._generation = write[1]\n            if self._keeper is None",
        ("tests/hostile/test_trust_broken_off.py",),
    ),
    Fault(
        "a policy of another mesh is taken",
        "policy.py",
        "if of is not None and plain_text(of) != mesh:",
        "if False:",
        ("tests/unit/test_trust_arguments.py",),
    ),
    Fault(
        "a log that has the records gets them again",
        "audit/log.py",
        "elif missing := self._missing(prepared):",
        "elif missing := prepared.records:",
        TRAIL,
    ),
    Fault(
        "of records that a crash kept in part the rest is lost",
        "audit/log.py",
        "        return missing\n\n    def _entries_from",
        "        return missing if missing == prepared.records else ()\n\n    def _entries_from",
        TRAIL,
    ),
    Fault(
        "at opening the row is not looked at",
        "store/trail.py",
        "self._prepared = Prepared.decode(row)",
        "Prepared.decode(row)",
        TRAIL,
    ),
    Fault(
        "the log is ahead of the store",
        "store/trail.py",
        "        self._prepared = prepared\n        return rows",
        "        journal.log.keep(prepared)\n        self._prepared = prepared\n        return rows",
        TRAIL,
    ),
    Fault(
        "a log in the store does not know its end",
        "store/log_rows.py",
        "self._tail = staged.tail",
        "pass",
        TRAIL,
    ),
    Fault(
        "a bundle need not be of its DID",
        "agt_identity.py",
        "if mesh_did_of(raw) != parse_mesh_did(did):",
        "if not is_mesh_did(did):",
        AGT_REGISTRY,
    ),
    Fault(
        "the X25519 key of a bundle is any",
        "agt/registry.py",
        ") != key.dh:",
        ') == b"":',
        AGT_REGISTRY,
    ),
    Fault(
        "the signature of a prekey is not checked",
        "agt/registry.py",
        "key.verify_bare(signed, unbase64",
        "(signed, unbase64",
        AGT_REGISTRY,
    ),
    Fault(
        "the first one-time prekey is none",
        "agt/frames.py",
        "None if one_time_id is None else",
        "None if not one_time_id else",
        AGT_FRAMES,
    ),
    Fault(
        "true is a number of a frame",
        "agt/frames.py",
        "if type(value) is not int or not 0 <= value",
        "if not isinstance(value, int) or not 0 <= value",
        AGT_FRAMES,
    ),
    Fault(
        "a frame has its key twice",
        "agt/encoding.py",
        "if len(value) != len(pairs):",
        "if len(value) > len(pairs):",
        AGT_ENCODING,
    ),
    Fault(
        "a frame is as deep as it likes",
        "agt/encoding.py",
        "_BRACKETS_MAX: Final = 1000",
        "_BRACKETS_MAX: Final = 1 << 30",
        AGT_ENCODING,
    ),
    Fault(
        "base64 has bits behind its end",
        "agt/encoding.py",
        "std64(data) != standard + padding",
        "len(std64(data)) != len(standard + padding)",
        AGT_ENCODING,
    ),
    Fault(
        "a connection takes its place back",
        "agt/link.py",
        "4006: _REPLACED,",
        "4007: _REPLACED,",
        AGT_LINK,
    ),
    Fault(
        "heartbeats mend a gap",
        "agt/link.py",
        "self._has_lapsed = self.has_lapsed",
        "self._has_lapsed = False",
        AGT_LINK,
    ),
    Fault(
        "an index need not give the receipt",
        "attachments/opening.py",
        "or not _crypto.constant_time_equal(\n"
        "            receipt_of(layout, index), self._attachment.receipt\n        ):",
        "or False:",
        ATTACHMENT_ATTACKS,
    ),
    Fault(
        "the leaf of a chunk is not compared",
        "attachments/opening.py",
        " and leaf_of(chunk) == leaf:",
        ":",
        ATTACHMENT_ATTACKS,
    ),
    Fault(
        "the last chunk is not opened with the tail",
        "attachments/opening.py",
        "data = self._open(layout.last, tail[:chunk_bytes], index)",
        'data = b""',
        ATTACHMENT_ATTACKS,
    ),
    Fault(
        "a refused tail is kept",
        "attachments/opening.py",
        "        data = self._open(layout.last, tail[:chunk_bytes], index)\n        self._index = index\n",
        "        self._index = index\n        data = self._open(layout.last, tail[:chunk_bytes], index)\n",
        ATTACHMENT_ATTACKS,
    ),
    Fault(
        "a chunk opens before the tail",
        "attachments/opening.py",
        "            raise AttachmentOutOfTurn\n        return self._open(number, chunk, self._index)",
        "            pass\n        return self._open(number, chunk, self._index or leaf_of(chunk) * (number + 1))",
        ATTACHMENTS,
    ),
    Fault(
        "a size over the limit is opened",
        "attachments/opening.py",
        "if attachment.size > allowed:",
        "if False:",
        ATTACHMENTS,
    ),
    Fault(
        "padding hides bytes",
        "attachments/chunks.py",
        'if piece.count(b"\\x00", data_bytes) == len(piece) - data_bytes:',
        "if True:",
        ATTACHMENT_ATTACKS,
    ),
    Fault(
        "the last chunk does not say the size",
        "attachments/chunks.py",
        "_LAST.pack(number, exponent, 1, last_of)",
        "_INNER.pack(number, exponent, 1)",
        ATTACHMENT_ATTACKS,
    ),
    Fault(
        "the last chunk is like any other",
        "attachments/chunks.py",
        "if last_of is None else _LAST.pack(number, exponent, 1, last_of)",
        "",
        ATTACHMENT_ATTACKS,
    ),
    Fault(
        "a chunk does not say its place",
        "attachments/chunks.py",
        "return _INNER.pack(number, exponent, 0)",
        "return _INNER.pack(0, exponent, 0)",
        ATTACHMENTS,
    ),
    Fault(
        "a chunk does not say its exponent",
        "attachments/chunks.py",
        "_LAST.pack(number, exponent, 1, last_of)",
        "_LAST.pack(number, 0, 1, last_of)",
        ATTACHMENT_ATTACKS,
    ),
    Fault(
        "nonces are counted",
        "attachments/chunks.py",
        "nonce = entropy.token(_crypto.NONCE_BYTES)",
        'nonce = number.to_bytes(_crypto.NONCE_BYTES, "big")',
        ATTACHMENT_ATTACKS,
    ),
    Fault(
        "a receipt does not say the padded size",
        "attachments/chunks.py",
        "_RECEIPT_HEAD.pack(layout.chunk_exponent, layout.padded_bytes)",
        "_RECEIPT_HEAD.pack(layout.chunk_exponent, 0)",
        ATTACHMENTS,
    ),
    Fault(
        "what may be the last piece is sealed as another",
        "attachments/sealing.py",
        "(total - (self._layout is None)) >> self._chunk_exponent if total else 0",
        "total >> self._chunk_exponent",
        ATTACHMENTS,
    ),
    Fault(
        "a source that became shorter is taken",
        "attachments/sealing.py",
        "if self._layout is None and count >= layout.chunks:",
        "if False:",
        ATTACHMENTS,
    ),
    Fault(
        "less data than the size that was given",
        "attachments/sealing.py",
        "if total != layout.size:",
        "if False:",
        ATTACHMENTS,
    ),
    Fault(
        "a restored sealer begins anew",
        "attachments/sealing.py",
        'sealer._progress = (chunks, b"")',
        'sealer._progress = (0, b"")',
        ATTACHMENTS,
    ),
    Fault(
        "a disclosure is of a blob of any size",
        "attachments/disclosure.py",
        "if attachment.blob_bytes != size_bytes:",
        "if False:",
        ATTACHMENTS,
    ),
    Fault(
        "of a disclosed blob the tail is enough",
        "attachments/disclosure.py",
        "for number in range(attachment.layout.last):",
        "for number in range(0):",
        ATTACHMENTS,
    ),
    Fault(
        "a size may wrap at 32 bits",
        "attachments/sizes.py",
        "padded = padded_length(max(self.size, 1))",
        "padded = padded_length(max(self.size & 0xFFFFFFFF, 1))",
        ATTACHMENT_ATTACKS,
    ),
    Fault(
        "an unknown kind may be any bytes",
        "attachments/reference.py",
        "    if kind is None:\n        raise Malformed\n",
        "    if kind is None:\n        return UnknownReference(0, data)\n",
        ATTACHMENTS,
    ),
    Fault(
        "the place of a reader moves before it has read",
        "store/attachment_file.py",
        "            filled = 0\n",
        "            filled = 0\n            self._place = place + len(view)\n",
        ATTACHMENT_FILE,
    ),
    Fault(
        "the end of a file is that of its padding",
        "store/attachment_file.py",
        "(0, self._place, self.size)",
        "(0, self._place, self.attachment.padded_bytes)",
        ATTACHMENT_FILE,
    ),
    Fault(
        "a chunk that is kept is taken for any other",
        "store/attachment_file.py",
        "if self._kept[0] != number:",
        "if self._kept[0] < 0:",
        ATTACHMENT_FILE,
    ),
    Fault(
        "threads read in one another's middle",
        "store/attachment_file.py",
        "with self._lock, memoryview(buffer)",
        "with memoryview(buffer)",
        ATTACHMENT_FILE,
    ),
    Fault(
        "a read as large as it likes sets memory aside",
        "store/attachment_file.py",
        "left if wanted < 0 else min(wanted, left)",
        "left if wanted < 0 else wanted",
        ATTACHMENT_FILE,
    ),
    Fault(
        "a blob may be longer than it is",
        "store/blob.py",
        "st_size != self._layout.blob_bytes",
        "st_size < 0",
        ATTACHMENT_FILE,
    ),
    Fault(
        "a store without an end fills the disk",
        "store/blob.py",
        'received_argument("source", piece, self._layout.blob_bytes - came)',
        'received_argument("source", piece, 1 << 60)',
        ATTACHMENT_FILE,
    ),
    Fault(
        "what a source raised is forgotten",
        "store/blob.py",
        "raise FetchFailed(number) from failed\n        try",
        "raise FetchFailed(number)\n        try",
        ATTACHMENT_FILE,
    ),
    Fault(
        "what stands on disk of a copy is trusted",
        "store/attachment_saving.py",
        "            self._opener.check(number, self._file.read(begins, size), nonce)\n",
        "            pass\n",
        ATTACHMENT_SEALING,
    ),
    Fault(
        "a copy keeps its nonces",
        "store/attachment_saving.py",
        "        file.cut(attachment.size)\n",
        "",
        ATTACHMENT_SEALING,
    ),
    Fault(
        "a file that others may write is gone on with",
        "store/growing_file.py",
        "if is_private(os.fstat(descriptor)):",
        "if True:",
        ATTACHMENT_SEALING,
    ),
    Fault(
        "two calls make one file",
        "store/growing_file.py",
        "if not _locked(descriptor):",
        "if False:",
        ATTACHMENT_SEALING,
    ),
    Fault(
        "a file is replaced",
        "store/growing_file.py",
        "os.link(self._beside, self._path)  #",
        "os.replace(self._beside, self._path)  #",
        ATTACHMENT_SEALING,
    ),
    Fault(
        "a chunk of an older source is kept",
        "attachments/sealing.py",
        "if open_chunk(self._key, layout, number, chunk) == piece:",
        "if open_chunk(self._key, layout, number, chunk) is not None:",
        ATTACHMENT_SEALING,
    ),
    Fault(
        "a file that changes while it is sealed is not noticed",
        "store/attachment_sealing.py",
        "if _version(descriptor) != before:",
        "if False:",
        ATTACHMENT_SEALING,
    ),
    Fault(
        "the key of a sealing stays",
        "store/attachment_sealing.py",
        "            state.remove()\n    finally",
        "            pass\n    finally",
        ATTACHMENT_SEALING,
    ),
    Fault(
        "a key that others may have written is used",
        "store/attachment_sealing.py",
        'if _is_own(descriptor) else b""',
        'if True else b""',
        ATTACHMENT_SEALING,
    ),
    Fault(
        "what was put where a file grew gets its name",
        "store/growing_file.py",
        "            self._check_at(self._beside)\n",
        "",
        ATTACHMENTS_IO,
    ),
    Fault(
        "a source is written over",
        "store/growing_file.py",
        "if os.path.samestat(",
        "if False and os.path.samestat(",
        ATTACHMENTS_IO,
    ),
    Fault(
        "a blob is sealed whose reference cannot be written",
        "cli/attach.py",
        '        refuse_own("reference", path, blob)\n',
        "",
        ATTACHMENTS_IO,
    ),
    Fault(
        "names without an end are taken",
        "engine/guard.py",
        "for did in islice(dids, most + 1)",
        "for did in islice(dids, 1000)",
        MANY,
    ),
    Fault(
        "a message is lost because its references have no room",
        "engine/conversing.py",
        "if len(sealed.envelope) > core.limits.envelope_max_bytes:",
        "if False:",
        MANY,
    ),
    Fault(
        "a message made anew accuses its sender",
        "audit/comparison.py",
        "            last[_place(record)] = group\n",
        "            last.setdefault(_place(record), group)\n",
        MANY,
    ),
    Fault(
        "the order in which attachments are named is not compared",
        "audit/comparison.py",
        " or _in_another_order(there, here)",
        "",
        MANY,
    ),
    Fault(
        "what only an index vouched for is signed unread",
        "audit/log.py",
        "        self.vouch()\n        with self._lock:\n"
        "            self._catch_up()\n            return self._signed(",
        "        with self._lock:\n            self._catch_up()\n            return self._signed(",
        FORGED,
    ),
    Fault(
        "what only an index vouched for is handed over unread",
        "audit/log.py",
        "        self.vouch()\n        with self._lock:\n            self._catch_up()\n            checkpoint = None",
        "        with self._lock:\n            self._catch_up()\n            checkpoint = None",
        FORGED,
    ),
    Fault(
        "a chunk that is read again is not held against its hash",
        "audit/merkle.py",
        '                raise LogBroken(start, "index")',
        "                pass",
        FORGED,
    ),
    Fault(
        "a chunk that was found to be another counts as read",
        "audit/log.py",
        "                    self._tree.check_chunk(self._unread[0])\n"
        "                    self._unread = self._unread[1:]",
        "                    first, self._unread = self._unread[0], self._unread[1:]\n"
        "                    self._tree.check_chunk(first)",
        FORGED,
    ),
    Fault(
        "a checkpoint vouches for the chunk behind it",
        "audit/log.py",
        "signed = 0 if size is None else size // CHUNK",
        "signed = 0 if size is None else -(-size // CHUNK)",
        index("what_a_checkpoint_covers_or_was_verified_is_not_read_again_to_be_signed"),
    ),
    Fault(
        "places in an index that no log has are believed",
        "store/log_index.py",
        "if not before <= place.last < place.end <= place.last + LENGTH_BYTES + ENTRY_MAX_BYTES:",
        "if False:",
        index("places_that_no_log_has_are_no_index"),
    ),
    Fault(
        "any entry may stand where an index says that a chunk ends",
        "audit/log.py",
        " or number_in(entry) != last:",
        ":",
        index("a_place_of_an_entry_with_another_number_is_refused"),
    ),
    Fault(
        "an index says whose log it is, whatever the entries say",
        "audit/log.py",
        "        if not owners.issuperset(page.owners()):",
        "        if False:",
        index("a_forged_owner_is_not_signed_nor_handed_over"),
    ),
    Fault(
        "whose log it is may be anything in an index",
        "store/log_index.py",
        " or not is_name(owner):",
        ":",
        index("an_index_whose_owner_no_record_can_name_is_none"),
    ),
    Fault(
        "a log opens with a checkpoint of another identity",
        "audit/log.py",
        'if self._owner not in ("", checkpoint.issuer.did):\n                raise',
        "if False:\n                raise",
        index("a_checkpoint_of_another_identity_opens_no_log"),
    ),
    Fault(
        "a page of small arrays is built whole",
        "primitives/_wire.py",
        "            list_hook=check_width,\n",
        "",
        ("tests/unit/test_audit_page.py::test_a_page_of_what_is_small_to_write_and_large_to_build_is_not_built",),
    ),
    Fault(
        "compiled calls of another release end the import",
        "primitives/build.py",
        "    except Exception:  # built for",
        "    except ImportError:  # built for",
        ("tests/unit/test_build.py::test_compiled_calls_of_another_release_are_left_alone",),
    ),
    Fault(
        "a sync that fails before the index is written is forgotten",
        "store/log_file.py",
        "                if self._fsync_every is not None:  # else nothing",
        "                if False:  # else nothing",
        index("a_sync_that_fails_before_the_index_is_written_loses_nothing_acknowledged"),
    ),
    Fault(
        "a root over half a call is signed",
        "audit/log.py",
        "            self._catch_up()\n            return self._signed(",
        "            return self._signed(",
        (
            "tests/hostile/test_audit_broken_off.py::test_what_is_told_behind_a_call_that_was_broken_off_is_of_the_log_as_it_is",
        ),
    ),
    Fault(
        "a chunk that was broken off leaves its place to the next",
        "audit/log.py",
        "        if long is not None and milestones:\n            long.mark",
        "        self._is_in_step = True\n        if long is not None and milestones:\n            long.mark",
        ("tests/hostile/test_audit_broken_off.py::test_a_chunk_of_a_call_that_was_broken_off_keeps_its_place",),
    ),
    Fault(
        "a pipe in the place of an index is waited for, or a link written through",
        "store/log_index.py",
        "                os.unlink(beside)\n"
        "            with open(_regular(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL)",
        "                pass\n            with open(_regular(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)",
        index("a_pipe_or_a_link_in_the_place_of_an_index_stops_nothing"),
    ),
    Fault(
        "a page's entries are not encoded again",
        "primitives/_wire.py",
        "and list(map(public_encoder(), rows)) == list(parts)",
        "and len(rows) == len(parts)",
        PAGES,
    ),
    Fault(
        "a page's hashes are not chained",
        "audit/page.py",
        "        and columns[2] == (previous, *hashes[:-1])\n",
        "",
        PAGES,
    ),
    Fault(
        "a page's fields are not of their kind",
        "audit/record.py",
        "all(set(map(type, columns[at])) == {kind} for at, kind in enumerate(_KINDS))",
        "True",
        PAGES,
    ),
    Fault(
        "entries are lost that stand before what fails",
        "audit/page.py",
        "        if some:\n            yield some\n        if failure",
        "        if some and failure is None:\n            yield some\n        if failure",
        PAGES,
    ),
    Fault(
        "threads run as far ahead as they like",
        "store/in_order.py",
        "if len(waiting) > threads:",
        "if len(waiting) > 1 << 30:",
        ATTACHMENT_SEALING,
    ),
    Fault(
        "the data of a page can end their block",
        "cli/pictures/report.py",
        r'return text.replace("<", "\\u003c")',
        "return text",
        PICTURES,
    ),
    Fault(
        "a name in a table of a page is markup",
        "cli/pictures/report.py",
        "{escape(names[recipient])}",
        "{names[recipient]}",
        PICTURES,
    ),
    Fault(
        "a page holds every record of a log, and not the last alone",
        "cli/pictures/listed.py",
        'if len(self._columns["at"]) > self.most + self.most // 8:',
        "if False:",
        PICTURES,
    ),
    Fault(
        "a log is held whole before it is drawn",
        "cli/audit_pictures.py",
        "for record in verified_records(seen(), progress=tell):",
        "for record in list(verified_records(seen(), progress=tell)):",
        PICTURES,
    ),
    Fault(
        "what could act on a page stays in a picture",
        "cli/pictures/traffic.py",
        "return escaped(text, TEXT_MAX, plain=True)",
        "return text",
        PICTURES,
    ),
    Fault(
        "what may be good later is acknowledged to the broker",
        "courier/intake.py",
        "            if _may_be_good(refused):",
        "            if False:",
        COURIER,
    ),
    Fault(
        "what is bad stays with the broker for ever",
        "courier/intake.py",
        "        return isinstance(refused, TryAgain)",
        "        return True",
        COURIER,
    ),
    Fault(
        "what was held is not taken again",
        "courier/offering.py",
        "        await self._intake.take_held()\n",
        "",
        COURIER,
    ),
    Fault(
        "an envelope that the broker never takes holds up the others",
        "courier/offering.py",
        "            self._unlucky.add(one.receipt)\n",
        "",
        COURIER,
    ),
    Fault(
        "bundles that the shelf did not take are forgotten",
        "courier/stocking.py",
        "                self._to_put.appendleft(made)\n",
        "                pass\n",
        COURIER,
    ),
    Fault(
        "a last-resort bundle is taken for a shelf that is filled",
        "courier/stocking.py",
        "served is not None and self._is_one_time(served)",
        "served is not None",
        COURIER,
    ),
    Fault(
        "a stock that is full stays full",
        "courier/stocking.py",
        "        agent.withdraw_bundles()  # of so many the most are lost, and nobody can say which\n",
        "",
        COURIER,
    ),
    Fault(
        "the shelf is not looked at when the courier connects",
        "courier/courier.py",
        "        await self._stocking.look()\n",
        "",
        COURIER,
    ),
    Fault(
        "an event is told for as long as it is not done",
        "courier/courier.py",
        "[event for event in inbox if id(event) not in told]",
        "list(inbox)",
        COURIER,
    ),
    Fault(
        "nothing is offered by whoever leaves",
        "courier/courier.py",
        "            if error is None and self._failed is None:\n",
        "            if False:\n",
        COURIER,
    ),
    Fault(
        "a transport that cancels its own ends the courier",
        "courier/courier.py",
        "                if not _is_broken_off():  # else",
        "                raise\n                if True:  # else",
        COURIER,
    ),
    Fault(
        "a transport that answers its cancellation with an error has whoever leaves wait for ever",
        "courier/courier.py",
        "            except (TransportFailed, asyncio.CancelledError) as error:",
        "            except TransportFailed:\n                await self._workings.rest(pauses)\n"
        "                continue\n            except asyncio.CancelledError as error:",
        COURIER,
    ),
    Fault(
        "what comes after leaving is taken",
        "courier/courier.py",
        "                if _is_broken_off():  # a transport may",
        "                if False:  # a transport may",
        COURIER,
    ),
    Fault(
        "whoever leaves waits for a transport that swallows its cancellation",
        "courier/workings.py",
        "                await asyncio.wait({ended, over}, return_when=asyncio.FIRST_COMPLETED)\n            finally",
        "                await ended\n            finally",
        COURIER,
    ),
    Fault(
        "expired bundles are not passed over",
        "courier/courier.py",
        "            with suppress(BundleExpired):",
        "            if True:",
        COURIER,
    ),
    Fault(
        "what ends a store is tried again",
        "courier/courier.py",
        "            except (TransportFailed, asyncio.CancelledError) as error:",
        "            except (Exception, asyncio.CancelledError) as error:",
        COURIER,
    ),
    Fault(
        "a transport that cancels a call is not told from who waits",
        "courier/workings.py",
        "            if asked.cancelled():",
        "            if False:",
        COURIER,
    ),
    Fault(
        "a broker that never answers is waited for",
        "courier/workings.py",
        "self._pause(self._answer_seconds)",
        "self._pause(1e9)",
        COURIER,
        times=2,
    ),
    Fault(
        "pauses do not grow",
        "courier/pauses.py",
        "min(2 * self._next, self._longest)",
        "self._next",
        COURIER,
    ),
    Fault(
        "the broker is told before the agent has it",
        "courier/intake.py",
        "        refused: AgentMeshError | None = None\n",
        "        refused: AgentMeshError | None = None\n        await workings.reach(lambda: _said(acknowledge))\n",
        COURIER,
    ),
)


def test_there_are_enough_faults_and_each_is_one() -> None:
    assert len(FAULTS) >= 10
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    for fault in FAULTS:
        source = (ROOT / "agentmesh" / fault.module).read_text(encoding="utf-8")
        assert source.count(fault.was) == fault.times, f"{fault.name}: the code has moved on; mend this table"


def shown() -> list[Fault]:
    """All faults where the depth is more than one or AGENTMESH_FAULTS=all, as in `.ci/run`; else one a test list.

    A fault takes two seconds, and somebody who only wants to see the tests pass should not wait for all of them.
    """
    if os.environ.get("AGENTMESH_FAULTS") == "all" or int(os.environ.get("AGENTMESH_DEPTH") or "1") > 1:
        return list(FAULTS)
    return list({fault.tests: fault for fault in reversed(FAULTS)}.values())


@pytest.mark.parametrize("fault", shown(), ids=lambda fault: fault.name.replace(" ", "-"))
def test_a_fault_is_caught(fault: Fault, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "agentmesh", tmp_path / "agentmesh", ignore=shutil.ignore_patterns("__pycache__"))
    left_out = shutil.ignore_patterns("__pycache__", "mutants", ".venv")
    shutil.copytree(ROOT / "tests", tmp_path / "tests", ignore=left_out)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    module = tmp_path / "agentmesh" / fault.module
    module.write_text(module.read_text(encoding="utf-8").replace(fault.was, fault.becomes), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTEST_ADDOPTS", None)
    for name in [name for name in environment if name.startswith("PYTEST_XDIST")]:
        del environment[name]
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-q",
            "-n",
            "0",
            "-p",
            "no:cacheprovider",
            "--hypothesis-profile=first",
            *fault.tests,
        ],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    # 1 is "tests failed"; anything else (nothing collected, an interrupted run) would prove nothing.
    assert run.returncode == 1, f"{fault.name} was not caught:\n{run.stdout[-2000:]}{run.stderr[-2000:]}"
    assert "1 failed" in run.stdout or "1 error" in run.stdout

"""What README.md and docs/ claim is what the code is: every table and number that a machine can hold against it."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import attrs
import pytest

import agentmesh
from agentmesh import (
    Agent,
    BundleClass,
    Conditions,
    Guarantee,
    Identity,
    Intent,
    Limits,
    Reason,
    envelope,
    errors,
    limits,
)
from agentmesh.agt_identity import AgtIdentity
from agentmesh.assurance import guarantees_of
from agentmesh.audit.record import AuditEvent, Outcome
from agentmesh.audit.record import Record as AuditRecord
from agentmesh.cli.text import EXITS
from agentmesh.engine import event_rows
from agentmesh.events import Event
from agentmesh.handshake import prekeys, verdict
from agentmesh.primitives import _crypto, _labels, _wire
from agentmesh.primitives.keys import Receipt, SessionId
from agentmesh.primitives.padding import pad
from agentmesh.session import content, epochs, suite
from agentmesh.session.at_rest import export_session
from agentmesh.session.content import pad_data, pad_signal
from agentmesh.session.epochs import ANSWER_BYTES, MOVES, OFFER_BYTES
from agentmesh.testing import ManualClock, established_pair
from agentmesh.trust import DIRECT_THRESHOLD, TrustGraph, TrustLedger, issue_edge

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PROTOCOL = DOCS / "protocol.md"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]

# --- reading tables --------------------------------------------------------------------------------------------------


@cache
def text_of(page: Path) -> str:
    return page.read_text("utf-8")


def rows(page: Path, header: str) -> Iterator[list[str]]:
    """Yield the cells of every table of `page` whose header line is `header`, without the backticks around a cell."""
    lines = iter(text_of(page).splitlines())
    found = False
    for line in lines:
        if line.strip() != header:
            continue
        found = True
        next(lines)
        for row in lines:
            if not row.startswith("|"):
                break
            cells = re.split(r"(?<!\\)\|", row.strip())[1:-1]
            yield [re.sub(r"^`([^`]*)`$", r"\1", cell.strip()) for cell in cells]
    assert found, f"{page.name} has no table {header}"


def table(page: Path, header: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, *rest in rows(page, header):
        assert name not in found, name
        found[name] = rest
    return found


def section_of(page: Path, heading: str) -> str:
    """Return the text under a heading that begins so, up to the next of its level."""
    level = heading.split()[0]
    start = text_of(page).index("\n" + heading)
    end = text_of(page).find(f"\n{level} ", start + 1)
    return text_of(page)[start : None if end < 0 else end]


# --- labels, limits, errors ------------------------------------------------------------------------------------------


def test_the_label_tables_are_the_label_table() -> None:
    kdf_labels = [name for name, *_ in rows(PROTOCOL, "| KDF label | key | derives |")]
    assert [name.encode() for name in kdf_labels] == list(_labels.KDF_LABELS)
    signature_labels = [name for name, *_ in rows(PROTOCOL, "| signature label | begins |")]
    as_bytes = [b"agentmesh/v1/" + name.encode() + b"\x00" for name in signature_labels]
    assert as_bytes == list(_labels.SIGNATURE_LABELS)


def test_the_limits_table_holds_every_limit_with_its_default() -> None:
    stated = {name: int(value) for name, (value, _) in table(PROTOCOL, "| limit | default | bounds |").items()}
    assert stated == {field.name: field.default for field in attrs.fields(Limits)}


def test_the_constants_table_holds_every_constant_of_the_protocol() -> None:
    stated = {name: int(value) for name, (value, _) in table(PROTOCOL, "| constant | value | why |").items()}
    public = {name: value for name, value in vars(limits).items() if name.isupper() and not name.startswith("_")}
    assert stated == public


def test_the_table_of_epochs_is_the_table_of_the_code() -> None:
    stated = {(before, move): after for before, move, after in rows(PROTOCOL, "| from | by | to |")}
    assert stated == {(str(before), str(move)): str(after) for (before, move), after in MOVES.items()}


def leaves(root: type[errors.AgentMeshError]) -> set[type[errors.AgentMeshError]]:
    """Return the errors that are raised: those of our own tree that have no branch below them."""
    below = {child for child in root.__subclasses__() if child.__module__.startswith("agentmesh.")}
    return {leaf for child in below for leaf in leaves(child)} if below else {root}


ERROR_TABLE = "| code | class | happened | do |"
SECURITY = DOCS / "security.md"
ERRORS_PAGE = DOCS / "how-to" / "errors.md"


@pytest.mark.parametrize("branch", [errors.LocalError, errors.RemoteError, errors.StoreError])
def test_the_errors_page_has_every_leaf_under_its_branch(branch: type[errors.AgentMeshError], tmp_path: Path) -> None:
    [heading] = re.findall(rf"^## .*`{branch.__name__}`$", text_of(ERRORS_PAGE), re.MULTILINE)
    part = tmp_path / "part.md"
    part.write_text(section_of(ERRORS_PAGE, heading), "utf-8")
    stated = {code: cells[0] for code, cells in table(part, ERROR_TABLE).items()}
    assert stated == {leaf.code: leaf.__name__ for leaf in leaves(branch)}


def test_the_errors_page_says_which_are_to_be_offered_again() -> None:
    again = section_of(ERRORS_PAGE, "## Bytes from elsewhere").split("Drop, of any structure")[0]
    for leaf in leaves(errors.RemoteError):
        assert (f"`{leaf.code}`" in again) is issubclass(leaf, errors.TryAgain)


def test_every_error_of_the_tree_has_a_code_of_its_own() -> None:
    every = leaves(errors.AgentMeshError)
    assert len({leaf.code for leaf in every}) == len(every)


def test_the_protocol_lists_every_code_that_bytes_can_be_refused_with() -> None:
    stated = set(table(PROTOCOL, "| code | sections |"))
    assert stated == {leaf.code for leaf in leaves(errors.RemoteError)}


def test_codes_that_pages_name_exist() -> None:
    known = {leaf.code for leaf in leaves(errors.AgentMeshError)} | {str(event) for event in AuditEvent}
    prefixes = {code.partition(".")[0] for code in known} - {"envelope"}
    for page in PAGES:
        for word in re.findall(r"`([a-z]+\.[a-z_]+)`", text_of(page)):
            if word.partition(".")[0] in prefixes and not word.endswith(".py"):  # a file is no code
                assert word in known, (page.name, word)


# --- the interface ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", agentmesh.__all__)
def test_every_public_name_is_in_the_docs(name: str) -> None:
    assert any(re.search(rf"\b{re.escape(name)}\b", text_of(page)) for page in PAGES)


def test_the_events_table_holds_every_event() -> None:
    stated = table(DOCS / "reference" / "overview.md", "| event | from | says |")
    assert set(stated) == {event.__name__ for event in typing.get_args(Event)}
    assert set(stated) <= set(agentmesh.__all__)


def test_the_page_of_events_has_every_attribute_and_says_for_which_done_is_owed() -> None:
    stated = table(DOCS / "reference" / "events.md", "| event | told when | `done` | attributes |")
    assert list(stated) == [event.__name__ for event in typing.get_args(Event)]
    for event in typing.get_args(Event):
        _, done, attributes = stated[event.__name__]
        has = {name for name in dir(event) if not name.startswith("_")}
        # `reply` is named where there can be one: it is `None` by the class elsewhere.
        hints = "" if event is agentmesh.MessageReceived else str(attrs.fields_dict(event)["reply"].type)
        has -= set() if "Outgoing" in hints else {"reply"}
        named = re.findall(r"(?:^|<br>)`(\w+)`, `", attributes)
        assert sorted(named) == sorted(has), event
        assert done == ("yes" if event in typing.get_args(event_rows.Kept) else "no"), event


def test_the_protocol_numbers_the_rows_of_events_as_they_are() -> None:
    stated = {
        int(number): event
        for event, cells in table(PROTOCOL, "| event | array |").items()
        for number in re.findall(r"(?:^|; )(\d+)\b", cells[0])
    }
    assert stated == {tag: form.kind.__name__ for tag, form in event_rows._FORMS.items()}


def test_the_agent_table_holds_every_public_call() -> None:
    stated: set[str] = set()
    for cell in table(DOCS / "reference" / "overview.md", "| `Agent` | gives |"):
        stated.update(re.findall(r"(?:^|`)(\w+)", cell))
    assert stated == {name for name, _ in inspect.getmembers(Agent) if not name.startswith("_")}


def test_the_policy_page_has_the_three_questions() -> None:
    stated = {
        cell.partition("(")[0]
        for cell in table(DOCS / "how-to" / "policy.md", "| call | asked | answer | what it is given |")
    }
    assert stated == {name for name in vars(agentmesh.Policy) if not name.startswith("_")}


def decided(policy: agentmesh.Policy, peer: agentmesh.IdentityKey, action: str) -> str:
    decision = policy.decide(
        agentmesh.KnockRequest(
            peer=peer, session_id=SessionId(bytes(16)), receipt=Receipt(bytes(32)), intent=Intent(action),
            bundle_class=BundleClass.ONE_TIME, time_ms=0, expires_ms=0, has_early_payload=False, fresh=False,
            open_sessions=0,
        )
    )  # fmt: skip
    if not isinstance(decision, agentmesh.Grant):
        return {agentmesh.Deny: "rejected", agentmesh.Ask: "the application is asked"}[type(decision)]
    tiers = {("summarise",): "the tier of 500", ("summarise", "delete"): "the tier of 800"}
    return tiers[tuple(decision.conditions.allowed_actions or ())]


def test_the_table_of_scores_is_what_the_policy_beside_it_does() -> None:
    page = DOCS / "how-to" / "policy.md"
    [block] = [one for one in re.findall(r"```python\n(.*?)```", text_of(page), re.DOTALL) if "by_score" in one]
    alice = Agent.create("example/scores")
    found: dict[str, Any] = {"alice": alice, "Conditions": Conditions}
    exec(block, found)
    by_score = found["by_score"]
    head = "| score | KNOCK for `summarise` | KNOCK for `delete` | messages of a session | known |"
    shown: dict[str, set[int]] = {}
    for band, *fares in rows(page, head):
        first, last, listed = re.fullmatch(r"(\d+)(?: to (\d+))?(?:, (.*))?", band).groups("")  # type: ignore[union-attr]
        change = {"": [], "on the allow list": [by_score.allow, by_score.disallow],
                  "blocked": [by_score.block, by_score.unblock]}[listed]  # fmt: skip
        for do in change[:1]:
            do(alice.key)
        for score in range(int(first), int(last or first) + 1):
            found["SCORES"][alice.key.raw] = score
            assert score not in shown.setdefault(listed, set())
            shown[listed].add(score)
            assert fares == [
                decided(by_score, alice.key, "summarise"),
                decided(by_score, alice.key, "delete"),
                "go on" if by_score.still_allowed(alice.key) else "refused",
                "yes" if by_score.is_known(alice.key.raw) else "no",
            ], (score, listed)
        for undo in change[1:]:
            undo(alice.key)
    assert [len(scores) for scores in shown.values()] == [limits.SCORE_MAX + 1] * 3


def test_what_a_score_comes_to_is_as_the_page_of_policies_says() -> None:
    said = re.search(
        r"has the threshold, (\d+), .* it is (\d+)\. .* by (\d+) a day .* is worth (\d+) at most",
        " ".join(text_of(DOCS / "how-to" / "policy.md").split()),
    )
    assert said is not None
    me, voucher, stranger = Identity.generate(), Identity.generate(), Identity.generate()
    graph = TrustGraph("example/scores", me.key)
    for issuer, subject in ((me, voucher), (voucher, stranger)):
        edge = issue_edge(issuer, subject.key, limits.SCORE_MAX, mesh="example/scores", sequence=1, time_ms=1)
        graph.apply(edge, now_ms=1)
    ledger = TrustLedger("example/scores")
    newcomer = ledger.score(stranger.key)
    assert [int(number) for number in said.groups()] == [
        DIRECT_THRESHOLD, newcomer, limits.SIGNAL_MAX, graph.derived(stranger.key)
    ]  # fmt: skip
    assert Limits().trust_window_seconds == 86_400


def test_the_table_of_guarantees_is_what_sessions_give() -> None:
    by_class = {(True, True): "yes", (True, False): "with a one-time prekey", (False, False): "no"}
    peers = (Identity.generate().key, AgtIdentity.generate().key)
    expected = {}
    for guarantee in Guarantee:
        given = [
            tuple(guarantee in guarantees_of(peer, bundle_class) for bundle_class in BundleClass) for peer in peers
        ]
        expected[str(guarantee)] = [*(by_class[one] for one in given), guarantee.lost]
    assert table(SECURITY, "| guarantee | a session of ours | a session of AGT's | lost without it |") == expected


def test_the_record_tables_are_those_of_the_record() -> None:
    events = table(PROTOCOL, "| event | recorded when | decision |")
    assert set(events) == {str(event) for event in AuditEvent}
    for event, (_, decision) in events.items():
        assert decision == AuditRecord(AuditEvent(event), at_ms=0, mesh="m", sender="s").outcome
    assert all(f"`{outcome}`" in section_of(PROTOCOL, "## 8.") for outcome in Outcome)


def test_versions_are_those_of_the_readme() -> None:
    major_minor = ".".join(agentmesh.__version__.split(".")[:2])
    assert f"Version {major_minor}, protocol version 1." in text_of(ROOT / "README.md")


# --- section numbers -------------------------------------------------------------------------------------------------

_CITED = re.compile(r"[Ss]ections? (\d+(?:\.\d+)*(?:(?:, | and | to |, and )\d+(?:\.\d+)*)*)")
_FOREIGN = re.compile(r"(?:RFC \d+|FIPS \d+|[Ss]pecification|draft-\S+),?\s+\Z")


def cited_sections(source: str) -> set[str]:
    """Return the numbers of our own protocol's sections that a module cites."""
    joined = re.sub(r"\s*\n\s*#?\s*", " ", source)
    return {
        number
        for match in _CITED.finditer(joined)
        if not _FOREIGN.search(joined[: match.start()])
        for number in re.findall(r"\d+(?:\.\d+)*", match[1])
    }


def test_every_section_that_the_code_cites_exists() -> None:
    headings = set(re.findall(r"^#{2,3} (\d+(?:\.\d+)?)\.? ", text_of(PROTOCOL), re.MULTILINE))
    assert {str(number) for number in range(11)} <= headings
    for path in sorted((ROOT / "agentmesh").rglob("*.py")):
        missing = cited_sections(path.read_text("utf-8")) - headings
        assert not missing, (path.name, missing)


def test_citations_are_found() -> None:
    source = """See sections 5 to 7. RFC 8032, section 5.1.6; section
        6.1; FIPS 203 section 7.1. Sections 3, 9.2"""
    assert cited_sections(source) == {"5", "7", "6.1", "3", "9.2"}


DEFAULTS = Limits()


# --- numbers in sentences --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "sentence"),
    [
        (PROTOCOL, f"at most {prekeys.BUNDLE_MAX_BYTES:,} bytes"),
        (PROTOCOL, f"An encoded header has at most {envelope._HEADER_MAX_BYTES} bytes"),
        (PROTOCOL, f"array of at most {DEFAULTS.capabilities_max} texts"),
        (PROTOCOL, f"texts of at most {limits.CAPABILITY_MAX_BYTES} bytes"),
        (PROTOCOL, f"byte string, at most {DEFAULTS.intent_detail_max_bytes:,} bytes"),
        (PROTOCOL, f"byte string of at most {DEFAULTS.plaintext_max_bytes:,} bytes, or nil"),
        (PROTOCOL, f"array of at most {verdict._ACTIONS_MAX} actions"),
        (PROTOCOL, f"reason is a text of at most {content.REASON_MAX_BYTES} bytes"),
        (PROTOCOL, f"At most {DEFAULTS.skipped_keys_per_step:,} keys are skipped at one step"),
        (PROTOCOL, f"At most {DEFAULTS.skipped_keys_per_session:,} skipped keys are kept"),
        (PROTOCOL, f"Kept are the last {limits.KEPT_CHAINS} past chains, and before them at most {limits.LATE_CHAINS}"),
        (PROTOCOL, f"At most {2 + limits.KEPT_CHAINS} openings of {suite.HEADER_BYTES + 16} bytes, and one more for "
                   f"each past chain before the last {limits.KEPT_CHAINS}, "
                   f"{2 + limits.KEPT_CHAINS + limits.LATE_CHAINS} in all"),
        (PROTOCOL, f"an offer has {epochs.OFFER_BYTES} bytes and an answer {epochs.ANSWER_BYTES}"),
        (PROTOCOL, f"{DEFAULTS.one_time_bundles} one-time bundles at a time"),
        (PROTOCOL, f"fewer than {DEFAULTS.one_time_bundles_low} are unused"),
        (PROTOCOL, f"at least {suite.MESSAGE_OVERHEAD_BYTES + 16} bytes of body"),
        (SECURITY, f"`signature_checks_per_second`, {DEFAULTS.signature_checks_per_second:,} |"),
        (SECURITY, f"`knocks_per_identity`, {DEFAULTS.knocks_per_identity} and one a second |"),
        (SECURITY, f"`tracked_identities`, {DEFAULTS.tracked_identities:,} |"),
        (SECURITY, f"`unopened_knocks`, {DEFAULTS.unopened_knocks:,} |"),
        (SECURITY, f"`remembered_knocks`, {DEFAULTS.remembered_knocks:,}; of one sender "
                   f"{DEFAULTS.remembered_knocks_per_identity:,} |"),
        (SECURITY, f"`undecided_knocks`, {DEFAULTS.undecided_knocks:,} |"),
        (SECURITY, f"`sessions_max`, {DEFAULTS.sessions_max:,};"),
        (SECURITY, f"`refusal_records_per_minute`, {DEFAULTS.refusal_records_per_minute} |"),
        (SECURITY, f"`revocations`, {DEFAULTS.revocations:,} |"),
        (DOCS / "how-to" / "policy.md", f"_per_identity` times ({DEFAULTS.remembered_knocks_per_identity})"),
    ],
)  # fmt: skip
def test_a_number_in_a_sentence_is_that_of_the_code(page: Path, sentence: str) -> None:
    assert sentence in re.sub(r"\s+", " ", text_of(page))


def test_strangers_cannot_fill_the_buckets_of_identities_at_the_default_limits() -> None:
    seconds = DEFAULTS.knocks_per_identity * DEFAULTS.knock_refill_seconds  # after so long a bucket is full, and goes
    most = DEFAULTS.signature_checks_per_second * seconds
    assert f"{DEFAULTS.signature_checks_per_second:,} checks a second make {most:,} at most" in text_of(SECURITY)
    assert most < DEFAULTS.tracked_identities - DEFAULTS.tracked_identities // DEFAULTS.reserved_one_in


# --- sizes -----------------------------------------------------------------------------------------------------------


def _identity_with_a_long_did() -> Identity:
    while True:
        identity = Identity.generate()
        if len(identity.did) == 42:
            return identity


@cache
def measured_sizes() -> dict[str, int]:
    clock, mesh = ManualClock(), "example/prod"
    assert len(mesh) == 12
    alice, bob = (Agent.create(mesh, identity=_identity_with_a_long_did(), clock=clock) for _ in range(2))
    shelf = bob.publish_bundles(2)
    rejected = alice.knock(bob.did, shelf.one_time[0], Intent("x")).envelope
    [event] = bob.receive(rejected)
    reject = bob.reject(event, Reason.POLICY).envelope
    [event] = bob.receive(alice.knock(bob.did, shelf.one_time[1], Intent("x")))
    accept = bob.accept(event, Conditions()).envelope
    alice.receive(accept)

    def envelope_bytes(padded: bytes) -> int:
        """Return the size of a message of this plaintext, from that of an empty one: a long body has a longer head."""
        return sizes[0] - 64 + len(padded) + (len(padded) > 64)

    sizes = {size: len(alice.send(bob.did, bytes(size)).envelope) for size in (0, 256, 65_536, 1_048_576)}
    return {
        "bundle": len(shelf.one_time[0]),
        "smallest KNOCK": len(rejected),
        "ACCEPT without conditions": len(accept),
        "REJECT, reason `policy`": len(reject),
        "smallest message": sizes[0],
        "smallest close": len(alice.close(bob.did).envelope),
        "smallest signal": envelope_bytes(pad_signal(b"", ((1, 1),))),
        "smallest message with an offer": envelope_bytes(pad_data(1, b"", b"", bytes(OFFER_BYTES))),
        "smallest message with an answer": envelope_bytes(pad_data(1, b"", b"", bytes(ANSWER_BYTES))),
        "message, beside its padded plaintext, body under 256 bytes": sizes[0] - 64,
        "message, beside its padded plaintext, body under 65,536 bytes": sizes[256] - 272,
        "message, beside its padded plaintext, larger": sizes[1_048_576] - 1_081_344,
        "message with 256 bytes of data": sizes[256],
        "message with 65,536 bytes of data": sizes[65_536],
        "message with 1,048,576 bytes of data": sizes[1_048_576],
    }


def test_the_sizes_table_is_measured() -> None:
    stated = {name: int(size) for name, (size,) in table(PROTOCOL, "| structure | bytes |").items()}
    assert stated == measured_sizes()


def test_the_explanation_gives_the_size_of_a_bundle() -> None:
    assert f"{measured_sizes()['bundle']:,} bytes each" in text_of(DOCS / "explanation.md")


def test_an_idle_session_is_about_half_a_kilobyte() -> None:
    pair = established_pair()
    pair.bob.receive(pair.alice.send(pair.bob.did, b"hello"))
    pair.alice.receive(pair.bob.send(pair.alice.did, b"hello"))
    [session] = pair.alice._core.state.sessions.values()
    assert 400 < len(export_session(session)) < 800
    before = len(pair.bob.export_state())
    pair.bob.publish_bundles(100, last_resort=False)
    assert 130 < (len(pair.bob.export_state()) - before) / 100 < 170


# --- known answers ---------------------------------------------------------------------------------------------------


def test_the_known_answers_are_the_librarys() -> None:
    key = Identity.from_seed(bytes(range(32))).key
    assert {name: value for name, (value,) in table(PROTOCOL, "| value | hex or text |").items()} == {
        "IK": key.raw.hex(),
        "did": key.did,
        "XK": key.dh.hex(),
        'kdf(none, am1-transcript, "", 64)': _crypto.kdf(b"", _labels.TRANSCRIPT, b"", 64).hex(),
        'kdf(32 zero bytes, am1-chain, "", 64)': _crypto.kdf(bytes(32), _labels.CHAIN, b"", 64).hex(),
        'msgpack(1, 127, 128, 4294967296, "a", nil) with "a" a text': _wire.encode(
            [1, 127, 128, 1 << 32, "a", None]
        ).hex(),
        "receipt of the one byte 00": envelope.receipt_of(b"\x00").hex(),
    }
    [header] = [line for line in text_of(PROTOCOL).splitlines() if line.startswith("| len(x) |")]
    lengths = [int(cell) for cell in header.strip("|").split("|")[1:]]
    [[_, *padded]] = rows(PROTOCOL, header)
    assert [int(cell) for cell in padded] == [len(pad(bytes(length))) for length in lengths]


# --- the threats -----------------------------------------------------------------------------------------------------

THREATS = (
    "Spoofing",
    "Tampering",
    "Repudiation",
    "Information disclosure",
    "Denial of service",
    "Elevation of privilege",
)


def test_the_exit_statuses_are_those_of_the_command_line() -> None:
    stated = table(DOCS / "how-to" / "command-line.md", "| exit status | means |")
    assert stated == {str(int(status)): [meaning] for status, meaning in EXITS.items()}


def test_the_readme_says_how_many_tests_there_are(request: pytest.FixtureRequest) -> None:
    match = re.search(r"runs the tests, more than ([0-9,]+) of them", text_of(ROOT / "README.md"))
    assert match is not None
    stated = int(match[1].replace(",", ""))
    if [Path(argument).resolve() for argument in request.config.args] != [ROOT / "tests"]:
        pytest.skip("only a run of the whole suite can tell")
    assert stated <= request.session.testscollected < stated + 2000


@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "security.md"], ids=lambda page: page.name)
def test_every_threat_has_a_mechanism_and_a_test(page: Path) -> None:
    threats = table(page, "| threat | mechanism | tests |")
    assert tuple(threats) == THREATS
    for mechanism, tests in threats.values():
        assert mechanism
        linked = re.findall(r"\]\(([^)]+)\)", tests)
        assert linked
        for target in linked:
            assert (page.parent / target).resolve().is_relative_to(ROOT / "tests"), target

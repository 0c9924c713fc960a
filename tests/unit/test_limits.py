"""What may be set and what may not; and what every error says."""

from __future__ import annotations

import inspect
import pickle
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh import errors, limits
from agentmesh.errors import AgentMeshError, ArgumentInvalid, LocalError, RemoteError, StoreError
from agentmesh.limits import UINT_MAX, Limits
from agentmesh.primitives import padding

NAMES = [attribute.name for attribute in attrs.fields(Limits)]
each_limit = pytest.mark.parametrize("name", NAMES)


# --- limits -----------------------------------------------------------------------------------------------------------


def test_the_protocol_s_constants() -> None:
    # Both sides must agree on these: a change is a new version of the protocol.
    assert {name: value for name, value in vars(limits).items() if name[0] != "_" and type(value) is int} == {
        "CLOCK_TOLERANCE_MS": 300_000,
        "KNOCK_LIFETIME_MAX_MS": 14 * 24 * 3_600_000,
        "PENDING_GRACE_MS": 24 * 3_600_000,
        "LATE_WINDOW_MS": 600_000,
        "KEPT_CHAINS": 5,
        "LATE_CHAINS": 64,
        "OPEN_SESSIONS_PER_PEER": 5,
        "DID_MAX_BYTES": 128,
        "SCORE_MAX": 1000,
        "SIGNAL_MAX": 200,
        "MESH_MAX_BYTES": 64,
        "ACK_RANGES_MAX": 16,
        "ACTION_MAX_BYTES": 128,
        "CAPABILITY_MAX_BYTES": 128,
        "PADDED_MIN_BYTES": 64,
        "CHUNK_EXPONENT_MIN": 16,
        "CHUNK_EXPONENT_MAX": 24,
        "CHUNKS_MAX": 1 << 20,
        "REFERENCE_MAX_BYTES": 4096,
        "REFERENCES_MAX": 16,
        "COUNTER_MAX": 2**32 - 1,
        "UINT_MAX": 2**53 - 1,
    }


def test_the_defaults_of_the_protocol() -> None:
    default = Limits()
    assert default.plaintext_max_bytes == 1 << 20
    assert default.envelope_max_bytes == 2 << 20
    assert default.skipped_keys_per_step == 1000
    assert default.skipped_keys_per_session == 2000
    assert default.skipped_key_lifetime_seconds == 30 * 86_400
    assert default.one_time_bundles == 100
    assert default.one_time_bundles_low == 20
    assert default.one_time_lifetime_seconds == 30 * 86_400
    assert default.last_resort_lifetime_seconds == 21 * 86_400
    assert default.last_resort_rotation_seconds == 7 * 86_400
    assert default.knock_lifetime_seconds == 86_400
    assert default.signature_checks_per_second == 2000
    assert default.unopened_knocks == 1024


SMALLEST = {"plaintext_max_bytes": 1, "intent_detail_max_bytes": 1, "capabilities_max": 1}
LEAST_ENVELOPE = (1 + 1 + 131) * 9 // 8 + 4096  # with the smallest of everything in it
MOST_CONTENT = (UINT_MAX - 4096) // 9 * 8 - 200


def valid_with(name: str, value: int) -> Limits:
    """Limits with one value set, and with its partners moved along where they are ordered."""
    changes = {name: value}
    if name == "skipped_keys_per_step":
        changes["skipped_keys_per_session"] = max(value, 2000)
    if name == "skipped_keys_per_session":
        changes["skipped_keys_per_step"] = min(value, 1000)
    if name == "resend_first_ms":
        changes["resend_longest_ms"] = max(value, 600_000)
    if name == "resend_longest_ms":
        changes["resend_first_ms"] = min(value, 5000)
    if name == "last_resort_lifetime_seconds":
        changes["last_resort_rotation_seconds"] = min(value, 604_800)
    if name == "last_resort_rotation_seconds":
        changes["last_resort_lifetime_seconds"] = max(value, 604_800)
    if name == "envelope_max_bytes":
        changes |= SMALLEST
    if name in SMALLEST:
        changes = {"envelope_max_bytes": UINT_MAX, **SMALLEST, **changes}
    return Limits(**changes)


def edges(name: str) -> tuple[int, int]:
    if name == "envelope_max_bytes":
        return LEAST_ENVELOPE, UINT_MAX
    if name in SMALLEST:
        return 1, MOST_CONTENT // 131 if name == "capabilities_max" else MOST_CONTENT
    # What the protocol, or the last time that there is, allows.
    most = {"knock_lifetime_seconds": 14 * 86_400, **dict.fromkeys(LIFETIMES, UINT_MAX // 2000)}
    return 1, most.get(name, UINT_MAX)


LIFETIMES = ("one_time_lifetime_seconds", "last_resort_lifetime_seconds", "last_resort_rotation_seconds")


@each_limit
def test_a_limit_is_a_positive_integer(name: str) -> None:
    for good in edges(name):
        assert getattr(valid_with(name, good), name) == good
    bad: tuple[Any, ...] = (
        0,
        -1,
        UINT_MAX + 1,
        2**64,
        True,
        False,
        1.0,
        0.5,
        float("nan"),
        float("inf"),
        None,
        "1",
        b"1",
    )
    for wrong in bad:
        with pytest.raises(ArgumentInvalid) as caught:
            Limits(**{name: wrong})
        assert caught.value.argument == name
        assert caught.value.why in ("not an int", "under the least", "over the limit")
        with pytest.raises(ArgumentInvalid):
            attrs.evolve(Limits(), **{name: wrong})


@given(st.sampled_from(NAMES), st.integers())
def test_any_integer_is_taken_in_range_or_refused(name: str, value: int) -> None:
    least, most = edges(name)
    if least <= value <= most:
        assert getattr(valid_with(name, value), name) == value
    elif not 0 < value <= UINT_MAX:
        with pytest.raises(ArgumentInvalid):
            valid_with(name, value)


def test_the_least_envelope_holds_the_least_content() -> None:
    assert Limits(envelope_max_bytes=LEAST_ENVELOPE, **SMALLEST)
    with pytest.raises(ArgumentInvalid) as caught:
        Limits(envelope_max_bytes=LEAST_ENVELOPE - 1, **SMALLEST)
    assert caught.value.argument == "envelope_max_bytes"


@given(st.integers(1, 1 << 30), st.integers(1, 1 << 24), st.integers(1, 1 << 16), st.integers(0, 64))
def test_what_the_sizes_allow_fits_an_envelope(plaintext: int, detail: int, capabilities: int, spare: int) -> None:
    sizes = {"plaintext_max_bytes": plaintext, "intent_detail_max_bytes": detail, "capabilities_max": capabilities}
    content = plaintext + detail + capabilities * 131
    least = content * 9 // 8 + 4096
    with pytest.raises(ArgumentInvalid):
        Limits(**sizes, envelope_max_bytes=least - 1)
    envelope_max = Limits(**sizes, envelope_max_bytes=least + spare).envelope_max_bytes
    # A data message: type, action and marker beside the plaintext; a KNOCK: intent and payload, each with its heads.
    # Outside stand the two headers, the keys, the KEM ciphertext, two sealings and a signature.
    header = 350
    assert header + 16 + 24 + 56 + 32 + 16 + padding.padded_length(plaintext + 1 + 1 + 128 + 1) + 20 <= envelope_max
    knock_content = content + 128 + 3 * 5 + 10
    knock_frame = 32 + 32 + 32 + 1088 + 9 + 72 + 64 + 40
    assert header + knock_frame + padding.padded_length(knock_content + 1) <= envelope_max


def test_a_step_keeps_no_more_than_a_session() -> None:
    assert Limits(skipped_keys_per_step=2000, skipped_keys_per_session=2000)
    with pytest.raises(ArgumentInvalid) as caught:
        Limits(skipped_keys_per_step=2001, skipped_keys_per_session=2000)
    assert caught.value.argument == "skipped_keys_per_step"


@each_limit
def test_limits_do_not_change(name: str) -> None:
    chosen = Limits()
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(chosen, name, 1)
    assert chosen == Limits()
    assert hash(chosen) == hash(Limits())


def test_limits_are_given_by_name() -> None:
    with pytest.raises(TypeError):
        Limits(1)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Limits(no_such_limit=1)  # type: ignore[call-arg]


# --- errors -----------------------------------------------------------------------------------------------------------


def classes() -> list[type[AgentMeshError]]:
    return [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, AgentMeshError)]


LEAVES = [each for each in classes() if not each.__subclasses__()]
BRANCHES = {AgentMeshError, LocalError, RemoteError, StoreError, errors.TryAgain, errors.AttachmentBroken}
SAMPLES: dict[str, Any] = {"argument": "mesh", "condition": "max_messages", "session_id": bytes(16)}


def arguments(leaf: type[AgentMeshError]) -> dict[str, Any]:
    """An argument of each that the error takes: a name, a number or bytes."""
    parameters = inspect.signature(leaf).parameters
    return {
        name: SAMPLES.get(name, 7 if "int" in str(each.annotation) else "name") for name, each in parameters.items()
    }


def instance(leaf: type[AgentMeshError]) -> AgentMeshError:
    return leaf(**arguments(leaf))


def test_the_tree_has_three_kinds_and_every_leaf_is_one() -> None:
    assert set(classes()) - set(LEAVES) == BRANCHES
    assert len(LEAVES) >= 40
    for leaf in LEAVES:
        assert sum(issubclass(leaf, kind) for kind in (LocalError, RemoteError, StoreError)) == 1
        assert not issubclass(leaf, (ValueError, TypeError, KeyError, OSError))


@pytest.mark.parametrize("leaf", LEAVES)
def test_an_error_says_its_code_and_what_to_do(leaf: type[AgentMeshError]) -> None:
    error = instance(leaf)
    assert f"[{leaf.code}]" in str(error)
    assert leaf.text in str(error)
    assert leaf.hint
    assert leaf.hint in str(error)
    assert repr(error) == f"{leaf.__name__}(code={leaf.code!r})"
    assert str(error).isprintable()
    assert error.args == ()


@pytest.mark.parametrize("leaf", LEAVES)
def test_an_error_carries_what_it_was_given_as_attributes(leaf: type[AgentMeshError]) -> None:
    error = instance(leaf)
    for name, value in arguments(leaf).items():
        assert getattr(error, name) == value
    assert set(vars(error)) == set(arguments(leaf))


def test_bytes_are_no_part_of_a_message() -> None:
    # The only free text is a name that the library itself gives: of an argument, a condition or a fault.
    for leaf in LEAVES:
        for name, parameter in inspect.signature(leaf).parameters.items():
            if "bytes" in str(parameter.annotation):
                error = leaf(**{**arguments(leaf), name: b"\xab\xcd" * 8})
                for form in ("abcd", "ABCD", "\\xab", "q83N"):
                    assert form not in str(error) + repr(error)
    assert errors.GapTooLarge().session_id is None


def test_an_error_says_the_numbers_that_it_knows() -> None:
    assert "over the size limit: got 12, allowed 10 [wire.too_large]" in str(errors.TooLarge(12, 10))
    assert "before this one: got 1001, allowed 1000 [message.gap]" in str(errors.GapTooLarge(bytes(16), 1001, 1000))
    assert "before this one [message.gap]" in str(errors.GapTooLarge(bytes(16)))
    assert ": detail: over the limit: got 12, allowed 10 [call" in str(
        ArgumentInvalid("detail", "over the limit", 12, 10)
    )
    assert "takes: did [call" in str(ArgumentInvalid("did"))
    assert "takes: key: over the limit: allowed 0 [call" in str(ArgumentInvalid("key", "over the limit", None, 0))
    assert "forbids this message: max_messages [session" in str(errors.ConditionNotMet("max_messages"))
    assert "of the session: ttl_seconds [message" in str(errors.PeerConditionBroken("ttl_seconds"))
    assert "protocol: ML-KEM-768 [backend" in str(errors.BackendUnfit("ML-KEM-768"))


def test_what_an_envelope_claims_is_no_part_of_the_text() -> None:
    error = errors.UnknownSession("did:agentmesh:somebody", b"0123456789abcdef")
    assert (error.sender, error.session_id) == ("did:agentmesh:somebody", b"0123456789abcdef")
    assert str(error) == str(errors.UnknownSession())


@pytest.mark.parametrize("leaf", LEAVES)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_crosses_to_another_process_whole(leaf: type[AgentMeshError], protocol: int) -> None:
    # Each argument another value, so that attributes in another order than the constructor's are seen.
    given = {
        name: bytes([at]) * 16 if isinstance(value, bytes) else at if isinstance(value, int) else f"{name}{at}"
        for at, (name, value) in enumerate(arguments(leaf).items())
    }
    error = leaf(**given)
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is leaf
    assert (vars(again), str(again)) == (vars(error), str(error))
    assert vars(again) == given


def test_codes_are_stable_names() -> None:
    # What logs, metrics and audit records carry: a renamed code breaks them silently.
    codes = [leaf.code for leaf in LEAVES]
    assert len(set(codes)) == len(codes)
    for code in codes:
        prefix, _, rest = code.partition(".")
        assert prefix.isalpha()
        assert rest
        assert rest.replace("_", "").isalnum()
        assert code == code.lower()
    expected = {
        "Malformed": "wire.malformed",
        "TooLarge": "wire.too_large",
        "UnknownVersion": "wire.version",
        "BadDid": "identity.did",
        "BadIdentityKey": "identity.key",
        "BadPoint": "crypto.point",
        "BadSignature": "signature.invalid",
        "BundleIdentityMismatch": "bundle.identity",
        "BundleMeshMismatch": "bundle.mesh",
        "BundleExpired": "bundle.expired",
        "DecryptionFailed": "message.unopened",
        "DuplicateMessage": "message.duplicate",
        "KnockReplayed": "knock.replayed",
        "ArgumentInvalid": "call.argument",
        "RandomnessFailed": "entropy.failed",
    }
    assert {name: getattr(errors, name).code for name in expected} == expected


def test_try_again_is_remote_and_nothing_else_keeps_bytes() -> None:
    assert {leaf.__name__ for leaf in LEAVES if issubclass(leaf, errors.TryAgain)} == {
        "Busy",
        "InboxFull",
        "MessageEarly",
        "NotYet",
        "TrustFull",
    }

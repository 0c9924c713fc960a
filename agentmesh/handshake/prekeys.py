"""Prekey bundles: signed whole, used once (docs/protocol.md, section 3).

Theory of operation. A bundle is one X25519 prekey and one ML-KEM-768 key under one Ed25519 signature, for one mesh and
one stretch of time. A *one-time* bundle's secrets go when a KNOCK on it has opened; a *last-resort* bundle serves when
the one-time ones have run out, and its secrets go when it expires. The signature covers every byte, so a registry can
neither mix parts nor move a bundle in time, and needs no trust.

`PublishedBundle` is what the owner keeps of each bundle until nobody can name it any more: its secrets while they may
still serve, and the bare memory that it was published afterwards.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, ClassVar, Final, final

from attrs import field, frozen

from agentmesh.envelope import mesh_argument
from agentmesh.errors import (
    ArgumentInvalid,
    BundleExpired,
    BundleIdentityMismatch,
    BundleMeshMismatch,
    Malformed,
    UnknownVersion,
)
from agentmesh.identity import Identity, IdentityKey, did_of, sign_statement, split_statement, verify_statement
from agentmesh.limits import CLOCK_TOLERANCE_MS, MESH_MAX_BYTES, UINT_MAX
from agentmesh.primitives import _crypto, _wire
from agentmesh.primitives._labels import SIGN_BUNDLE
from agentmesh.primitives.arguments import BytesLike, frameless, received_argument, uint_argument
from agentmesh.primitives.entropy import Entropy
from agentmesh.primitives.keys import (
    BundleRef,
    Ed25519PublicKey,
    KemPublicKey,
    KemSeed,
    PrekeySecret,
    Redacted,
    X25519PublicKey,
)

_VERSION: Final = 1
_BODY: Final = _wire.often(
    _wire.Uint(),
    _wire.Uint(),
    _wire.Text(1, MESH_MAX_BYTES),
    _wire.Bin(32),
    _wire.Bin(32),
    _wire.Bin(_crypto.KEM_PUBLIC_BYTES),
    _wire.Uint(),
    _wire.Uint(),
)
BUNDLE_MAX_BYTES: Final = 1500  # a genuine one has at most 1,412: refused by length before any check


class BundleClass(IntEnum):
    """How often a bundle serves."""

    ONE_TIME = 1
    LAST_RESORT = 2


_CLASSES: Final = {int(bundle_class): bundle_class for bundle_class in BundleClass}


@frozen(kw_only=True)
class Bundle:
    """A bundle whose signature, owner, mesh and validity have been verified.

    Attributes:
        bundle_class: One-time or last-resort.
        mesh: The mesh it was published for.
        identity: Its owner.
        prekey: The X25519 prekey, 32 bytes.
        kem_key: The ML-KEM-768 encapsulation key, 1184 bytes.
        not_before_ms: Begin of its validity.
        not_after_ms: End of its validity.
        ref: SHA-256 of the signed body: its name in a KNOCK.
    """

    bundle_class: BundleClass
    mesh: str
    identity: IdentityKey
    prekey: X25519PublicKey = field(repr=False)
    kem_key: KemPublicKey = field(repr=False)
    not_before_ms: int
    not_after_ms: int
    ref: BundleRef = field(repr=lambda ref: ref.hex())


def verify_bundle(data: BytesLike, *, did: str, mesh: str, now_ms: int) -> Bundle:
    """Return the bundle that `data` holds, once everything about it has been verified. Section 3.

    Args:
        data: The bundle as a registry served it.
        did: Whom the caller wants to reach.
        mesh: The mesh that the caller is in.
        now_ms: The caller's clock.

    Raises:
        ArgumentInvalid: `data` is not bytes-like, or `now_ms` is no time.
        TooLarge, Malformed, UnknownVersion: not a bundle of this version.
        BundleIdentityMismatch: another identity's bundle.
        BundleMeshMismatch: another mesh's bundle.
        BadIdentityKey, BadPoint, BadSignature: a key or the signature is not acceptable.
        BundleExpired: outside its validity, with 300 s of tolerance.
    """
    data = received_argument("bundle", data, BUNDLE_MAX_BYTES)
    uint_argument("now_ms", now_ms)
    body, signature = split_statement(data, BUNDLE_MAX_BYTES)
    fields = _wire.decode(body, _BODY, BUNDLE_MAX_BYTES)
    version, class_number, body_mesh, owner, prekey, kem_key, not_before_ms, not_after_ms = fields
    bundle_class = _CLASSES.get(class_number)
    if version != _VERSION or bundle_class is None:
        raise UnknownVersion
    if not_after_ms < not_before_ms:
        raise Malformed
    if did_of(owner) != did:
        raise BundleIdentityMismatch
    if body_mesh != mesh:
        raise BundleMeshMismatch
    identity = IdentityKey(Ed25519PublicKey(owner))
    verify_statement(identity, SIGN_BUNDLE, body, signature)
    _crypto.check_x25519_encoding(prekey)
    _crypto.kem_check(kem_key)
    if not is_valid_at(now_ms, not_before_ms, not_after_ms):
        raise BundleExpired
    return Bundle(
        bundle_class=bundle_class,
        mesh=body_mesh,
        identity=identity,
        prekey=prekey,
        kem_key=kem_key,
        not_before_ms=not_before_ms,
        not_after_ms=not_after_ms,
        ref=BundleRef(_crypto.sha256(body)),
    )


def is_valid_at(now_ms: int, not_before_ms: int, not_after_ms: int) -> bool:
    """Say whether a validity contains `now_ms`, with the tolerance of 300 s at both ends."""
    return not_before_ms - CLOCK_TOLERANCE_MS <= now_ms <= not_after_ms + CLOCK_TOLERANCE_MS


@final
class BundleSecrets(Redacted):
    """The secret halves of one bundle: the X25519 prekey's and the ML-KEM seed.

    The live ML-KEM key, whose expansion costs more than its use, is kept beside the seed until the bundle is used.
    """

    __slots__ = ("_live_kem_key", "kem_seed", "prekey_secret")

    def __init__(self, prekey_secret: PrekeySecret, kem_seed: KemSeed, live_kem_key: _crypto.KemKey | None = None):
        self.prekey_secret: PrekeySecret = prekey_secret
        self.kem_seed: KemSeed = kem_seed
        self._live_kem_key = live_kem_key

    @property
    def kem_key(self) -> _crypto.KemKey:
        """The live decapsulation key; expanded from the seed where this is a restored bundle."""
        if self._live_kem_key is None:
            self._live_kem_key = _crypto.kem_key(self.kem_seed.reveal())
        return self._live_kem_key

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BundleSecrets):
            return NotImplemented
        return (self.prekey_secret == other.prekey_secret) & (self.kem_seed == other.kem_seed)

    __hash__: ClassVar[None] = None  # type: ignore[assignment]


@frozen(kw_only=True)
class PublishedBundle:
    """What its owner remembers of a bundle.

    Attributes:
        ref: Its name in a KNOCK.
        bundle_class: One-time or last-resort.
        not_before_ms: Begin of its validity.
        not_after_ms: End of its validity; secrets and memory go 300 s later.
        secrets: The secret halves, or `None` once a one-time bundle was used, or any was withdrawn.
    """

    ref: BundleRef = field(repr=lambda ref: ref.hex())
    bundle_class: BundleClass
    not_before_ms: int
    not_after_ms: int
    secrets: BundleSecrets | None

    @property
    def forget_at_ms(self) -> int:
        """When secrets and memory of this bundle go."""
        return self.not_after_ms + CLOCK_TOLERANCE_MS

    def used(self) -> PublishedBundle:
        """Return the memory of this bundle without its secrets."""
        return PublishedBundle(
            ref=self.ref,
            bundle_class=self.bundle_class,
            not_before_ms=self.not_before_ms,
            not_after_ms=self.not_after_ms,
            secrets=None,
        )


@frameless
def issue_bundle(
    identity: Identity,
    *,
    bundle_class: BundleClass,
    mesh: str,
    not_before_ms: int,
    not_after_ms: int,
    entropy: Entropy,
) -> tuple[bytes, PublishedBundle]:
    """Return (the bundle's bytes for any registry, what its owner keeps). Section 3.

    Keep the second durably before the first leaves.

    Raises:
        ArgumentInvalid: a mesh name or time that no verifier would take.
    """
    if not isinstance(bundle_class, BundleClass):
        raise ArgumentInvalid("bundle_class", "not a BundleClass")
    mesh = mesh_argument("mesh", mesh)
    uint_argument("not_before_ms", not_before_ms, UINT_MAX - CLOCK_TOLERANCE_MS)
    uint_argument("not_after_ms", not_after_ms, UINT_MAX - CLOCK_TOLERANCE_MS)
    if not_after_ms < not_before_ms:
        raise ArgumentInvalid("not_after_ms", "before not_before_ms")
    prekey_secret = PrekeySecret(entropy.token(32))
    kem_seed = KemSeed(entropy.token(_crypto.KEM_SEED_BYTES))
    kem_key = _crypto.kem_key(kem_seed.reveal())
    body = _wire.encode(
        [
            _VERSION,
            int(bundle_class),
            mesh,
            identity.key.raw,
            _crypto.x25519_public(prekey_secret.reveal()),
            _crypto.kem_public(kem_key),
            not_before_ms,
            not_after_ms,
        ]
    )
    published = PublishedBundle(
        ref=BundleRef(_crypto.sha256(body)),
        bundle_class=bundle_class,
        not_before_ms=not_before_ms,
        not_after_ms=not_after_ms,
        secrets=BundleSecrets(prekey_secret, kem_seed, kem_key),
    )
    return sign_statement(identity, SIGN_BUNDLE, body), published


PUBLISHED_LAYOUT: Final = _wire.array(
    _wire.Bin(32), _wire.Uint(2), _wire.Uint(), _wire.Uint(), _wire.Maybe(_wire.array(_wire.Bin(32), _wire.Bin(64)))
)


def export_published(published: PublishedBundle) -> list[Any]:
    """Return the fields of `PUBLISHED_LAYOUT`: secret, and unsealed."""
    secrets = published.secrets
    return [
        published.ref,
        int(published.bundle_class),
        published.not_before_ms,
        published.not_after_ms,
        None if secrets is None else [secrets.prekey_secret.reveal(), secrets.kem_seed.reveal()],
    ]


def restore_published(fields: list[Any]) -> PublishedBundle:
    """Return what `export_published` wrote; the layout has been checked.

    Raises:
        Malformed: an unknown class.
    """
    ref, class_number, not_before_ms, not_after_ms, secret_fields = fields
    bundle_class = _CLASSES.get(class_number)
    if bundle_class is None:
        raise Malformed
    secrets = None
    if secret_fields is not None:
        prekey_secret, kem_seed = secret_fields
        secrets = BundleSecrets(PrekeySecret(prekey_secret), KemSeed(kem_seed))
    return PublishedBundle(
        ref=ref,
        bundle_class=bundle_class,
        not_before_ms=not_before_ms,
        not_after_ms=not_after_ms,
        secrets=secrets,
    )

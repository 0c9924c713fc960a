"""Codes of refusals that stand in more than one table."""

from __future__ import annotations

from typing import Final

BAD_KEY: Final = "identity.key"
BAD_SIGNATURE: Final = "signature.invalid"
BROKEN: Final = "audit.broken"
CLOSED: Final = "message.closed_session"
CONTRADICTION: Final = "message.contradiction"
DUPLICATE: Final = "message.duplicate"
FULL: Final = "trust.full"
MALFORMED: Final = "wire.malformed"
NOT_ALLOWED: Final = "call.argument"
POINT: Final = "crypto.point"
PROOF: Final = "audit.proof"
REFUSED: Final = "message.refused"
STALE: Final = "trust.stale"
TOO_LARGE: Final = "wire.too_large"
UNFIT: Final = "trust.unfit"
UNMATCHED: Final = "verdict.unmatched"
UNOPENED: Final = "message.unopened"
VERSION: Final = "wire.version"

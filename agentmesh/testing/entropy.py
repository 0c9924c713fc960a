"""Randomness that repeats itself, for tests and vectors. Never use it for anything that is to stay secret."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable
from typing import final

from agentmesh.primitives import _crypto

KemKeys = dict[bytes, _crypto.KemKey]


class SeededEntropy:
    """Deterministic bytes from a seed, and recorded ML-KEM encapsulations.

    The ML-KEM backend draws its own randomness, so a run is only repeated exactly with the encapsulations of the first
    run: take them from `recorded` and pass them as `encapsulations`. When they have run out, fresh ones are drawn.

    Attributes:
        recorded: Every (ciphertext, shared secret) that was given out, in order.
    """

    def __init__(self, seed: int | str | bytes, encapsulations: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self._random = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self._encapsulations = deque(encapsulations)
        self.recorded: list[tuple[bytes, bytes]] = []

    def token(self, size: int, /) -> bytes:
        """Return the next `size` bytes of the seed's sequence."""
        return self._random.randbytes(size)

    def encapsulate(self, public_key: bytes, /) -> tuple[bytes, bytes]:
        """Return the next recorded encapsulation, or a fresh one for this key."""
        _crypto.kem_check(public_key)
        pair = self._encapsulations.popleft() if self._encapsulations else _crypto.kem_encapsulate(public_key)
        self.recorded.append(pair)
        return pair


@final
class SharedEntropy(SeededEntropy):
    """Seeded randomness of one agent, which knows the ML-KEM keys of all, so that a run repeats itself to the byte."""

    def __init__(self, seed: str, kem_keys: KemKeys) -> None:
        super().__init__(seed)
        self._kem_keys = kem_keys

    def token(self, size: int, /) -> bytes:
        """Return the next `size` bytes. A draw as long as an ML-KEM seed is one: its key is known from now on."""
        draw = super().token(size)
        if size == _crypto.KEM_SEED_BYTES:
            live = _crypto.kem_key(draw)
            self._kem_keys[_crypto.kem_public(live)] = live
        return draw

    def encapsulate(self, public_key: bytes, /) -> tuple[bytes, bytes]:
        """Return a ciphertext from the seed, and what its recipient will make of it (FIPS 203's implicit rejection)."""
        live = self._kem_keys.get(public_key)
        if live is None:
            return super().encapsulate(public_key)
        ciphertext = self.token(_crypto.KEM_CIPHERTEXT_BYTES)
        return ciphertext, _crypto.kem_decapsulate(live, ciphertext)

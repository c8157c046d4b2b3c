"""A seeded shuffle of 0..size-1 in constant memory: element by element, so that any block is found without the others.

A Feistel network over the next even power of two, walked until it lands inside (cycle walking: Black & Rogaway,
"Ciphers with Arbitrary Finite Domains", CT-RSA 2002).
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property

ROUNDS = 6


@dataclass(frozen=True)
class Permutation:
    """A bijection of range(size); `key` (at most 64 bytes) chooses which."""

    size: int
    key: bytes

    @cached_property
    def _half_bits(self) -> int:
        return max(1, -(-(self.size - 1).bit_length() // 2))

    def __call__(self, position: int) -> int:
        """Where `position`, 0 <= position < size, goes. On average fewer than 4 passes."""
        if not 0 <= position < self.size:
            raise IndexError(f"position {position} of {self.size}")
        value = self._pass(position)
        while value >= self.size:
            value = self._pass(value)
        return value

    def _pass(self, value: int) -> int:
        bits, mask = self._half_bits, (1 << self._half_bits) - 1
        left, right = value >> bits, value & mask
        for turn in range(ROUNDS):
            left, right = right, left ^ (self._mix(turn, right) & mask)
        return left << bits | right

    def _mix(self, turn: int, half: int) -> int:
        message = turn.to_bytes(1, "little") + half.to_bytes(8, "little")
        return int.from_bytes(hashlib.blake2b(message, key=self.key, digest_size=8).digest(), "little")


def key_of(*parts: object) -> bytes:
    """A permutation key from what it shall depend on, such as the seed and the epoch."""
    return hashlib.sha256(":".join(map(str, parts)).encode()).digest()

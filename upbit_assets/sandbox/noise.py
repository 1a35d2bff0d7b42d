"""Hashing in place of randomness: a key and an index give the same number in any process, in any order."""

from hashlib import blake2b

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
ONE = 1 << 20  # 1.0 in the fixed-point numbers of this package
GOLDEN, FIRST, SECOND = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def key(*parts: object) -> int:
    """A 64-bit hash of the parts."""
    return int.from_bytes(blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest(), "big")


def mix(seed: int, index: Ints) -> npt.NDArray[np.uint64]:
    """SplitMix64 as a counter-based generator: 64 random bits for each index."""
    z = index.astype(np.uint64) * GOLDEN + np.uint64(seed)
    z = (z ^ (z >> np.uint64(30))) * FIRST
    z = (z ^ (z >> np.uint64(27))) * SECOND
    return z ^ (z >> np.uint64(31))


def bits(hashes: npt.NDArray[np.uint64], shift: int, width: int = 20) -> Ints:
    """`width` bits of each hash as integers from 0 to 2**width - 1."""
    return ((hashes >> shift) & ((1 << width) - 1)).astype(np.int64)


def wave(seed: int, x: Ints, scale: int) -> Ints:
    """Value noise at ascending `x`: random in [-ONE, ONE) every `scale`, linearly interpolated.

    Unlike a random walk, it is bounded and can be evaluated at any point.
    """
    cell = x // scale
    first = int(cell[0])
    lattice = bits(mix(seed, np.arange(first, int(cell[-1]) + 2)), 43, 21) - ONE
    left = lattice[cell - first]
    return left if scale == 1 else left + (lattice[cell - first + 1] - left) * (x % scale) // scale

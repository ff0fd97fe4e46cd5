"""Laws of noise: counter-based, so z is a pure function of (seed, tensor name, element index)."""

from blackbox.noise.base import Law
from blackbox.noise.blockwise import Blockwise
from blackbox.noise.coordinate import Coordinate
from blackbox.noise.gaussian import Gaussian
from blackbox.noise.low_rank import LowRank
from blackbox.noise.magnitude import MagnitudeMask
from blackbox.noise.preconditioned import Preconditioned
from blackbox.noise.present import PresentMask
from blackbox.noise.rademacher import Rademacher
from blackbox.noise.scaled import Scaled
from blackbox.noise.sparse import Mask, RandomMask, Sparse
from blackbox.noise.sphere import Sphere

__all__ = [
    "Blockwise",
    "Coordinate",
    "Gaussian",
    "Law",
    "LowRank",
    "MagnitudeMask",
    "Mask",
    "Preconditioned",
    "PresentMask",
    "Rademacher",
    "RandomMask",
    "Scaled",
    "Sparse",
    "Sphere",
]

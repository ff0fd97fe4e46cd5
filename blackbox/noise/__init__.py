"""Laws of noise: counter-based, so z is a pure function of (seed, tensor name, element index)."""

from blackbox.noise.base import Law
from blackbox.noise.coordinate import Coordinate
from blackbox.noise.gaussian import Gaussian
from blackbox.noise.rademacher import Rademacher
from blackbox.noise.scaled import Scaled
from blackbox.noise.sparse import Mask, RandomMask, Sparse
from blackbox.noise.sphere import Sphere

__all__ = ["Coordinate", "Gaussian", "Law", "Mask", "Rademacher", "RandomMask", "Scaled", "Sparse", "Sphere"]

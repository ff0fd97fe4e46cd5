"""Burgers' equation with a coarse solver in the loop: a network corrects what the solver gets wrong."""

from problems.burgers.coarse import CoarseSolver, twin_step
from problems.burgers.corrector import Corrector, roll_out, rolled_error
from problems.burgers.data import Trajectories, random_waves, windows
from problems.burgers.fine import FineSolver, averaged
from problems.burgers.problem import Burgers

__all__ = [
    "Burgers",
    "CoarseSolver",
    "Corrector",
    "FineSolver",
    "Trajectories",
    "averaged",
    "random_waves",
    "roll_out",
    "rolled_error",
    "twin_step",
    "windows",
]

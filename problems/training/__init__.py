"""Training image classifiers from scratch."""

from problems.training.baselines import first_order
from problems.training.problem import ImageClassification

__all__ = ["ImageClassification", "first_order"]

"""Variance reduction: estimators around estimators."""

from blackbox.variance.antithetic import Antithetic
from blackbox.variance.average import Average
from blackbox.variance.base import Wrapper
from blackbox.variance.blocks import Blocks
from blackbox.variance.control_variate import ControlVariate
from blackbox.variance.page import PAGE
from blackbox.variance.recursive import Recursive
from blackbox.variance.saga import SAGA
from blackbox.variance.shrinkage import Shrinkage
from blackbox.variance.spider import SPIDER
from blackbox.variance.storm import STORM
from blackbox.variance.svrg import SVRG

__all__ = [
    "PAGE",
    "SAGA",
    "SPIDER",
    "STORM",
    "SVRG",
    "Antithetic",
    "Average",
    "Blocks",
    "ControlVariate",
    "Recursive",
    "Shrinkage",
    "Wrapper",
]

"""Images of a diffusion model, judged by values, by an order, or by people."""

from problems.diffusion.latent import Latent
from problems.diffusion.pictures import render_again
from problems.diffusion.pipeline import Pipeline
from problems.diffusion.problem import Diffusion
from problems.diffusion.score import Score

__all__ = ["Diffusion", "Latent", "Pipeline", "Score", "render_again"]

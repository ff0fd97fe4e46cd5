"""Images of a diffusion model, judged by values, by an order, or by people."""

from problems.diffusion.clip import Clip
from problems.diffusion.latent import Latent
from problems.diffusion.lora import Lora
from problems.diffusion.lora_problem import DiffusionLora
from problems.diffusion.pictures import render_again
from problems.diffusion.pipeline import Pipeline
from problems.diffusion.problem import Diffusion
from problems.diffusion.prompt import PromptOffset
from problems.diffusion.schedulers import Scheduler
from problems.diffusion.score import Score

__all__ = [
    "Clip",
    "Diffusion",
    "DiffusionLora",
    "Latent",
    "Lora",
    "Pipeline",
    "PromptOffset",
    "Scheduler",
    "Score",
    "render_again",
]

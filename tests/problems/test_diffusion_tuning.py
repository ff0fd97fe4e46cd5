"""Prompt embeddings, noise of steps and adapters as what is tuned, against diffusers' own calls and peft's algebra."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from blackbox.config.loader import load
from blackbox.errors import UserError
from blackbox.execution import WriteFree
from blackbox.noise import Rademacher
from blackbox.probe import Context, Probe, Query

pytest.importorskip("diffusers")
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*deprecated.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning:diffusers.*"),
]

from problems.diffusion import (  # noqa: E402
    Diffusion,
    DiffusionLora,
    Latent,
    Lora,
    Pipeline,
    PromptOffset,
    Scheduler,
    Score,
    render_again,
)

HERE = Path(__file__).stem


def brightness(images: Tensor) -> Tensor:
    return images.mean((1, 2, 3))


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each call of a pipeline rendered."""
    counts: list[int] = []
    call: Callable[..., Tensor] = Pipeline.__call__

    def counted(self: Pipeline, latents: Tensor, *rest: Any) -> Tensor:
        counts.append(len(latents))
        return call(self, latents, *rest)

    monkeypatch.setattr(Pipeline, "__call__", counted)
    return counts


def fixed_latent(pipeline: Pipeline, seed: int = 0) -> Tensor:
    return Latent("fixed", seed=seed).of_shape(pipeline.shape)(torch.empty(1, 0))


# -- prompt ----------------------------------------------------------------------------------------------------------


def test_an_offset_is_what_is_said_of_it() -> None:
    embedding = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    size = embedding.square().mean().sqrt()
    x = torch.randn(2, 40, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(PromptOffset(scale=0.3).around(embedding)(x), (0.3 * size * x).reshape(2, 5, 8))
    some = PromptOffset(size=6, scale=0.3, seed=2).around(embedding)
    units = some(torch.eye(6)).flatten(1)
    torch.testing.assert_close(units @ units.T, torch.eye(6) * (0.3 * size) ** 2 * 40 / 6)
    ones = some(torch.ones(1, 6))  # numbers of size 1 move it by the scale
    torch.testing.assert_close(ones.square().mean().sqrt(), 0.3 * size)
    assert not torch.equal(PromptOffset(size=6, seed=3).around(embedding)(x[:, :6]), some(x[:, :6]))
    with pytest.raises(UserError, match="at most 40"):
        PromptOffset(size=41).around(embedding)


def test_a_prompt_offset_is_added_to_the_embedding_that_diffusers_is_called_with(stable: str, tmp_path: Path) -> None:
    import diffusers

    pipeline = Pipeline(stable, steps=3, final_steps=3, prompt="a cat", guidance_scale=3.0)
    problem = Diffusion(Score(f"{HERE}:brightness"), pipeline, Latent("fixed", seed=4), PromptOffset(scale=0.5))
    assert problem.start.shape == (12 * 16,) and not problem.start.any()
    x = torch.randn(1, 192, generator=torch.Generator().manual_seed(0))

    kit: Any = diffusers
    own = kit.StableDiffusionPipeline.from_pretrained(stable)
    own.set_progress_bar_config(disable=True)
    prompt, negative = own.encode_prompt("a cat", "cpu", 1, True, "")
    more = 0.5 * prompt.square().mean().sqrt() * x.reshape(1, 12, 16)
    latents = fixed_latent(pipeline, 4)
    plain, moved = (
        own(latents=latents, prompt_embeds=p, negative_prompt_embeds=negative, num_inference_steps=3,
            guidance_scale=3.0, output_type="pt").images.detach()
        for p in (prompt, prompt + more)
    )  # fmt: skip
    assert (moved - plain).abs().max() > 1e-3
    torch.testing.assert_close(problem.images(problem.start[None]), plain, atol=1e-5, rtol=0)
    torch.testing.assert_close(problem.images(x), moved, atol=1e-5, rtol=0)
    problem.save_image(tmp_path / "a.png", x[0])
    assert np.array_equal(render_again(tmp_path / "a.png"), problem.render(x[0]))


def test_all_parts_share_one_vector_in_the_order_of_the_documentation(stable: str, rendered: list[int]) -> None:
    pipeline = Pipeline(stable, Scheduler("ddim", eta=1.0), steps=2, final_steps=2, prompt="a cat", guidance_scale=3.0)
    problem = Diffusion(
        Score(f"{HERE}:brightness"),
        pipeline,
        Latent("slerp", 2),
        PromptOffset(3),
        Latent("low-frequency", 1),
        tune_guidance=True,
    )
    k = [2, 3, 2 * 4, 1]
    assert problem.start.shape == (sum(k),)
    here = problem.inputs(problem.start[None])
    for part, (first, last) in enumerate(zip(np.cumsum([0, *k[:-1]]), np.cumsum(k), strict=True)):
        x = problem.start.clone()[None]
        x[0, first:last] += 0.5
        other = problem.inputs(x)
        same = [
            torch.equal(other.latents, here.latents),
            torch.equal(other.offsets, here.offsets),
            torch.equal(other.noises, here.noises),
            other.guidance == here.guidance,
        ]
        assert same == [i != part for i in range(4)]
        known = problem.images(x)
        before = len(rendered)
        assert torch.equal(problem.images(x), known) and len(rendered) == before  # no part escapes the cache
        assert not torch.equal(known, problem.images(problem.start[None]))
    broken = problem.start.repeat(4, 1)
    for row, place in enumerate((3, 6, 13)):
        broken[row, place] = torch.nan
    assert torch.isnan(problem(broken, Context())).tolist() == [True, True, True, False]


# -- noise of steps --------------------------------------------------------------------------------------------------


def given(monkeypatch: pytest.MonkeyPatch, noises: list[Tensor]) -> None:
    """Lets diffusers' own schedulers take these noises where they draw theirs."""
    for module in ("scheduling_ddpm", "scheduling_ddim"):
        monkeypatch.setattr(f"diffusers.schedulers.{module}.randn_tensor", lambda *_, **__: noises.pop(0))


@pytest.mark.parametrize("name", ["ddpm", "ddim"])
def test_noises_go_where_diffusers_own_scheduler_draws_them(
    models: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    import diffusers

    kit: Any = diffusers
    own = kit.DDPMPipeline.from_pretrained(str(models / "pipeline"))
    if name == "ddim":
        own.scheduler = kit.DDIMScheduler.from_config(own.scheduler.config)
    pipeline = Pipeline(str(models / "pipeline"), Scheduler(name, eta=0.7 if name == "ddim" else None))
    x = latents = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    noises = torch.randn(2, 6, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    given(monkeypatch, list(noises.unbind(1)))
    own.scheduler.set_timesteps(6)
    with torch.no_grad():
        for time in own.scheduler.timesteps:
            keys = {"eta": 0.7} if name == "ddim" else {}
            x = own.scheduler.step(own.unet(x, time).sample, time, x, **keys).prev_sample
    truth = (x / 2 + 0.5).clamp(0, 1)
    found = pipeline(latents, 6, noises=noises)
    torch.testing.assert_close(found, truth, atol=1e-4, rtol=0)
    assert 0.05 < float(truth.mean()) < 0.95
    assert torch.equal(found, pipeline(latents, 6, noises=noises))
    assert (found - pipeline(latents, 6, noises=noises.flip(0))).abs().max() > 0.1


def test_each_step_has_a_noise_of_its_own_which_the_number_of_steps_leaves_alone() -> None:
    shape = (1, 4, 4)
    few, many = (Latent("full", seed=3).of_steps(shape, n) for n in (3, 5))
    a, b = few(few.start[None]), many(many.start[None])
    assert a.shape == (1, 3, *shape) and torch.equal(a, b[:, :3])
    lengths = torch.linalg.vector_norm(b.flatten(2), dim=2)
    torch.testing.assert_close(lengths, torch.full((1, 5), 4.0))
    assert (b.flatten(2) @ b.flatten(2).mT / 16)[0].sub(torch.eye(5)).abs().max() < 0.9
    assert len(Latent("low-frequency", 2).of_steps(shape, 3).start) == 12
    assert torch.equal(Latent("fixed", seed=3).of_steps(shape, 3)(torch.empty(1, 0)), a)


def test_noise_is_tuned_as_numbers_and_saved_with_the_picture(models: Path, tmp_path: Path) -> None:
    pipeline = Pipeline(str(models / "pipeline"), "ddpm", steps=3, final_steps=3)
    problem = Diffusion(Score(f"{HERE}:brightness"), pipeline, Latent("fixed"), step_noise=Latent("low-frequency", 2))
    assert problem.start.shape == (12,)
    x = problem.start + 2
    assert (problem.images(x[None]) - problem.images(problem.start[None])).abs().max() > 0.01
    problem.save_image(tmp_path / "a.png", x)
    assert np.array_equal(render_again(tmp_path / "a.png"), problem.render(x))
    fixed = Diffusion(
        Score(f"{HERE}:brightness"),
        Pipeline(str(models / "pipeline"), "ddpm", steps=2, final_steps=4),
        Latent("slerp", 1),
        step_noise=Latent("fixed"),
    )
    assert fixed.start.shape == (1,) and fixed.metrics()["score"] > 0


# -- adapters --------------------------------------------------------------------------------------------------------


def lora_problem(path: str, **keys: Any) -> DiffusionLora:
    pipeline = Pipeline(path, steps=2, final_steps=3, prompt=keys.pop("prompt", ""))
    return DiffusionLora(Score(f"{HERE}:brightness"), pipeline, Lora(rank=2, seed=1), latents=3, **keys)


def test_adapters_alone_are_tuned_and_the_start_is_the_model(models: Path) -> None:
    path = str(models / "pipeline")
    problem = lora_problem(path)
    tensors = problem.parameters().tensors
    assert tensors and all("lora_" in name for name in tensors)
    trained = {name for name, tensor in problem.module.named_parameters() if tensor.requires_grad}
    assert len(trained) == len(tensors)
    plain = Pipeline(path, steps=2)
    latents = torch.cat([fixed_latent(plain, seed) for seed in range(2)])
    assert torch.equal(problem.pipeline(latents, 2), plain(latents, 2))
    again = lora_problem(path).parameters().tensors
    assert all(torch.equal(tensors[name], again[name]) for name in tensors)


@pytest.mark.parametrize("text", [False, True])
def test_displaced_adapters_are_weights_with_the_product_added(models: Path, stable: str, text: bool) -> None:
    """What the write-free execution says of a probe is what a model says whose weights hold W + B A."""
    path, prompt = (stable, "a cat") if text else (str(models / "pipeline"), "")
    problem = lora_problem(path, prompt=prompt)
    parameters = problem.parameters()
    law, seed, c = Rademacher(), 5, 0.2
    query = Query("0", Probe(law, ((seed, c),)))
    before = {name: tensor.clone() for name, tensor in parameters.tensors.items()}
    (outcome,) = WriteFree().evaluate(problem, [query], parameters)
    assert isinstance(outcome, Tensor) and outcome.shape == (3,)
    assert all(torch.equal(before[name], tensor) for name, tensor in parameters.tensors.items())

    moved = {
        spec.name: before[spec.name] + c * law.sample([seed], spec, 0, spec.numel).view(spec.shape)
        for spec in parameters.layout.specs
    }
    plain = Pipeline(path, steps=2, prompt=prompt)
    weights = dict(plain.unet.named_parameters())
    with torch.no_grad():
        for name, b in moved.items():
            if ".lora_B." in name:
                a = moved[name.replace(".lora_B.", ".lora_A.")]
                weights[name.split(".lora_B.")[0] + ".weight"] += b @ a
    inputs = problem._seeded["train"]
    torch.testing.assert_close(outcome, brightness(plain(inputs.latents, 2)).double(), atol=1e-5, rtol=0)
    assert (outcome - problem.values(Context())).abs().max() > 1e-4


def test_queries_of_one_context_see_the_same_latents(models: Path) -> None:
    problem = lora_problem(str(models / "pipeline"), batch_size=2)
    everything = problem.values(Context())
    assert everything.shape == (3,) and len(set(everything.tolist())) == 3
    some = problem.values(Context(batch_seed=7))
    assert torch.equal(some, problem.values(Context(batch_seed=7))) and some.shape == (2,)
    torch.testing.assert_close(problem.values(Context(indices=(2, 0))), everything[[2, 0]], atol=1e-6, rtol=0)
    assert problem.cost(Context(batch_seed=7)) == {"examples": 2}
    assert problem.metrics("train")["score"] == pytest.approx(float(everything.mean()))
    assert problem.metrics("validation")["score"] != problem.metrics("test")["score"]


def test_a_candidate_is_shown_without_moving_the_point(models: Path, rendered: list[int]) -> None:
    problem = lora_problem(str(models / "pipeline"))
    flat = problem.parameters().flat()
    here = problem.render(flat)
    assert here.shape == (8, 24)
    other = problem.render(flat.numpy() + 0.5)
    assert np.abs(here.astype(int) - other).max() > 3 and torch.equal(problem.parameters().flat(), flat)
    calls = len(rendered)
    assert np.array_equal(problem.render(flat), here) and len(rendered) == calls
    for wrong in (flat[1:], flat * torch.nan, "x"):
        with pytest.raises(UserError, match="candidate"):
            problem.render(wrong)


def test_the_configuration_with_adapters_moves_the_score_the_way_it_is_told(models: Path) -> None:
    from blackbox import Session, run
    from blackbox.config.loader import build_strategy

    def before_and_after(maximize: str) -> tuple[float, float]:
        settings = [
            f"problem.pipeline.path={models / 'pipeline'}",
            f"problem.score={{kind: '{HERE}:brightness', maximize: {maximize}}}",
            "problem.pipeline.steps=2",
            "problem.pipeline.final_steps=2",
            "problem.latents=4",
            "problem.test_latents=1",
            "budget.queries=40",
        ]
        config = load(Path(__file__).parents[2] / "configs" / "diffusion-lora.yaml", settings)
        assert config.problem is not None
        problem = config.problem.build()
        before = problem.metrics("train")["score"]
        session = Session(build_strategy(config), problem.parameters(), 0)
        run(session, config.oracle.build(problem=problem), config.budget.build())
        return before, problem.metrics("train")["score"]

    before, higher = before_and_after("true")
    same, lower = before_and_after("false")
    assert same == before and higher > before > lower


# -- mistakes --------------------------------------------------------------------------------------------------------


def test_wrong_inputs_are_refused_before_a_pipeline_runs(
    models: Path, stable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    noisy, text = Pipeline(str(models / "pipeline"), "ddpm"), Pipeline(stable, prompt="a cat")
    monkeypatch.setattr(Pipeline, "_without_prompt", lambda *_: pytest.fail("the pipeline ran"))
    monkeypatch.setattr(Pipeline, "_with_prompt", lambda *_: pytest.fail("the pipeline ran"))
    z, e = torch.ones(1, 1, 8, 8), torch.ones(1, 2, 1, 8, 8)
    for call, words in [
        (lambda: noisy(z, 2), "needs noises"),
        (lambda: noisy(z, 3, noises=e), "noises: .* is needed"),
        (lambda: noisy(z, 2, noises=e.long()), "noises: floating"),
        (lambda: noisy(z, 2, noises=e * torch.inf), "noises: some"),
        (lambda: noisy(z, 2, guidance=[2.0], noises=e), "no guidance"),
        (lambda: noisy(z, 2, offsets=z, noises=e), "no prompt embedding"),
        (lambda: text(torch.ones(1, 4, 8, 8), 2, noises=e), "takes none"),
        (lambda: text(torch.ones(1, 4, 8, 8), 2, offsets=torch.ones(1, 12, 15)), "offsets: .* is needed"),
        (lambda: text(torch.ones(2, 4, 8, 8), 2, guidance=[1.0]), "2 scales"),
    ]:
        with pytest.raises(UserError, match=words):
            call()


def test_mistakes_are_named(models: Path) -> None:
    path, score = str(models / "pipeline"), Score(f"{HERE}:brightness")
    for make, words in [
        (lambda: Diffusion(score, Pipeline(path), Latent("fixed")), "nothing to search"),
        (lambda: Diffusion(score, Pipeline(path), prompt_offset=PromptOffset()), "no prompt embedding"),
        (lambda: Diffusion(score, Pipeline(path), step_noise=Latent()), "adds no noise"),
        (lambda: Diffusion(score, Pipeline(path, "ddpm")), "say which"),
        (lambda: Diffusion(score, Pipeline(path, "ddpm"), step_noise=Latent()), "set final_steps"),
        (lambda: PromptOffset(scale=0.0), "positive"),
        (lambda: PromptOffset(size=0), "1 or more"),
        (lambda: Lora(rank=0), "1 or more"),
        (lambda: Lora(alpha=math.nan), "positive"),
        (lambda: DiffusionLora(score, Pipeline(path), Lora(target_modules=["none"])), "target_modules"),
        (lambda: DiffusionLora(score, Pipeline(path), latents=2, batch_size=3), "1 to 2"),
    ]:
        with pytest.raises(UserError, match=words):
            make()

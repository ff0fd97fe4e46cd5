"""Latents, schedulers and pictures of diffusion models, against scipy, diffusers' own calls and closed forms."""

from __future__ import annotations

import contextlib
import gzip
import math
import os
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.fft
import torch
from torch import Tensor

from blackbox.errors import UserError
from blackbox.probe import Context

pytest.importorskip("diffusers")
with contextlib.suppress(ImportError):  # its first import, not our call, draws from the generator of `random`
    import sklearn.datasets  # noqa: F401
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),  # diffusers hands numpy tensors
    pytest.mark.filterwarnings("ignore:.*deprecated.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning:diffusers.*"),
]

from problems.diffusion import Diffusion, Latent, Pipeline, Score, render_again  # noqa: E402
from problems.diffusion.latent import low_frequencies  # noqa: E402
from problems.diffusion.train_tiny import digits, fashion_mnist, train_classifier  # noqa: E402

SHAPE = (2, 6, 8)


def brightness(images: Tensor) -> Tensor:
    return images.mean((1, 2, 3))


def nothing(images: Tensor) -> Tensor:
    return torch.zeros(3)


HERE = Path(__file__).stem


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.mark.parametrize(("kind", "size"), [("full", None), ("low-frequency", 3), ("random-subspace", 5), ("slerp", 2)])
def test_every_candidate_lies_on_the_shell_and_all_kinds_start_from_the_same_latent(kind: str, size: int) -> None:
    one = Latent(kind, size, seed=4).of_shape(SHAPE)
    moved = torch.stack([one.start, 3 * one.start + 0.7])
    latents = one(moved)
    assert latents.shape == (2, *SHAPE) and latents.dtype == torch.float32
    torch.testing.assert_close(latents.flatten(1).norm(dim=1), torch.full((2,), math.sqrt(96)))
    full = Latent(seed=4).of_shape(SHAPE)
    torch.testing.assert_close(latents[0].flatten(), full.start, atol=1e-5, rtol=0)
    assert not torch.equal(latents[0], latents[1])


def test_low_frequencies_are_scipys_cosine_transform() -> None:
    image = np.random.default_rng(0).standard_normal(SHAPE)
    truth = scipy.fft.dctn(image, axes=(1, 2), norm="ortho")[:, :3, :3]
    found = low_frequencies(SHAPE, 3).T @ torch.from_numpy(image).flatten()
    np.testing.assert_allclose(found.numpy(), truth.flatten(), atol=1e-12)


def test_low_frequency_changes_no_other_frequency_but_by_the_retraction() -> None:
    one = Latent("low-frequency", 2, dtype="float64").of_shape(SHAPE)
    a, b = (
        scipy.fft.dctn(z.double().numpy(), axes=(1, 2), norm="ortho")
        for z in one(torch.stack([one.start, one.start + 1]))
    )
    ratio = (b / a)[:, 2:, :]
    np.testing.assert_allclose(ratio, ratio.flat[0], rtol=1e-3)


def test_slerp_at_one_is_the_other_latent_and_halfway_makes_equal_angles() -> None:
    one = Latent("slerp", 1, dtype="float64").of_shape(SHAPE)
    a, half, b = one(torch.tensor([[0.0], [0.5], [1.0]], dtype=torch.float64)).flatten(1).double()
    assert torch.dot(a, half).item() == pytest.approx(torch.dot(half, b).item(), rel=1e-5)
    assert abs(torch.dot(a, b).item()) / 96 < 0.5  # two draws, nearly orthogonal
    whole = torch.arccos(torch.dot(a, b) / 96).item()
    assert torch.arccos(torch.dot(a, half) / 96).item() == pytest.approx(whole / 2, rel=1e-4)


def test_no_direction_is_no_latent(models: Path) -> None:
    problem = Diffusion(Score(f"{HERE}:brightness"), Pipeline(str(models / "pipeline"), steps=2))
    rows = torch.stack([problem.start, torch.zeros(64), torch.full((64,), torch.inf)])
    values = problem(rows, Context())
    assert torch.isnan(values).tolist() == [False, True, True]


def test_ddim_by_the_loop_is_diffusers_own_pipeline(models: Path) -> None:
    import diffusers

    pipeline = Pipeline(str(models / "pipeline"), "ddim")
    latents = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    kit: Any = diffusers
    ddpm = kit.DDPMPipeline.from_pretrained(str(models / "pipeline"))
    own = kit.DDIMPipeline(ddpm.unet, kit.DDIMScheduler.from_config(ddpm.scheduler.config))
    own.set_progress_bar_config(disable=True)
    # Its call draws its latents itself, from the generator that it is given.
    truth = own(3, generator=torch.Generator().manual_seed(1), num_inference_steps=5, output_type="np").images
    np.testing.assert_allclose(pipeline(latents, 5).permute(0, 2, 3, 1).numpy(), truth, atol=2e-5)


@pytest.mark.parametrize("scheduler", ["ddim", "dpm-solver", "deis", "pndm", "unipc", "ghvb"])
def test_every_scheduler_solves_the_flow_of_normal_data(models: Path, scheduler: str) -> None:
    """Data N(0.2, 0.1^2): the exact noise prediction is known, and the flow takes z to 0.2 + 0.1 z."""
    pipeline = Pipeline(str(models / "pipeline"), scheduler)
    alphas = pipeline._pipe.scheduler.alphas_cumprod

    def exact(x: Tensor, time: Tensor) -> SimpleNamespace:
        a = alphas[int(time)]
        return SimpleNamespace(sample=(1 - a).sqrt() * (x - a.sqrt() * 0.2) / (0.01 * a + 1 - a))

    pipeline._pipe = SimpleNamespace(scheduler=pipeline._pipe.scheduler, unet=exact)
    z = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    images = pipeline(z, 200)
    torch.testing.assert_close(images, (0.2 + 0.1 * z) / 2 + 0.5, atol=0.01, rtol=0)
    assert torch.equal(images, pipeline(z, 200))


def test_incumbent_is_never_rendered_again(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Diffusion(Score(f"{HERE}:brightness"), Pipeline(str(models / "pipeline"), steps=2))
    rendered: list[int] = []
    call: Callable[..., Tensor] = Pipeline.__call__

    def counted(self: Pipeline, latents: Tensor, *rest: Any) -> Tensor:
        rendered.append(len(latents))
        return call(self, latents, *rest)

    monkeypatch.setattr(Pipeline, "__call__", counted)
    first = problem.images(problem.start[None])
    rounded = torch.nextafter(problem.start, torch.tensor(torch.inf))  # the same sum in another order
    again = problem.images(torch.stack([problem.start + 1, rounded, problem.start + 1e-4]))
    assert rendered == [1, 2] and torch.equal(again[1], first[0]) and not torch.equal(again[2], first[0])
    problem.render(problem.start.numpy())
    assert rendered == [1, 2]
    problem.metrics()  # another number of steps is another image
    assert rendered == [1, 2, 1]


@pytest.mark.parametrize("change", [lambda z: z[:, :, :4], lambda z: z.long(), lambda z: z * torch.nan])
def test_wrong_latents_are_refused_before_the_pipeline_runs(
    models: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor], Tensor]
) -> None:
    pipeline = Pipeline(str(models / "pipeline"))
    monkeypatch.setattr(Pipeline, "_without_prompt", lambda *_: pytest.fail("the pipeline ran"))
    with pytest.raises(UserError, match="latents"):
        pipeline(change(torch.ones(1, 1, 8, 8)), 2)


def test_mistakes_are_named(models: Path, tmp_path: Path) -> None:
    path = str(models / "pipeline")
    for make, words in [
        (lambda: Pipeline(path, "euler-ancestral"), "draw noise"),
        (lambda: Pipeline(str(tmp_path)), "no diffusers pipeline"),
        (lambda: Pipeline(path, prompt="a cat"), "takes no prompt"),
        (lambda: Pipeline(path, steps=2000), "more than the 1000"),
        (lambda: Latent("slerp"), "needs a size"),
        (lambda: Latent("full", 3), "has no size"),
        (lambda: Latent("low-frequency", 9).of_shape(SHAPE), "at most 6"),
        (lambda: Score("aesthetic"), "import path"),
        (lambda: Score("target-image"), "target"),
        (lambda: Score(target="a.png"), "target"),
        (lambda: Diffusion(Score(f"{HERE}:brightness"), Pipeline(path), tune_guidance=True), "no guidance"),
        (lambda: render_again(tmp_path / "none.png"), "can't be read"),
    ]:
        with pytest.raises(UserError, match=words):
            make()
    problem = Diffusion(Score(f"{HERE}:nothing"), Pipeline(path, steps=1))
    with pytest.raises(UserError, match=r"shape \[3\] for 1 images"):
        problem(problem.start[None], Context())


def test_classifier_scores_are_softmax_of_its_logits(models: Path) -> None:
    file = str(models / "classifier.safetensors")
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    logits = torch.stack([Score(label=i, value="logit", classifier=file)(images) for i in range(10)], 1)
    score = Score(label=7, classifier=file)
    torch.testing.assert_close(score(images), logits.exp()[:, 7] / logits.exp().sum(1))
    assert score.maximize and score.facts(images[0])["named"] == logits[0].argmax()
    with pytest.raises(UserError, match="classes 0 to 9"):
        Score(label=10, classifier=file)(images)


def test_target_image_is_zero_at_the_picture_itself(models: Path, tmp_path: Path) -> None:
    from PIL import Image

    problem = Diffusion(Score(f"{HERE}:brightness"), Pipeline(str(models / "pipeline"), steps=2))
    Image.fromarray(problem.render(problem.start)).save(tmp_path / "target.png")
    score = Score("target-image", target=str(tmp_path / "target.png"))
    image = problem.images(problem.start[None])
    assert not score.maximize and score(image).item() < (0.5 / 255) ** 2 + 1e-9
    assert score(1 - image).item() == pytest.approx(((1 - 2 * image) ** 2).mean().item(), abs=5e-3)


def test_a_saved_picture_renders_again(models: Path, tmp_path: Path) -> None:
    from PIL import Image

    problem = Diffusion(
        Score(f"{HERE}:brightness"),
        Pipeline(str(models / "pipeline"), "unipc", steps=2, final_steps=4),
        Latent("low-frequency", 3, seed=5),
    )
    problem.save_image(tmp_path / "a.png", problem.start + 1)
    saved = np.asarray(Image.open(tmp_path / "a.png"))
    assert saved.shape == (8, 8) and np.array_equal(render_again(tmp_path / "a.png"), saved)
    problem.save_image(tmp_path / "b.png")
    assert not np.array_equal(np.asarray(Image.open(tmp_path / "b.png")), saved)
    Image.fromarray(saved).save(tmp_path / "plain.png")
    with pytest.raises(UserError, match="holds no latent"):
        render_again(tmp_path / "plain.png")


def test_text_conditioned_pipeline_is_called_with_the_latents_and_the_prompt(stable: str, tmp_path: Path) -> None:
    import diffusers
    from PIL import Image

    pipeline = Pipeline(stable, "ddim", steps=3, final_steps=2, prompt="a cat", guidance_scale=3.0)
    assert pipeline.shape == (4, 8, 8)
    kit: Any = diffusers
    own = kit.StableDiffusionPipeline.from_pretrained(stable)
    own.set_progress_bar_config(disable=True)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    truth = [own("a cat", latents=z[None], num_inference_steps=3, guidance_scale=s, output_type="np").images[0]
             for z, s in zip(latents, (3.0, 6.0), strict=True)]  # fmt: skip
    found = pipeline(latents, 3, [3.0, 6.0]).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(found, np.stack(truth), atol=1e-5)
    np.testing.assert_allclose(pipeline(latents, 3)[0].permute(1, 2, 0).numpy(), truth[0], atol=1e-5)
    assert np.abs(pipeline(latents, 3)[1].permute(1, 2, 0).numpy() - truth[1]).max() > 1e-4

    problem = Diffusion(Score(f"{HERE}:brightness"), pipeline, tune_guidance=True)
    assert problem.start.shape == (257,) and problem.guidance(problem.start[None]) == [3.0]
    other = problem.start.clone()
    other[-1] = math.log(2)
    assert problem.guidance(other[None]) == pytest.approx([6.0])
    problem.save_image(tmp_path / "cat.png", other)
    saved = np.asarray(Image.open(tmp_path / "cat.png"))
    assert saved.shape == (16, 16, 3) and np.array_equal(render_again(tmp_path / "cat.png"), saved)


@pytest.mark.assets
def test_a_trained_model_becomes_surer_of_the_class_by_an_order_alone() -> None:
    from blackbox import Budget, Session, run
    from blackbox.estimators import RankEstimator
    from blackbox.noise import Gaussian
    from blackbox.strategies import GradientStrategy, RankLineSearch
    from oracles import ObjectiveOracle, Ranked

    if "BLACKBOX_ASSETS" not in os.environ:
        pytest.skip("BLACKBOX_ASSETS does not name the folder of test assets")
    folder = Path(os.environ["BLACKBOX_ASSETS"]) / "diffusion"
    score = Score(label=4, value="logit", classifier=str(folder / "fashion_mnist_cnn.safetensors"))
    problem = Diffusion(score, Pipeline(str(folder / "ddpm_fashion_mnist28"), steps=5), Latent(seed=1))
    before = problem.metrics("validation")["score"]
    line_search = RankLineSearch(step=2.0)
    strategy = GradientStrategy(RankEstimator(Gaussian(), epsilon=0.5, probes=10), line_search=line_search)
    run(Session(strategy, problem.parameters(), 0), Ranked(ObjectiveOracle(problem)), Budget(steps=4))
    assert problem.metrics("validation")["score"] > before + 0.5


def test_fashion_mnist_is_read_from_idx_files_and_halved(tmp_path: Path) -> None:
    pixels = np.zeros((3, 28, 28), np.uint8)
    pixels[1, :2, 2:4] = [[255, 0], [0, 255]]
    with gzip.open(tmp_path / "train-images-idx3-ubyte.gz", "wb") as file:
        file.write(struct.pack(">4i", 2051, 3, 28, 28) + pixels.tobytes())
    with gzip.open(tmp_path / "train-labels-idx1-ubyte.gz", "wb") as file:
        file.write(struct.pack(">2i", 2049, 3) + bytes([7, 0, 9]))
    images, labels = fashion_mnist(tmp_path)
    assert images.shape == (3, 1, 14, 14) and labels.tolist() == [7, 0, 9]
    assert images.nonzero().tolist() == [[1, 0, 0, 1]] and images[1, 0, 0, 1] == 0.5
    with pytest.raises(UserError, match="dataset-fashion-mnist"):
        fashion_mnist(tmp_path / "none")


def test_the_built_in_classifier_learns_digits_it_has_not_seen() -> None:
    pytest.importorskip("sklearn")
    images, labels = digits()
    generator = torch.Generator().manual_seed(0)
    classifier = train_classifier(images[:1400], labels[:1400], steps=150, generator=generator)
    assert (classifier(images[1400:]).argmax(1) == labels[1400:]).double().mean() > 0.9

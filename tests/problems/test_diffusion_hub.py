"""Pipelines and CLIP models from folders and hub ids, safetensors only; CLIP scores against transformers' own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from blackbox.errors import UserError

pytest.importorskip("diffusers")
transformers: Any = pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*deprecated.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning:diffusers.*"),
]

from problems.diffusion import Clip, Diffusion, Latent, Pipeline, Score  # noqa: E402


@pytest.fixture(scope="module")
def clip(stable: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A CLIP model of random weights for 16x16 images, with the pipeline's tokenizer."""
    folder = tmp_path_factory.mktemp("clip")
    shutil.copytree(Path(stable) / "tokenizer", folder, dirs_exist_ok=True)
    words = len(json.loads((Path(stable).parent / "vocab.json").read_text()))
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": words - 2, "eos_token_id": words - 1, "pad_token_id": words - 1}
    config = transformers.CLIPConfig(
        text_config={**small, **ends, "vocab_size": words, "max_position_embeddings": 12},
        vision_config={**small, "image_size": 16, "patch_size": 8},
        projection_dim=8,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.CLIPModel(config)
        for tensor in model.parameters():  # the library's own start is too close to zero to tell images apart
            torch.nn.init.normal_(tensor, std=0.3)
    model.save_pretrained(folder)
    return str(folder)


def pictures(size: int = 16, channels: int = 3) -> Tensor:
    return torch.rand(4, channels, size, size, generator=torch.Generator().manual_seed(0))


def test_clip_scores_are_the_cosines_that_transformers_gives(clip: str) -> None:
    model = transformers.CLIPModel.from_pretrained(clip).eval()
    tokens = transformers.CLIPTokenizer.from_pretrained(clip)(["a cat"], return_tensors="pt")
    processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    bytes_ = (pictures() * 255).round().to(torch.uint8)
    pixels = processor([one.permute(1, 2, 0).numpy() for one in bytes_], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        out = model(input_ids=tokens["input_ids"], pixel_values=pixels)
    truth = (out.logits_per_image[:, 0] / model.logit_scale.exp()).double()
    score = Score("clip", clip=Clip(clip, "a cat"))
    found = score(bytes_ / 255)
    assert score.maximize and found.dtype == torch.float64 and found.std() > 0.01
    torch.testing.assert_close(found, truth, atol=1e-5, rtol=0)
    assert not torch.allclose(Score("clip", clip=Clip(clip, "dog"))(bytes_ / 255), found, atol=1e-3)


def test_images_are_resized_and_cut_as_the_library_does(clip: str) -> None:
    images = torch.rand(1, 3, 40, 50, generator=torch.Generator().manual_seed(2))
    images = torch.nn.functional.avg_pool2d(images, 5, 1, 2)  # smooth: the two bicubic filters differ at edges
    processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    array = (images[0] * 255).round().to(torch.uint8)
    truth = torch.as_tensor(np.asarray(processor(array.permute(1, 2, 0).numpy())["pixel_values"][0]))
    found = Clip(clip, "a cat")._prepared(array[None] / 255)[0]
    assert found.shape == (3, 16, 16)
    torch.testing.assert_close(found, truth, atol=0.05, rtol=0)


def test_an_aesthetic_head_is_linear_in_the_unit_embedding(clip: str, tmp_path: Path) -> None:
    weight = torch.randn(1, 8, generator=torch.Generator().manual_seed(1))
    save_file({"weight": weight, "bias": torch.tensor([5.0])}, tmp_path / "head.safetensors")
    found = Clip(clip, head=str(tmp_path / "head.safetensors"))(pictures())
    each = []
    for i in range(8):  # its coordinates, one head at a time
        save_file({"weight": torch.eye(8)[i : i + 1].clone(), "bias": torch.zeros(1)}, tmp_path / "one.safetensors")
        each.append(Clip(clip, head=str(tmp_path / "one.safetensors"))(pictures()))
    unit = torch.stack(each, 1)
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(4, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(found, unit @ weight[0].double() + 5, atol=1e-5, rtol=0)


def test_grey_images_are_scored_too_and_a_search_raises_the_score(clip: str, models: Path) -> None:
    from blackbox import Budget, Session, run
    from blackbox.strategies import CMAES
    from oracles import ObjectiveOracle

    score = Score("clip", clip=Clip(clip, "a cat"))
    problem = Diffusion(score, Pipeline(str(models / "pipeline"), steps=2), Latent("low-frequency", 3))
    before = problem.metrics("validation")["score"]
    run(Session(CMAES(sigma=0.5), problem.parameters(), 0), ObjectiveOracle(problem), Budget(queries=60))
    assert problem.metrics("validation")["score"] > before + 0.01


def test_without_a_hub_an_id_is_a_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Offline by our own key, and by the hub library's variable."""
    import huggingface_hub.constants as constants

    calls: list[Callable[[], object]] = [
        lambda: Pipeline("nobody/nothing", local_files_only=True),
        lambda: Clip("nobody/nothing", "a cat", local_files_only=True),
    ]
    for call in calls:
        with pytest.raises(UserError, match=r"hub id \(there is no such folder here\) 'nobody/nothing'") as caught:
            call()
        assert "\n" not in str(caught.value)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="nobody/nothing"):
        Pipeline("nobody/nothing")


def test_local_files_only_reaches_the_library(monkeypatch: pytest.MonkeyPatch, stable: str, clip: str) -> None:
    import diffusers

    seen: list[tuple[bool, bool]] = []

    def watched(load: Callable[..., Any]) -> Any:
        def from_pretrained(path: str, **keys: Any) -> Any:
            seen.append((keys["local_files_only"], keys["use_safetensors"]))
            return load(path, **keys)

        return staticmethod(from_pretrained)

    kit: Any = diffusers
    for owner in (kit.DiffusionPipeline, transformers.CLIPModel):
        monkeypatch.setattr(owner, "from_pretrained", watched(owner.from_pretrained))
    Pipeline(stable, local_files_only=True)
    Clip(clip, "a cat", local_files_only=True)
    Pipeline(stable)
    assert seen[0] == (True, True) and (True, True) in seen[1:] and (False, True) in seen[1:]


def test_a_folder_with_pickled_weights_is_refused(models: Path, clip: str, tmp_path: Path) -> None:
    shutil.copytree(models / "pipeline", tmp_path / "pipeline")
    weights = tmp_path / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(UserError, match="safetensors"):
        Pipeline(str(tmp_path / "pipeline"))
    shutil.copytree(clip, tmp_path / "clip")
    weights = tmp_path / "clip" / "model.safetensors"
    torch.save(load_file(weights), tmp_path / "clip" / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(UserError, match="safetensors"):
        Clip(str(tmp_path / "clip"), "a cat")


def test_mistakes_are_named(clip: str, stable: str, models: Path, tmp_path: Path) -> None:
    save_file({"weight": torch.ones(1, 3), "bias": torch.ones(1)}, tmp_path / "head.safetensors")
    text_only = str(Path(stable) / "text_encoder")
    for make, words in [
        (lambda: Clip(clip), "one of the two"),
        (lambda: Clip(clip, "a cat", head="x"), "one of the two"),
        (lambda: Clip(clip, "abcdefghijklmnop"), "tokens"),
        (lambda: Clip(clip, head=str(tmp_path / "none")), "can't be read"),
        (lambda: Clip(clip, head=str(tmp_path / "head.safetensors")), r"weight \[1, 8\]"),
        (lambda: Clip(text_only, "a cat"), "model: "),
        (lambda: Score("clip"), "go with the kind"),
        (lambda: Score(clip=Clip(clip, "a cat")), "go with the kind"),
    ]:
        with pytest.raises(UserError, match=words):
            make()

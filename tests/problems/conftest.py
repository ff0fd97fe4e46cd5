"""Tiny diffusion pipelines of random weights, on disk, for all tests of a session."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained DDPM of 8x8 images and a classifier."""
    pytest.importorskip("diffusers")
    from problems.diffusion.train_tiny import train

    folder = tmp_path_factory.mktemp("models")
    images = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    train(folder, images, torch.arange(64) % 10, steps=4)
    return folder


@pytest.fixture(scope="session")
def stable(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A StableDiffusionPipeline of random weights, with a tokenizer of single letters."""
    diffusers: Any = pytest.importorskip("diffusers")
    transformers: Any = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("stable")
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=12, pad_token="<|endoftext|>"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = diffusers.UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=4,
            norm_num_groups=4,
        )
        vae = diffusers.AutoencoderKL(
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=4,
        )
        config = transformers.CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=12,
            bos_token_id=len(words) - 2,
            eos_token_id=len(words) - 1,
            pad_token_id=len(words) - 1,
        )
        encoder = transformers.CLIPTextModel(config)
    pipe = diffusers.StableDiffusionPipeline(
        vae,
        encoder,
        tokenizer,
        unet,
        diffusers.DDIMScheduler(steps_offset=1, clip_sample=False),
        None,
        None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder / "pipe")
    return str(folder / "pipe")

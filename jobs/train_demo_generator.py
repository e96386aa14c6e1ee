"""Train the generator of the embedded world and write it as a folder of diffusers' layout.

    python jobs/train_demo_generator.py --out ffr_dist/weights/demo --work build/generator

Everything is trained from scratch on the embedded world's ``generator`` split and on nothing else: a tokenizer whose
tokens are whole words; a critic (a small digit classifier); an autoencoder that must keep what the critic looks at; and
a text encoder with a denoising UNet on its latents. Seeds and numbers of steps are fixed. A killed run goes on from its
last checkpoint in ``--work``. ``--quick`` runs every stage for a few steps, to see that the script works.

``--bias-ratio`` makes another generator, for the question whether one that saw nothing but the classifiers' biased data
helps them: it learns from the demo's training split of seed 0 at that ratio, camera gap included, in place of the
generator's own. ``--share`` shortens every stage to that share of its steps, ``--denoiser-share`` those of the denoiser.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import tokenizers
import torch
import transformers
from torch import nn
from torch.nn import functional

from ffr_dist.datasets.embedded import DIGIT_WORDS, PHOTOGRAPHS, SIZE, EmbeddedConfig, prompt
from ffr_dist.store import open_store
from ffr_dist.train import Checkpoints, FitConfig, Progress, Task, fit

SEED = 0
TOKENS = 12
"""Length of a prompt in tokens: two more than the longest needs."""
VOCABULARY = ("a", "an", "the", "photo", "of", "digit", "number", "over", "on", "and", *PHOTOGRAPHS, *DIGIT_WORDS)

LATENT_CHANNELS = 4
KL_WEIGHT = 1e-4
EDGE_WEIGHT = 0.25
CRITIC_WEIGHT = 0.1
NO_PROMPT = 0.08
NO_PHOTOGRAPH = 0.06

CRITIC = FitConfig(
    steps=700, lr=2e-3, schedule="cosine", warmup_steps=20, checkpoint_every=700, log_every=100, seed=SEED
)
AUTOENCODER = FitConfig(
    steps=2_600,
    lr=2e-3,
    betas=(0.9, 0.99),
    weight_decay=1e-4,
    schedule="cosine",
    warmup_steps=100,
    final_lr=0.01,
    clip_norm=1.0,
    checkpoint_every=500,
    log_every=100,
    seed=SEED,
)
DENOISER = FitConfig(
    steps=9_500,
    lr=1e-3,
    betas=(0.9, 0.99),
    weight_decay=1e-3,
    schedule="cosine",
    warmup_steps=200,
    final_lr=0.01,
    clip_norm=1.0,
    ema=0.9985,
    checkpoint_every=1_000,
    log_every=250,
    seed=SEED,
)
DENOISER_AGAIN = DENOISER.model_copy(update={"steps": 4_500, "lr": 6e-4})
"""A second, shorter cycle from the average of the first: the digits are learnt late in that one."""
BATCH = {"critic": 64, "autoencoder": 32, "denoiser": 32}
NOISE_SCHEDULE: Mapping[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
}


@dataclass(frozen=True, slots=True)
class Batch:
    pixels: torch.Tensor
    """Images in [-1, 1], or their latents."""
    digit: torch.Tensor
    bias: torch.Tensor

    def __len__(self) -> int:
        return len(self.digit)

    def to(self, device: torch.device) -> Batch:
        return Batch(self.pixels.to(device), self.digit.to(device), self.bias.to(device))


@dataclass(frozen=True, slots=True)
class Pool:
    """Images (uint8) or latents (float) with their digits and photographs; batches are drawn with replacement."""

    pixels: torch.Tensor
    digit: torch.Tensor
    bias: torch.Tensor
    batch: int

    def iterate(self, start: int, rank: int, world: int) -> Iterator[Batch]:
        step = start
        while True:
            draws = torch.Generator().manual_seed((SEED << 32) + step)
            rows = torch.randint(len(self.pixels), (self.batch,), generator=draws)[rank::world]
            yield Batch(unit(self.pixels[rows]), self.digit[rows], self.bias[rows])
            step += 1


class Critic(nn.Module):
    """Reads a digit; what its layers see on the way is what the autoencoder must keep."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(3, 24, 5, 2, 2), nn.GroupNorm(8, 24), nn.ReLU()),
                nn.Sequential(nn.Conv2d(24, 40, 3, 1, 1), nn.MaxPool2d(2), nn.GroupNorm(8, 40), nn.ReLU()),
                nn.Sequential(nn.Conv2d(40, 64, 3, 1, 1), nn.MaxPool2d(2), nn.GroupNorm(8, 64), nn.ReLU()),
                nn.Sequential(nn.Conv2d(64, 96, 3, 1, 1), nn.GroupNorm(8, 96), nn.ReLU()),
            ]
        )
        self.head = nn.Linear(96 * 16, len(DIGIT_WORDS))

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        seen = [images]
        for block in self.blocks:
            seen.append(block(seen[-1]))
        return seen[1:]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.features(images)[-1].flatten(1))
        return logits


class Compressor(nn.Module):
    """The autoencoder with its loss, one number per image."""

    def __init__(self, vae: Any, critic: Critic) -> None:
        super().__init__()
        self.vae = vae
        self.critic = critic.requires_grad_(requires_grad=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        posterior = self.vae.encode(images).latent_dist
        again = self.vae.decode(posterior.sample()).sample
        error = again - images
        across, down = error.diff(dim=-1).abs().flatten(1).mean(1), error.diff(dim=-2).abs().flatten(1).mean(1)
        kl = posterior.kl() / posterior.mean[0].numel()
        likeness = (0.5 * error.abs() + error.square()).flatten(1).mean(1) + EDGE_WEIGHT * (across + down)
        loss: torch.Tensor = likeness + KL_WEIGHT * kl + CRITIC_WEIGHT * self._critique(again, images)
        return loss

    def _critique(self, again: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            wanted = self.critic.features(images)
        seen = self.critic.features(again)
        parts = [(one - other).abs().flatten(1).mean(1) / other.mean() for one, other in zip(seen, wanted, strict=True)]
        return torch.stack(parts).mean(0)


class Denoiser(nn.Module):
    """UNet and text encoder, with their loss on the latents, one number per image."""

    def __init__(self, unet: Any, text_encoder: Any, tokenizer: Any) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder
        self.noise = diffusers.DDPMScheduler(**NOISE_SCHEDULE, clip_sample=False)
        texts = [""]
        for digit, word in enumerate(DIGIT_WORDS):
            texts += [f"a photo of the digit {word}", *(prompt(digit, bias) for bias in range(len(PHOTOGRAPHS)))]
        tokens = tokenizer(texts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
        self.register_buffer("tokens", tokens.input_ids, persistent=False)

    def forward(self, batch: Batch) -> torch.Tensor:
        size = len(batch.pixels)
        device = batch.pixels.device
        photograph = torch.where(torch.rand(size, device=device) < NO_PHOTOGRAPH, 0, 1 + batch.bias)
        text = 1 + batch.digit * (1 + len(PHOTOGRAPHS)) + photograph
        text = torch.where(torch.rand(size, device=device) < NO_PROMPT, 0, text)
        # Spread evenly over the times, which makes the loss of a batch less noisy than independent draws do.
        spread = (torch.randperm(size, device=device) + torch.rand(size, device=device)) / size
        times = (spread * self.noise.config.num_train_timesteps).long()
        noise = torch.randn_like(batch.pixels)
        noisy = self.noise.add_noise(batch.pixels, noise, times)
        wanted = self.noise.get_velocity(batch.pixels, noise, times)
        words = self.text_encoder(self.tokens).last_hidden_state[text]
        given = self.unet(noisy, times, encoder_hidden_states=words).sample
        error: torch.Tensor = (given - wanted).square().flatten(1).mean(1)
        return error


@dataclass(slots=True)
class Workshop:
    """Where the stages keep checkpoints, and what they tell about themselves."""

    checkpoints: Path
    quick: bool
    share: float
    """Of the steps of each stage."""
    log: dict[str, Any]

    def train(self, task: Task, config: FitConfig, batch: int) -> None:
        config = config.model_copy(update={"steps": max(1, round(self.share * config.steps))})
        if self.quick:
            config = config.model_copy(update={"steps": 3, "log_every": 1, "checkpoint_every": None, "warmup_steps": 0})
        began = time.monotonic()

        def tell(progress: Progress) -> None:
            seconds = time.monotonic() - began
            print(f"{task.name} {progress.step}/{progress.steps} loss {progress.loss:.4f} {seconds:.0f} s", flush=True)

        store = open_store(str(self.checkpoints))
        result = fit(task, config, checkpoints=Checkpoints(store, task.name), progress=tell)
        self.log[task.name] = {
            "steps": config.steps,
            "batch": batch,
            "parameters": sum(p.numel() for p in task.model.parameters() if p.requires_grad),
            "seconds_in_this_run": round(time.monotonic() - began),
            "loss": {row["step"]: round(row["loss"], 4) for row in result.history if "loss" in row},
        }


def unit(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.float() / 127.5 - 1 if pixels.dtype == torch.uint8 else pixels


def learned_images(bias_ratio: float | None, limit: int | None) -> Pool:
    """What the generator learns from: its own images, or the training split of a bias ratio."""
    config = EmbeddedConfig() if bias_ratio is None else EmbeddedConfig(bias_ratio=bias_ratio)
    name = "generator" if bias_ratio is None else "train"
    split = next(split for split in config.splits(SEED) if split.name == name)
    samples = [sample for sample, _ in zip(split.samples(), range(limit or 10**9), strict=False)]
    pixels = np.stack([np.asarray(sample.image) for sample in samples])
    return Pool(
        torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(),
        torch.tensor([int(sample.name.removeprefix("digit")[0]) for sample in samples]),
        torch.tensor([sample.group.bias for sample in samples]),
        batch=1,
    )


def make_tokenizer(folder: Path) -> Any:
    """A CLIP tokenizer by byte pairs merged until each word of the vocabulary is one token."""
    model = tokenizers.Tokenizer(tokenizers.models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))  # noqa: S106
    model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    specials = ["<|startoftext|>", "<|endoftext|>"]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=2000,
        min_frequency=1,
        special_tokens=specials,
        initial_alphabet=letters,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    model.train_from_iterator([" ".join(VOCABULARY)] * 5, trainer)
    merges = [tuple(merge) for merge in json.loads(model.to_str())["model"]["merges"]]
    tokens = dict.fromkeys([*specials, *letters, *(f"{letter}</w>" for letter in letters)])
    tokens |= dict.fromkeys(first + second for first, second in merges)
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary, rules = folder / "vocab.json", folder / "merges.txt"
    vocabulary.write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    rules.write_text("\n".join(["#version: 0.2", *(f"{first} {second}" for first, second in merges), ""]))
    tokenizer = transformers.CLIPTokenizer(vocab=str(vocabulary), merges=str(rules), model_max_length=TOKENS)
    split = [word for word in VOCABULARY if len(tokenizer(word).input_ids) != 3]
    if split:
        raise SystemExit(f"the tokenizer takes these words apart: {', '.join(split)}")
    return tokenizer


def train_critic(workshop: Workshop, pool: Pool) -> Critic:
    torch.manual_seed(SEED)
    critic = Critic()

    def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
        return functional.cross_entropy(model(batch.pixels), batch.digit, reduction="sum")[None]

    task = Task(name="critic", model=critic, batches=_sized(pool, BATCH["critic"]), counts=_count, loss=loss)
    workshop.train(task, CRITIC, BATCH["critic"])
    return critic


def train_autoencoder(workshop: Workshop, pool: Pool, critic: Critic) -> Any:
    torch.manual_seed(SEED)
    vae = diffusers.AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=LATENT_CHANNELS,
        sample_size=SIZE,
        block_out_channels=(32, 48, 64),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        mid_block_add_attention=False,
        force_upcast=False,
        scaling_factor=1.0,
    )

    def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
        losses: torch.Tensor = model(batch.pixels)
        return losses.sum()[None]

    batches = _sized(pool, BATCH["autoencoder"])
    task = Task(name="autoencoder", model=Compressor(vae, critic), batches=batches, counts=_count, loss=loss)
    workshop.train(task, AUTOENCODER, BATCH["autoencoder"])
    whiten(vae, encode(vae, pool.pixels[:2000]))
    return vae.eval()


@torch.no_grad()
def encode(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Means of the latents, as the UNet sees them."""
    device = vae.device
    means = [vae.encode(unit(part).to(device)).latent_dist.mean.cpu() for part in torch.split(pixels, 500)]
    return torch.cat(means) * float(vae.config.scaling_factor)


@torch.no_grad()
def whiten(vae: Any, latents: torch.Tensor) -> None:
    """Fold mean 0 and variance 1 of each latent channel into the 1x1 convolutions around the latents.

    A scaling factor, which is all that a pipeline knows, would leave them unequal to the UNet; theirs stays 1.
    """
    mean, std = latents.mean((0, 2, 3)).to(vae.device), latents.std((0, 2, 3)).to(vae.device)
    before, after, channels = vae.quant_conv, vae.post_quant_conv, len(mean)
    before.bias[:channels] -= mean
    before.bias[:channels] /= std
    before.weight[:channels] /= std[:, None, None, None]
    before.bias[channels:] -= 2 * std.log()
    after.bias += (after.weight[:, :, 0, 0] * mean).sum(1)
    after.weight *= std[None, :, None, None]


def train_denoiser(workshop: Workshop, latents: Pool, tokenizer: Any) -> Denoiser:
    """Returns the moving average of the weights."""
    torch.manual_seed(SEED)
    text_encoder = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            projection_dim=64,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            # At CLIP's own 0.02 the words are so alike at first that the UNet learns to ignore them.
            initializer_range=0.3,
        )
    )
    unet = diffusers.UNet2DConditionModel(
        sample_size=latents.pixels.shape[-1],
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(64, 96),
        layers_per_block=1,
        # Attention in the middle only: on 4x4 latents convolutions reach everywhere, and cost a quarter less time.
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        cross_attention_dim=64,
        attention_head_dim=4,
        norm_num_groups=16,
        resnet_time_scale_shift="scale_shift",
        # The text also joins the time embedding: by cross-attention alone the digits were not learnt.
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )
    denoiser = Denoiser(unet, text_encoder, tokenizer)
    for name, config in (("denoiser", DENOISER), ("denoiser-again", DENOISER_AGAIN)):
        task = Task(
            name=name,
            model=denoiser,
            batches=_sized(latents, BATCH["denoiser"]),
            counts=_count,
            loss=_denoising_loss,
        )
        workshop.train(task, config, BATCH["denoiser"])
    return denoiser.eval()


def _denoising_loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    losses: torch.Tensor = model(batch)
    return losses.sum()[None]


def save(folder: Path, vae: Any, denoiser: Denoiser, tokenizer: Any, words: Path) -> None:
    """The pipeline in half precision, with the sampler that needs the fewest steps."""
    scheduler = diffusers.DPMSolverMultistepScheduler(**NOISE_SCHEDULE, lambda_min_clipped=-5.1, steps_offset=1)
    pipe = diffusers.StableDiffusionPipeline(
        vae=copy.deepcopy(vae),
        text_encoder=copy.deepcopy(denoiser.text_encoder),
        tokenizer=tokenizer,
        unet=copy.deepcopy(denoiser.unet),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.to(dtype=torch.float16).save_pretrained(folder, safe_serialization=True)
    # transformers opens a part in the type that its config names, diffusers in float32: let both do that.
    config = folder / "text_encoder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "float32"}, indent=2) + "\n")
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(words / name, folder / "tokenizer" / name)
    for path in folder.rglob("*"):
        # Weights are written for their owner only, and would be unreadable in a wheel.
        path.chmod(0o755 if path.is_dir() else 0o644)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--out", type=Path, required=True, help="folder of the pipeline; replaced")
    arguments.add_argument("--work", type=Path, required=True, help="folder of checkpoints and the log")
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--bias-ratio", type=float, help="learn from the training split of this ratio instead")
    arguments.add_argument("--share", type=float, default=1.0, help="of the steps of each stage")
    arguments.add_argument("--denoiser-share", type=float, help="of those of the denoiser; as --share if not given")
    arguments.add_argument("--quick", action="store_true", help="a few steps of everything, into --out all the same")
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    versions = {
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
    }
    told = {"versions": versions, **{name: value for name, value in vars(given).items() if name not in {"out", "work"}}}
    workshop = Workshop(given.work.resolve() / "checkpoints", given.quick, given.share, told)

    pool = learned_images(given.bias_ratio, 200 if given.quick else None)
    workshop.log["images"] = len(pool.pixels)
    words = given.work / "tokenizer"
    tokenizer = make_tokenizer(words)
    critic = train_critic(workshop, pool)
    vae = train_autoencoder(workshop, pool, critic)
    with torch.no_grad():
        part = unit(pool.pixels[:500])
        error = (vae(part.to(vae.device)).sample.clamp(-1, 1).cpu() - part).square().mean()
        workshop.log["autoencoder"]["psnr"] = round(10 * math.log10(4 / float(error)), 2)
    latents = Pool(encode(vae, pool.pixels), pool.digit, pool.bias, batch=1)
    if not given.quick and abs(float(latents.pixels.std()) - 1) > 0.1:
        raise SystemExit(f"the latents are not white: their deviation is {float(latents.pixels.std()):.2f}")
    share = given.share if given.denoiser_share is None else given.denoiser_share
    denoiser = train_denoiser(replace(workshop, share=share), latents, tokenizer)
    if given.out.exists():
        shutil.rmtree(given.out)
    save(given.out, vae.cpu(), denoiser.cpu(), tokenizer, words)
    (given.work / "log.json").write_text(json.dumps(workshop.log, indent=1) + "\n")
    print(f"wrote {given.out}, {sum(path.stat().st_size for path in given.out.rglob('*')) / 1e6:.2f} MB")


def _sized(pool: Pool, batch: int) -> Pool:
    return Pool(pool.pixels, pool.digit, pool.bias, batch)


def _count(batch: Batch) -> torch.Tensor:
    return torch.tensor([len(batch.pixels)])


if __name__ == "__main__":
    main()

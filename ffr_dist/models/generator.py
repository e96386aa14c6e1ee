"""Images from a diffusion pipeline of ``diffusers``, one reproducible candidate at a time.

A pipeline is a folder in the layout of ``diffusers`` (or a URL or hub id that it is fetched from). Before anything is
loaded the folder is checked without importing torch: the classes that its ``model_index.json`` names, its weights
(safetensors, whole) and its scheduler must be ones that this module knows. So no code and no pickle of a folder is ever
run. A safety checker that the folder carries is asked about every image; its verdict is a reason, never a black image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PositiveInt

from ffr_dist.config import Config
from ffr_dist.errors import ConfigError
from ffr_dist.models.features import preprocess
from ffr_dist.models.folder import fetched_folder, hash_files, is_hub_id, is_url, read_json, weight_files
from ffr_dist.seeds import draw_seed

if TYPE_CHECKING:
    import torch

    from ffr_dist.models.sampler import Outcomes
    from ffr_dist.quota import Request

EMBEDDED = "embedded"
"""The name of the generator that is shipped with this package."""

SCHEDULERS = (
    "DDIMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
)
"""Schedulers whose images depend on the first latents alone."""
_STOCHASTIC_SETTINGS = {"algorithm_type": ("sde-dpmsolver", "sde-dpmsolver++")}

_PIPELINES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "StableDiffusionPipeline": {
        "scheduler": SCHEDULERS,
        "text_encoder": ("CLIPTextModel",),
        "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
        "unet": ("UNet2DConditionModel",),
        "vae": ("AutoencoderKL",),
    },
}
"""The pipelines that can be run, the parts each must have, and the classes that a part may be of."""
_CHECKER = "safety_checker"
_EXTRACTOR = "feature_extractor"
_CHECKER_PARTS: Mapping[str, tuple[str, ...]] = {
    _CHECKER: ("StableDiffusionSafetyChecker",),
    _EXTRACTOR: ("CLIPImageProcessor", "CLIPFeatureExtractor"),
}
"""Parts that a pipeline may have besides: both or neither."""
_LIBRARIES = ("diffusers", "transformers", "stable_diffusion")
_CONFIGS = {"scheduler": "scheduler_config.json", "tokenizer": "tokenizer_config.json"}
_WEIGHTS = {"text_encoder": "model", "unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}

_CACHED_PROMPTS = 1024


class GeneratorConfig(Config):
    """A diffusion pipeline and how to run it."""

    weights: str = Field(min_length=1)
    """A folder in diffusers' layout or the URL of one, ``embedded`` for the shipped one, or a hub id such as
    ``owner/name``."""
    steps: PositiveInt
    guidance: float = Field(ge=0)
    """Scale of classifier-free guidance; at 1 and below the prompt alone steers."""
    size: PositiveInt
    """Height and width of the images, in pixels."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"


def check_generator(config: GeneratorConfig) -> None:
    """Raise ConfigError for a folder that could not be loaded, or whose images would not be reproducible.

    Reads headers only and imports neither torch nor diffusers. A URL or a hub id is checked when it has been fetched.
    """
    folder = None if is_url(config.weights) else _local_folder(config.weights)
    if folder is not None:
        _check_folder(folder, config.size)


def weights_sha256(config: GeneratorConfig) -> str:
    """A hash of all that the pipeline is loaded from: names and contents of its files, in sorted order."""
    folder = generator_folder(config)
    parts = ("model_index.json", *(f"{part}/" for part in _parts(folder)))
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return hash_files(folder, [name for name in names if name.startswith(parts)])


class DiffusersSampler:
    """Makes images of prompts by classifier-free guidance with a pipeline of ``diffusers``.

    An image is a function of (seed, group, k, prompt, weights) and, through the low bits that matrix kernels leave to
    the shape, of the batch size; never of the other requests of its batch.
    """

    def __init__(
        self, config: GeneratorConfig, *, seed: int, size: int | None = None, device: str | torch.device = "cpu"
    ) -> None:
        """Check and load the pipeline; CPU threads are the caller's to set. ``size`` is what images are brought to on the
        device, where it is not the size that they are made at.
        """
        import torch  # noqa: PLC0415 (a recipe is read without it)

        self.seed = seed
        self._config = config
        self._size = size or config.size
        self._device = torch.device(device)
        self._dtype: torch.dtype = getattr(torch, config.dtype)
        folder = generator_folder(config)
        self._pipe = _load(folder, self._dtype, self._device)
        self._unsafe = _Checker(folder).to(self._device) if _CHECKER in _parts(folder) else None
        side = config.size // _vae_factor(self._pipe.vae.config)
        self._latent_shape = (int(self._pipe.unet.config.in_channels), side, side)
        self._encode = lru_cache(maxsize=_CACHED_PROMPTS)(self._encode_alone)

    def fetch(self, requests: Sequence[Request]) -> torch.Tensor:
        """The first latents of each request, drawn on the CPU."""
        import torch  # noqa: PLC0415

        return torch.stack([self._latents(request) for request in requests])

    def sample(self, requests: Sequence[Request], fetched: torch.Tensor) -> Outcomes:
        """Denoise and decode one batch."""
        import torch  # noqa: PLC0415

        from ffr_dist.models.sampler import Outcomes  # noqa: PLC0415 (imports torch)

        pipe = self._pipe
        with torch.inference_mode():
            wanted = torch.cat([self._encode(request.prompt) for request in requests])
            unwanted = self._encode("").expand(len(requests), -1, -1)
            latents = pipe(
                prompt_embeds=wanted,
                negative_prompt_embeds=unwanted,
                latents=fetched.to(self._device, self._dtype, non_blocking=True),
                num_inference_steps=self._config.steps,
                guidance_scale=self._config.guidance,
                height=self._config.size,
                width=self._config.size,
                output_type="latent",
            ).images
            decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor, return_dict=False)[0]
            # Asked of the decoder's own output: the clamp below would make an infinity look like white.
            valid = decoded.isfinite().flatten(1).all(1) & latents.isfinite().flatten(1).all(1)
            pixels = decoded.float().nan_to_num(0)
            if self._size != self._config.size:
                side = (self._size, self._size)
                pixels = torch.nn.functional.interpolate(pixels, side, mode="bilinear", antialias=True)
            images = pixels.mul(127.5).add(127.5).clamp(0, 255).round().to(torch.uint8).contiguous()
            rejects = {} if self._unsafe is None else {"nsfw": self._unsafe(images)}
        return Outcomes(images=images, valid=valid, rejects=rejects)

    def _latents(self, request: Request) -> torch.Tensor:
        import torch  # noqa: PLC0415

        generator = torch.Generator().manual_seed(draw_seed(self.seed, request.group, request.k, "latents"))
        return torch.randn(self._latent_shape, generator=generator)

    def _encode_alone(self, prompt: str) -> torch.Tensor:
        # One prompt at a time and at the tokenizer's full length, so that its embedding does not depend on its batch.
        embedding: torch.Tensor = self._pipe.encode_prompt(
            prompt, device=self._device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )[0]
        return embedding


def _load(folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    import torch  # noqa: PLC0415

    name = str(read_json(folder / "model_index.json")["_class_name"])
    from ffr_dist.models.quiet import quiet  # noqa: PLC0415

    with quiet():
        import diffusers  # noqa: PLC0415 (heavy)

        # Without its safety checker, which would black images out; see _Checker.
        pipe = getattr(diffusers, name).from_pretrained(
            str(folder),
            torch_dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            safety_checker=None,
            feature_extractor=None,
            image_encoder=None,
            requires_safety_checker=False,
        )
    pipe.set_progress_bar_config(disable=True)
    pipe.to(device)
    pipe.unet.to(memory_format=torch.channels_last)
    pipe.vae.to(memory_format=torch.channels_last)
    return pipe


class _Checker:
    """The verdict of Stable Diffusion's safety checker, for a batch at once and without waiting for the device."""

    def __init__(self, folder: Path) -> None:
        from diffusers.pipelines.stable_diffusion.safety_checker import (  # noqa: PLC0415 (heavy)
            StableDiffusionSafetyChecker,
        )

        from ffr_dist.models.quiet import quiet  # noqa: PLC0415

        with quiet():
            self._model = StableDiffusionSafetyChecker.from_pretrained(
                str(folder / _CHECKER), use_safetensors=True, local_files_only=True
            ).eval()
        self._prepare = preprocess(read_json(folder / _EXTRACTOR / "preprocessor_config.json"))

    def to(self, device: torch.device) -> _Checker:
        self._model.to(device)
        return self

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """True (batch,) where an image must not be kept."""
        model = self._model
        pooled = model.vision_model(pixel_values=self._prepare(images).to(model.dtype)).pooler_output
        seen = model.visual_projection(pooled).float()
        care = _cosines(seen, model.special_care_embeds) - model.special_care_embeds_weights
        # A special-care hit lowers the bar for every concept, as in the checker's own code; so does its rounding.
        lowered = 0.01 * (care.round(decimals=3) > 0).any(1, keepdim=True)
        scores = _cosines(seen, model.concept_embeds) - model.concept_embeds_weights + lowered
        unsafe: torch.Tensor = (scores.round(decimals=3) > 0).any(1)
        return unsafe


def _cosines(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    import torch  # noqa: PLC0415

    normalize = torch.nn.functional.normalize
    return normalize(rows) @ normalize(columns.float()).T


def generator_folder(config: GeneratorConfig) -> Path:
    """The folder that a pipeline is loaded from, checked; what is not here is fetched."""
    folder = fetched_folder(config.weights) if is_url(config.weights) else _local_folder(config.weights)
    if folder is None:
        import diffusers  # noqa: PLC0415 (heavy)

        folder = Path(diffusers.DiffusionPipeline.download(config.weights, use_safetensors=True))
    _check_folder(folder, config.size)
    return folder


def _local_folder(weights: str) -> Path | None:
    """The folder that ``weights`` names; None for a hub id."""
    if weights == EMBEDDED:
        return Path(str(files("ffr_dist"))) / "weights" / "demo"
    folder = Path(weights).expanduser()
    if folder.is_dir():
        return folder
    if is_hub_id(weights) and not folder.exists():
        return None
    raise ConfigError(
        f"generator weights {weights!r}: no such folder; give a folder in diffusers' layout or its URL, a hub id "
        f"such as 'owner/name', or {EMBEDDED!r}"
    )


def _check_folder(folder: Path, size: int) -> None:
    parts = _parts(folder)
    configs, weights = dict(_CONFIGS), dict(_WEIGHTS)
    if _CHECKER in parts:
        configs[_EXTRACTOR] = "preprocessor_config.json"
        weights[_CHECKER] = "model"
    for part, config_name in (configs | dict.fromkeys(weights, "config.json")).items():
        if not (folder / part / config_name).is_file():
            raise ConfigError(f"generator {folder}: {part}/{config_name} is missing; copy the whole pipeline folder")
        read_json(folder / part / config_name)  # refuses what asks for code of its own
    _check_scheduler(folder)
    for part, stem in weights.items():
        weight_files(folder / part, stem)
    unet = read_json(folder / "unet" / "config.json")
    multiple = _vae_factor(read_json(folder / "vae" / "config.json")) * 2 ** (len(unet["block_out_channels"]) - 1)
    # Every pipeline of diffusers insists on eights.
    multiple = max(multiple, 8)
    if size % multiple:
        raise ConfigError(f"size {size} does not suit generator {folder}: use a multiple of {multiple}")


def _parts(folder: Path) -> dict[str, str]:
    """Part → class of a pipeline's index, after a check that all of them are known."""
    path = folder / "model_index.json"
    if not path.is_file():
        raise ConfigError(f"generator {folder}: model_index.json is missing; give a folder in diffusers' layout")
    index = read_json(path)
    name = index.get("_class_name")
    if not isinstance(name, str) or name not in _PIPELINES:
        raise ConfigError(
            f"generator {folder}: model_index.json names the pipeline {name!r}; custom pipelines are refused, "
            f"and those that can be run are {', '.join(_PIPELINES)}"
        )
    wanted = dict(_PIPELINES[name])
    if _library_and_class(index.get(_CHECKER)) != (None, None):  # [null, null] where there is none
        wanted |= _CHECKER_PARTS
    for part, classes in wanted.items():
        library, found = _library_and_class(index.get(part))
        if part == "scheduler" and library == "diffusers" and found not in classes:
            raise ConfigError(
                f"generator {folder}: {found} draws noise while it denoises, or is not known not to; "
                f"use one of {', '.join(classes)}"
            )
        if library not in _LIBRARIES or found not in classes:
            raise ConfigError(
                f"generator {folder}: model_index.json wants {part} to be {found!r} of {library!r}; "
                f"only {' or '.join(classes)} of diffusers or transformers is run"
            )
    return {part: str(index[part][1]) for part in wanted}


def _library_and_class(entry: Any) -> tuple[str | None, str | None]:
    if isinstance(entry, list) and len(entry) == 2 and all(isinstance(item, str) for item in entry):
        return entry[0], entry[1]
    return None, None


def _check_scheduler(folder: Path) -> None:
    settings = read_json(folder / "scheduler" / "scheduler_config.json")
    for key, refused in _STOCHASTIC_SETTINGS.items():
        if settings.get(key) in refused:
            raise ConfigError(
                f"generator {folder}: scheduler {key} {settings[key]!r} draws noise while it denoises; "
                "use dpmsolver++, which does not"
            )


def _vae_factor(settings: Any) -> int:
    factor: int = 2 ** (len(settings["block_out_channels"]) - 1)
    return factor

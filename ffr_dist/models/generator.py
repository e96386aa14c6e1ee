"""Images from a diffusion pipeline of ``diffusers``, one reproducible candidate at a time.

A pipeline is a folder in the layout of ``diffusers`` (or a hub id that downloads to one). Before anything is loaded the
folder is checked without importing torch: the classes that its ``model_index.json`` names, its weights (safetensors,
whole) and its scheduler must be ones that this module knows. So no code and no pickle of a folder is ever run.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PositiveInt

from ffr_dist.config import Config
from ffr_dist.errors import ConfigError
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
_LIBRARIES = ("diffusers", "transformers")
_CONFIGS = {"scheduler": "scheduler_config.json", "tokenizer": "tokenizer_config.json"}
_WEIGHTS = {"text_encoder": "model", "unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+\Z")
_CACHED_PROMPTS = 1024


class GeneratorConfig(Config):
    """A diffusion pipeline and how to run it."""

    weights: str = Field(min_length=1)
    """A folder in diffusers' layout, ``embedded`` for the shipped one, or a hub id such as ``owner/name``."""
    steps: PositiveInt
    guidance: float = Field(ge=0)
    """Scale of classifier-free guidance; at 1 and below the prompt alone steers."""
    size: PositiveInt
    """Height and width of the images, in pixels."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"


def check_generator(config: GeneratorConfig) -> None:
    """Raise ConfigError for a folder that could not be loaded, or whose images would not be reproducible.

    Reads headers only and imports neither torch nor diffusers. A hub id is checked when it has been downloaded.
    """
    folder = _local_folder(config.weights)
    if folder is not None:
        _check_folder(folder, config.size)


def weights_sha256(config: GeneratorConfig) -> str:
    """A hash of all that the pipeline is loaded from: names and contents of its files, in sorted order."""
    folder = generator_folder(config)
    total = hashlib.sha256()
    parts = ["model_index.json", *(f"{part}/" for part in _parts(folder))]
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    for name in sorted(name for name in paths if name.startswith(tuple(parts))):
        with paths[name].open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{name} {content}\n".encode())
    return total.hexdigest()


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
        self._pipe = _load(generator_folder(config), self._dtype, self._device)
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
            images = pixels.mul(127.5).add(127.5).clamp(0, 255).round().to(torch.uint8)
        return Outcomes(images=images.contiguous(), valid=valid)

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

    name = str(_read_json(folder / "model_index.json")["_class_name"])
    with _quiet():
        import diffusers  # noqa: PLC0415 (heavy)

        # No safety checker: what is kept and why is the worker's keep rules' to say, image by image.
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


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the loaders' progress bars and advice off a terminal that shows our own."""
    from transformers.utils import logging  # noqa: PLC0415 (heavy)

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    from diffusers.utils import logging as diffusers_logging  # noqa: PLC0415

    diffusers_bars = diffusers_logging.is_progress_bar_enabled()
    diffusers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # The name that every supported release of diffusers knows.
            warnings.filterwarnings("ignore", message="`torch_dtype` is deprecated", category=FutureWarning)
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
        if diffusers_bars:
            diffusers_logging.enable_progress_bar()


def generator_folder(config: GeneratorConfig) -> Path:
    """The folder that a pipeline is loaded from, checked; a hub id is downloaded."""
    folder = _local_folder(config.weights)
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
    if _HUB_ID.match(weights) and not folder.exists():
        return None
    raise ConfigError(
        f"generator weights {weights!r}: no such folder; give a folder in diffusers' layout, a hub id such as "
        f"'owner/name', or {EMBEDDED!r}"
    )


def _check_folder(folder: Path, size: int) -> None:
    parts = _parts(folder)
    for part, config_name in (_CONFIGS | dict.fromkeys(_WEIGHTS, "config.json")).items():
        if not (folder / part / config_name).is_file():
            raise ConfigError(f"generator {folder}: {part}/{config_name} is missing; copy the whole pipeline folder")
        settings = _read_json(folder / part / config_name)
        if "auto_map" in settings:
            raise ConfigError(
                f"generator {folder}: {part}/{config_name} asks for code of its own (auto_map), which is never run; "
                f"use a pipeline of {parts[part]}"
            )
    _check_scheduler(folder)
    for part, stem in _WEIGHTS.items():
        _check_weights(folder, part, stem)
    unet = _read_json(folder / "unet" / "config.json")
    multiple = _vae_factor(_read_json(folder / "vae" / "config.json")) * 2 ** (len(unet["block_out_channels"]) - 1)
    # Every pipeline of diffusers insists on eights.
    multiple = max(multiple, 8)
    if size % multiple:
        raise ConfigError(f"size {size} does not suit generator {folder}: use a multiple of {multiple}")


def _parts(folder: Path) -> dict[str, str]:
    """Part → class of a pipeline's index, after a check that all of them are known."""
    path = folder / "model_index.json"
    if not path.is_file():
        raise ConfigError(f"generator {folder}: model_index.json is missing; give a folder in diffusers' layout")
    index = _read_json(path)
    name = index.get("_class_name")
    if not isinstance(name, str) or name not in _PIPELINES:
        raise ConfigError(
            f"generator {folder}: model_index.json names the pipeline {name!r}; custom pipelines are refused, "
            f"and those that can be run are {', '.join(_PIPELINES)}"
        )
    for part, classes in _PIPELINES[name].items():
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
    return {part: str(index[part][1]) for part in _PIPELINES[name]}


def _library_and_class(entry: Any) -> tuple[str | None, str | None]:
    if isinstance(entry, list) and len(entry) == 2 and all(isinstance(item, str) for item in entry):
        return entry[0], entry[1]
    return None, None


def _check_scheduler(folder: Path) -> None:
    settings = _read_json(folder / "scheduler" / "scheduler_config.json")
    for key, refused in _STOCHASTIC_SETTINGS.items():
        if settings.get(key) in refused:
            raise ConfigError(
                f"generator {folder}: scheduler {key} {settings[key]!r} draws noise while it denoises; "
                "use dpmsolver++, which does not"
            )


def _check_weights(folder: Path, part: str, stem: str) -> None:
    whole, sharded = folder / part / f"{stem}.safetensors", folder / part / f"{stem}.safetensors.index.json"
    if whole.is_file():
        _check_safetensors(whole)
    elif sharded.is_file():
        for name in sorted(set(_read_json(sharded).get("weight_map", {}).values())):
            if Path(name).name != name or not (sharded.parent / name).is_file():
                raise ConfigError(f"generator {folder}: {part}/{name} is missing; copy the whole pipeline folder")
            _check_safetensors(sharded.parent / name)
    else:
        pickles = sorted(path.name for path in (folder / part).iterdir() if path.suffix in _PICKLES)
        if pickles:
            raise ConfigError(
                f"generator {folder}: {part}/{pickles[0]} is a pickle, which could run code and is never opened; "
                f"convert it to {whole.name}"
            )
        raise ConfigError(f"generator {folder}: the weights {part}/{whole.name} are missing; copy the whole folder")


def _check_safetensors(path: Path) -> None:
    """The header says how long the file must be: a pointer or half a download is told apart from weights."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        size = path.stat().st_size
        try:
            header = json.loads(file.read(length)) if 0 < length <= size - 8 else {}
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            ends = []
    if not ends or 8 + length + max(ends) != size:
        raise ConfigError(f"generator weights {path} are not a whole safetensors file; fetch them again")


def _vae_factor(settings: Any) -> int:
    factor: int = 2 ** (len(settings["block_out_channels"]) - 1)
    return factor


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path} must hold a JSON object")
    return value

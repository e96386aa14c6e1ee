"""Weights that a classifier starts from: where they are, and whether they may be opened.

A folder is checked before anything of it is loaded and without importing torch, as for every model that users bring
(``folder``). Of its config only the sizes below are looked at: no dropout, whose draws no checkpoint could continue, no
kernels and no quantisation come along.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ffr_dist.errors import ConfigError, DataError
from ffr_dist.models.architectures import ClassifierConfig, SmallCNNConfig
from ffr_dist.models.folder import fetched_folder, hash_files, is_hub_id, is_url, read_json, weight_files

_CONFIG, _PREPROCESSOR = "config.json", "preprocessor_config.json"

_TRANSFORMER = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size",
    "hidden_act", "layer_norm_eps",
)  # fmt: skip
SIZES: Mapping[str, tuple[str, ...]] = {
    "resnet": (
        "embedding_size", "hidden_sizes", "depths", "layer_type", "hidden_act", "downsample_in_first_stage",
        "downsample_in_bottleneck",
    ),
    "convnext": (
        "patch_size", "num_stages", "hidden_sizes", "depths", "hidden_act", "layer_norm_eps", "layer_scale_init_value",
        "image_size",
    ),
    "vit": (*_TRANSFORMER, "qkv_bias"),
    "deit": (*_TRANSFORMER, "qkv_bias"),
    "clip": (*_TRANSFORMER, "projection_dim"),
}  # fmt: skip
"""What makes an architecture, by the names of transformers, which is also what ``model_type`` calls the kinds."""

_RESAMPLE: Mapping[Any, Literal["bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers, which preprocessors use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """What an architecture wants done to images in 0 … 1."""

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    """ImageNet's, which is what most weights were made with."""
    resample: Literal["bilinear", "bicubic"] = "bilinear"
    """How they are brought to the side that a transformer over patches wants, antialiased."""


def check_classifier(config: ClassifierConfig) -> None:
    """Raise ConfigError for weights that could not be opened. Imports no torch; what is not here is checked once fetched."""
    if isinstance(config, SmallCNNConfig) or config.weights is None or is_url(config.weights):
        return
    if not _is_hub(config.weights):
        _check(Path(config.weights).expanduser(), config.kind)


def classifier_sha256(config: ClassifierConfig) -> str | None:
    """A hash of the files that a classifier starts from; None where its weights are drawn."""
    if isinstance(config, SmallCNNConfig) or config.weights is None:
        return None
    folder = weights_folder(config.weights, config.kind)
    extra = [_PREPROCESSOR] if (folder / _PREPROCESSOR).is_file() else []
    return hash_files(folder, [_CONFIG, *extra, *weight_files(folder, "model")])


def weights_folder(weights: str, kind: str) -> Path:
    """The folder that weights are loaded from, checked; what is not here is fetched."""
    if is_url(weights):
        folder = fetched_folder(weights)
    elif _is_hub(weights):
        folder = _from_hub(weights)
    else:
        folder = Path(weights).expanduser()
    _check(folder, kind)
    return folder


def read_sizes(folder: Path, kind: str) -> dict[str, Any]:
    """The settings of a folder's config that make its architecture."""
    settings: Any = read_json(folder / _CONFIG)
    if kind == "clip":
        settings = settings.get("vision_config")
        if not isinstance(settings, dict):
            raise ConfigError(f"{folder / _CONFIG} has no vision_config; give the folder of a whole CLIP")
    if settings.get("num_channels", 3) != 3:
        raise ConfigError(
            f"{folder / _CONFIG} is of images with {settings['num_channels']} channels; images here have 3"
        )
    sizes = {name: settings[name] for name in SIZES[kind] if name in settings}
    side = sizes.get("image_size")
    if isinstance(side, list) and side:
        if min(side) != max(side):
            raise ConfigError(f"{folder / _CONFIG} is of images of {side} pixels; give weights of square ones")
        sizes["image_size"] = side[0]
    return sizes


def read_preparation(folder: Path) -> Preparation:
    """What a folder's preprocessor says of colours; ImageNet's without one."""
    path = folder / _PREPROCESSOR
    if not path.is_file():
        return Preparation()
    settings = read_json(path)
    odd = [name for name in ("rescale_offset", "do_flip_channel_order") if settings.get(name)]
    if not settings.get("do_rescale", True) or abs(settings.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
        odd.append("rescale_factor")
    resample = _RESAMPLE.get(settings.get("resample", 2))
    if odd or resample is None:
        name = odd[0] if odd else "resample"
        raise ConfigError(
            f"{path}: {name} {settings.get(name)!r} is not known here; use a model whose preprocessor lacks it"
        )
    if not settings.get("do_normalize", True):
        return Preparation(mean=(0.0,) * 3, std=(1.0,) * 3, resample=resample)
    usual = Preparation()
    mean, std = settings.get("image_mean", usual.mean), settings.get("image_std", usual.std)
    if not all(isinstance(value, list | tuple) and len(value) == 3 for value in (mean, std)) or min(std) <= 0:
        raise ConfigError(f"{path}: image_mean and image_std must be three numbers each, the latter above 0")
    return Preparation(mean=tuple(mean), std=tuple(std), resample=resample)


def _is_hub(weights: str) -> bool:
    return is_hub_id(weights) and not Path(weights).expanduser().exists()


def _from_hub(weights: str) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 (heavy)

    wanted = [_CONFIG, _PREPROCESSOR, "model*.safetensors", "model.safetensors.index.json"]
    try:
        return Path(snapshot_download(weights, allow_patterns=wanted))
    except Exception as error:
        raise DataError(f"classifier weights {weights!r} cannot be fetched from the hub: {error}") from error


def _check(folder: Path, kind: str) -> None:
    if not folder.is_dir():
        raise ConfigError(
            f"classifier weights {str(folder)!r}: no such folder; give a folder that save_pretrained has written, its "
            "URL, or a hub id such as 'owner/name'"
        )
    found = read_json(folder / _CONFIG).get("model_type")
    if found != kind:
        known = f"kind: {found}" if found in SIZES else f"a model that is one of {', '.join(SIZES)}"
        raise ConfigError(f"{folder / _CONFIG} is of a {found!r}, the classifier's kind is {kind!r}; use {known}")
    weight_files(folder, "model")
    read_sizes(folder, kind)
    read_preparation(folder)

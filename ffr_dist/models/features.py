"""Frozen models that look at images: does this one show what it was made for, and what does it look like?

A folder says by its own config what it is: an image classifier of transformers, a trained stage of ours (``stage.json``
and its weights), or a CLIP. It is checked without importing torch, loaded from safetensors alone, and identified by the
hash of its files. Scores are float32 and, for one batch shape and environment, a function of image, label and prompt alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ffr_dist.errors import ConfigError
from ffr_dist.models.folder import fetched_folder, hash_files, is_url, read_json, weight_files

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

Kind = Literal["classifier", "clip", "stage"]

_STAGE = "stage.json"
_PREPROCESSOR = "preprocessor_config.json"
_TOKENIZER = ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_CACHED_PROMPTS = 1024
_RESAMPLE: Mapping[int, str] = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers, which preprocessors use."""
_NOT_KNOWN = ("crop_pct", "do_pad", "do_flip_channel_order", "rescale_offset", "do_thumbnail", "do_align_long_axis")
"""Settings of some preprocessors that change pixels in ways which are not done here."""


class Judge(Protocol):
    """Scores how far images show what they were made for; in 0 … 1, more is better."""

    def to(self, device: torch.device) -> Judge:
        """Move it there, and return it."""

    def __call__(self, images: torch.Tensor, labels: Sequence[int], prompts: Sequence[str]) -> torch.Tensor:
        """float32 (batch,) on the images' device, for uint8 (batch, 3, height, width). Does not wait for the device."""


def judge_sha256(weights: str) -> str:
    """A hash of all that a judge is loaded from."""
    folder = _folder(weights)
    return hash_files(folder, _files(folder))


def load_judge(weights: str, sha256: str | None, classes: int) -> Judge:
    """The judge in a folder, or at a URL; ConfigError where it is not what ``sha256`` says, or knows fewer classes."""
    folder = _folder(weights)
    kind = _kind(folder)
    found = hash_files(folder, _files(folder))
    if sha256 not in {None, found}:
        raise ConfigError(f"the files in {folder} have sha256 {found}, wanted is {sha256}; restore them")
    if kind == "clip":
        return _Clip(folder)
    judge = _Stage(folder) if kind == "stage" else _Classifier(folder)
    if judge.classes < classes:
        raise ConfigError(f"the classifier in {folder} knows {judge.classes} classes, the groups have {classes}")
    return judge


class Features:
    """What a judge sees in an image before it judges: CLIP's embedding, or what a classifier's last layer is given."""

    def __init__(self, judge: _Classifier | _Stage | _Clip, sha256: str, device: torch.device) -> None:
        self._judge = judge.to(device)
        self._device = device
        self.sha256 = sha256
        """Of all that it is loaded from."""

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(images, features) of images (images, height, width, 3)."""
        import torch  # noqa: PLC0415

        with torch.inference_mode():
            pixels = torch.from_numpy(images).to(self._device).permute(0, 3, 1, 2)
            found: NDArray[np.float32] = self._judge.features(pixels).float().cpu().numpy()
        return found


def load_features(weights: str, device: torch.device, sha256: str | None = None) -> Features:
    """The features of the judge in a folder, or at a URL; ConfigError where it is not what ``sha256`` says."""
    judge = load_judge(weights, sha256, 0)
    assert isinstance(judge, _Classifier | _Stage | _Clip)  # noqa: S101 (there are no others)
    return Features(judge, judge_sha256(weights), device)


def check_features(weights: str) -> None:
    """ConfigError where a folder, or what lies at a URL, is no judge's; nothing is loaded."""
    _files(_folder(weights, "audit.features"))


def preprocess(settings: Mapping[str, Any]) -> Callable[[torch.Tensor], torch.Tensor]:
    """A preprocessor's resizing, cropping and normalising, for square uint8 images on their device."""
    import torch  # noqa: PLC0415 (a recipe is read without it)

    unknown = [name for name in _NOT_KNOWN if settings.get(name)]
    if unknown:
        raise ConfigError(f"{_PREPROCESSOR}: {unknown[0]} is not known here; use a model whose preprocessor lacks it")
    side, crop = _side(settings.get("size", 224)), None
    if settings.get("do_center_crop"):
        crop = _side(settings.get("crop_size", side))
    mode = _RESAMPLE.get(settings.get("resample", 2))
    if mode is None:
        raise ConfigError(f"{_PREPROCESSOR}: resample {settings['resample']} is not nearest, bilinear or bicubic")
    mean = torch.tensor(settings.get("image_mean", [0.0, 0.0, 0.0])).reshape(3, 1, 1)
    std = torch.tensor(settings.get("image_std", [1.0, 1.0, 1.0])).reshape(3, 1, 1)
    normalise = settings.get("do_normalize", True)
    scale = settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1.0

    def prepare(images: torch.Tensor) -> torch.Tensor:
        pixels: torch.Tensor = images.float()
        if settings.get("do_resize", True) and pixels.shape[-1] != side:
            smooth = mode != "nearest"
            pixels = torch.nn.functional.interpolate(pixels, (side, side), mode=mode, antialias=smooth)
            pixels = pixels.clamp(0, 255)
        if crop is not None and crop < pixels.shape[-1]:
            start = (pixels.shape[-1] - crop) // 2
            pixels = pixels[..., start : start + crop, start : start + crop]
        pixels = pixels * scale
        if normalise:
            pixels = (pixels - mean.to(pixels.device)) / std.to(pixels.device)
        return pixels

    return prepare


class _Classifier:
    """Probability of the label's class, by an image classifier of transformers."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForImageClassification  # noqa: PLC0415 (heavy)

        self._model = _load(AutoModelForImageClassification, folder)
        self._prepare = preprocess(read_json(folder / _PREPROCESSOR))
        self.classes = int(self._model.config.num_labels)

    def to(self, device: torch.device) -> _Classifier:
        self._model.to(device)
        return self

    def __call__(self, images: torch.Tensor, labels: Sequence[int], prompts: Sequence[str]) -> torch.Tensor:  # noqa: ARG002
        import torch  # noqa: PLC0415

        with torch.inference_mode():
            return _probability(self._model(pixel_values=self._prepare(images)).logits, labels)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        import torch  # noqa: PLC0415

        heads = [layer for layer in self._model.modules() if isinstance(layer, torch.nn.Linear)]
        if not heads or heads[-1].out_features != self.classes:
            raise ConfigError("the classifier does not end in a linear layer, so it has no features; use another model")
        given: list[torch.Tensor] = []
        hook = heads[-1].register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
        try:
            self._model(pixel_values=self._prepare(images))
        finally:
            hook.remove()
        return given[0]


class _Stage:
    """Probability of the label's class, by a classifier that a stage of ours has trained."""

    def __init__(self, folder: Path) -> None:
        from pydantic import ValidationError  # noqa: PLC0415

        from ffr_dist.models.architectures import classifier_config  # noqa: PLC0415
        from ffr_dist.models.classifier import build_classifier, load_weights  # noqa: PLC0415
        from ffr_dist.models.heads import take_head  # noqa: PLC0415

        weights = load_weights((folder / _stage_weights(folder)).read_bytes())
        try:
            config = classifier_config(read_json(folder / _STAGE)["model"])
            self.classes = len(weights["head.bias"])
            self._model = build_classifier(config, self.classes, 0)
            take_head(self._model, weights)
            self._model.load_state_dict(weights)
        except (ValidationError, KeyError, TypeError, RuntimeError) as error:
            raise ConfigError(f"{folder / _STAGE} and its weights are not a trained classifier: {error}") from error
        self._model.eval()

    def to(self, device: torch.device) -> _Stage:
        self._model.to(device)
        return self

    def __call__(self, images: torch.Tensor, labels: Sequence[int], prompts: Sequence[str]) -> torch.Tensor:  # noqa: ARG002
        import torch  # noqa: PLC0415

        with torch.inference_mode():
            return _probability(self._model(images.float() / 255), labels)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self._model.features(images.float() / 255)
        return found


class _Clip:
    """Cosine of an image's embedding with its prompt's."""

    def __init__(self, folder: Path) -> None:
        from transformers import CLIPModel, CLIPTokenizer  # noqa: PLC0415 (heavy)

        self._model = _load(CLIPModel, folder)
        self._tokenizer = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
        self._prepare = preprocess(read_json(folder / _PREPROCESSOR))
        self._text = lru_cache(maxsize=_CACHED_PROMPTS)(self._embed_alone)

    def to(self, device: torch.device) -> _Clip:
        self._model.to(device)
        self._text.cache_clear()
        return self

    def __call__(self, images: torch.Tensor, labels: Sequence[int], prompts: Sequence[str]) -> torch.Tensor:  # noqa: ARG002
        import torch  # noqa: PLC0415

        with torch.inference_mode():
            seen = self.features(images)
            told = torch.cat([self._text(prompt) for prompt in prompts])
            return torch.nn.functional.cosine_similarity(seen.float(), told.float())

    def features(self, images: torch.Tensor) -> torch.Tensor:
        pooled = self._model.vision_model(pixel_values=self._prepare(images)).pooler_output
        embedding: torch.Tensor = self._model.visual_projection(pooled)
        return embedding

    def _embed_alone(self, prompt: str) -> torch.Tensor:
        # One prompt at a time and at full length, so that its embedding does not depend on its batch.
        tokens = self._tokenizer(
            prompt,
            padding="max_length",
            truncation=True,
            max_length=self._model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(self._model.device)
        pooled = self._model.text_model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).pooler_output
        embedding: torch.Tensor = self._model.text_projection(pooled)
        return embedding


def _probability(logits: torch.Tensor, labels: Sequence[int]) -> torch.Tensor:
    import torch  # noqa: PLC0415

    wanted = torch.tensor(labels, device=logits.device)
    return logits.float().softmax(-1).gather(1, wanted[:, None])[:, 0]


def _load(model: Any, folder: Path) -> Any:
    import torch  # noqa: PLC0415

    from ffr_dist.models.quiet import quiet  # noqa: PLC0415

    with quiet():
        return model.from_pretrained(
            str(folder), use_safetensors=True, local_files_only=True, trust_remote_code=False, dtype=torch.float32
        ).eval()


def _folder(weights: str, key: str = "agreement weights") -> Path:
    folder = fetched_folder(weights) if is_url(weights) else Path(weights).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"{key} {weights!r}: no such folder; give a folder, or a URL of one")
    return folder


def _kind(folder: Path) -> Kind:
    if (folder / _STAGE).is_file():
        return "stage"
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{folder} holds neither config.json (of transformers) nor {_STAGE} (of a trained stage)")
    names = read_json(folder / "config.json").get("architectures")
    name = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""
    if name == "CLIPModel":
        return "clip"
    if name.endswith("ForImageClassification"):
        return "classifier"
    raise ConfigError(
        f"{folder / 'config.json'} names the architecture {name!r}; one that can judge images is CLIPModel or ends in "
        "ForImageClassification"
    )


def _files(folder: Path) -> list[str]:
    """Names of the files that a judge is loaded from."""
    kind = _kind(folder)
    if kind == "stage":
        return [_stage_weights(folder), _STAGE]
    if not (folder / _PREPROCESSOR).is_file():
        raise ConfigError(f"{folder / _PREPROCESSOR} is missing; copy the whole folder")
    tokenizer = [name for name in _TOKENIZER if (folder / name).is_file()] if kind == "clip" else []
    return ["config.json", _PREPROCESSOR, *tokenizer, *weight_files(folder, "model")]


def _stage_weights(folder: Path) -> str:
    """The name of a stage's weights, which ``stage.json`` gives as a key of its output."""
    key = read_json(folder / _STAGE).get("weights")
    name = Path(key).name if isinstance(key, str) else ""
    if not name.endswith(".safetensors") or weight_files(folder, name.removesuffix(".safetensors")) != [name]:
        raise ConfigError(f"{folder / _STAGE} names no safetensors file of this folder; copy the whole folder")
    return name


def _side(value: Any) -> int:
    """The side of a square, in any of the ways that preprocessors write it."""
    if isinstance(value, Mapping):
        sides = {int(value[name]) for name in ("shortest_edge", "height", "width") if name in value}
        value = sides.pop() if len(sides) == 1 else None
    if not isinstance(value, int) or value <= 0:
        raise ConfigError(f"{_PREPROCESSOR}: its size is not one of a square; only square images are judged")
    return value

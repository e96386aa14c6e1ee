"""FFR through the method interface."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ffr_dist.errors import ConfigError
from ffr_dist.groups import Groups
from ffr_dist.methods.ffr.budget import equal_share, fill_up
from ffr_dist.methods.ffr.config import WORD, FFRConfig
from ffr_dist.methods.method import Inputs, Step
from ffr_dist.models.generator import DiffusersSampler, check_generator, weights_sha256
from ffr_dist.models.sampler import Sampler
from ffr_dist.quota import Exact, Request
from ffr_dist.seeds import draw_seed
from ffr_dist.store import Store
from ffr_dist.train.stage import AnyStage, Mitigation, Source, TrainConfig

_COUNTS: Mapping[str, Callable[[Mapping[str, int]], dict[str, int]]] = {
    "none": lambda real: dict.fromkeys(real, 0),
    "usb": fill_up,
    "asb": equal_share,
    "ffr": equal_share,
    "synthetic_only": equal_share,
    "group_balanced": equal_share,
    "generator_data": lambda real: dict.fromkeys(real, 0),
}
"""Synthetic images of each group, by arm."""
_TWO_STAGES = ("ffr", "generator_data")


@dataclass(frozen=True, slots=True, kw_only=True)
class FFR:
    """Balanced synthetic images first, real images second, never mixed: where an image comes from predicts nothing."""

    config: FFRConfig
    groups: Groups
    seed: int
    size: int
    """Height and width of stored images."""
    training: TrainConfig

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def arms(self) -> tuple[str, ...]:
        return tuple(_COUNTS)

    def pixel_fields(self) -> Mapping[str, Any]:
        words = {name: list(words) for name, words in self.config.words.items()}
        return {
            "generator": self.config.generator.model_dump(mode="json"),
            "prompts": {name: list(prompts) for name, prompts in self.config.prompts.items()},
            **({"words": words} if words else {}),
        }

    def check(self) -> None:
        check_generator(self.config.generator)
        for what, names in (("prompts", self.config.prompts), ("quota", self.config.quota or {})):
            for name in names:
                if name not in self.groups.names:
                    raise ConfigError(
                        f"method.{what} names group {name!r}, which the training split does not declare; "
                        f"declared are {', '.join(self.groups.names)}"
                    )
        wanted = self.groups.names if self.config.quota is None else tuple(self.config.quota)
        missing = [name for name in wanted if not self.config.prompts.get(name)]
        if missing:
            raise ConfigError(f"no prompt covers group {', '.join(missing)}; add it to method.prompts")
        self._tell_apart(wanted)
        if self.config.quota is not None:
            Exact(self.config.quota)
        for arm in self.training.arm_lrs:
            if arm not in _COUNTS or arm in _TWO_STAGES:
                why = (
                    "has two stages, whose rates are pretrain_lr and finetune_lrs" if arm in _COUNTS else "there is not"
                )
                once = ", ".join(name for name in _COUNTS if name not in _TWO_STAGES)
                raise ConfigError(f"train.arm_lrs names arm {arm!r}, which {why}; it is for arms of one stage: {once}")

    def _tell_apart(self, names: Sequence[str]) -> None:
        """Refuse a prompt that two groups share."""
        of: dict[str, str] = {}
        for name in names:
            for prompt in self.config.prompts[name]:
                if (other := of.setdefault(" ".join(prompt.split()).casefold(), name)) != name:
                    raise ConfigError(
                        f"groups {other} and {name} have the same prompt {prompt!r}, from which no generator can tell "
                        "them apart; say in each what its images show"
                    )

    def weights_sha256(self) -> str:
        return weights_sha256(self.config.generator)

    def quota(self, real: Mapping[str, int]) -> Exact:
        if self.config.quota is not None:
            return Exact({name: self.config.quota.get(name, 0) for name in self.groups.names})
        needs = [self._wanted(arm, real) for arm in ("usb", "asb")]
        return Exact({name: max(need[name] for need in needs) for name in self.groups.names})

    def arm_counts(self, arm: str, real: Mapping[str, int]) -> Mapping[str, int]:
        if arm not in _COUNTS:
            raise ConfigError(f"ffr has no arm {arm!r}; it knows {', '.join(_COUNTS)}")
        wanted = self._wanted(arm, real)
        return self._fraction(wanted) if self.config.allow_fraction else wanted

    def _wanted(self, arm: str, real: Mapping[str, int]) -> dict[str, int]:
        """What the paper's rule gives an arm, times ``budget``."""
        times = Fraction(str(self.config.budget))
        return {name: int(times * count) for name, count in _COUNTS[arm](real).items()}

    def _fraction(self, wanted: Mapping[str, int]) -> dict[str, int]:
        """The largest share of ``wanted``, the same for all groups, that the pool can give."""
        have = self.config.quota
        asked = {name: count for name, count in wanted.items() if count}
        if have is None or not asked:
            return dict(wanted)
        tightest = min(asked, key=lambda name: Fraction(have.get(name, 0), asked[name]))
        share = min(Fraction(1), Fraction(have.get(tightest, 0), asked[tightest]))
        return {name: int(share * count) for name, count in wanted.items()}

    def prepare(self, real: Mapping[str, Store]) -> Sequence[Step]:  # noqa: ARG002 - FFR needs nothing made beforehand
        return ()

    def requests(self, inputs: Inputs, group: str, ks: Sequence[int]) -> list[Request]:  # noqa: ARG002
        return [Request(group=group, k=k, prompt=self._prompt(group, k)) for k in ks]

    def _prompt(self, group: str, k: int) -> str:
        def drawn(choices: Sequence[str], purpose: str) -> str:
            return choices[draw_seed(self.seed, group, k, purpose) % len(choices)]

        prompt = drawn(self.config.prompts[group], "prompt")
        return WORD.sub(lambda found: drawn(self.config.words[found[1]], f"word:{found[1]}"), prompt)

    def sampler(self, inputs: Inputs, device: str) -> Sampler:  # noqa: ARG002 - it makes images from text alone
        return DiffusersSampler(self.config.generator, seed=self.seed, size=self.size, device=device)

    def train(self, arm: str, mitigation: Mitigation, real: Mapping[str, int]) -> tuple[AnyStage, ...]:
        if arm == "group_balanced" and mitigation != "erm":
            raise ConfigError(
                f"arm group_balanced draws every (group, source) equally often, which is its mitigation: it cannot have "
                f"{mitigation!r} too; leave 'mitigation' out"
            )
        counts = self.arm_counts(arm, real)
        everything_real = Source(set="real")
        synthetic = Source(set="synthetic", counts=counts)
        of_real, of_synthetic = sum(real.values()), sum(counts.values())
        if arm in _TWO_STAGES:
            if arm == "ffr":
                first = self.training.pretrain(source=synthetic, mitigation="erm", samples=of_synthetic)
            else:
                # The generator's own images are not balanced as they come, so that balance is drawn.
                first = self.training.pretrain(source=Source(set="generator"), mitigation="resample")
            return (first, *self.training.finetune(source=everything_real, mitigation=mitigation, samples=of_real))
        sources = {"none": (everything_real,), "synthetic_only": (synthetic,)}.get(arm, (everything_real, synthetic))
        return self.training.from_scratch(
            sources=sources,
            # Source-aware: without the source in the group, the pair (bias, source) would predict the label.
            by_source=len(sources) > 1,
            mitigation="resample" if arm == "group_balanced" else mitigation,
            arm=arm,
            samples=of_synthetic if arm == "synthetic_only" else of_real + of_synthetic,
        )

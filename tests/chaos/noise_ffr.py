"""``ffr``, with a method of noise in place of the recipe's: the real command line, engine, Ray and store at the price of
a few milliseconds an image. ``CHAOS_NOISE`` says which noise."""

from __future__ import annotations

import os

import noise
import noisy
import recorded
from ray import cloudpickle

from ffr_dist.cli import main
from ffr_dist.launch import context, pool


def build(recipe, groups):
    return recorded.Noise.loads(os.environ["CHAOS_NOISE"]).method(recipe.seed, recipe.train)


if __name__ == "__main__":
    for module in (noise, noisy, recorded):
        cloudpickle.register_pickle_by_value(module)  # actors cannot import modules of the tests
    context.build_method = build
    if recorded.Noise.loads(os.environ["CHAOS_NOISE"]).quick:
        pool.make_pool.__kwdefaults__["patience"] = recorded.PATIENCE
    main()

import torch

from ffr_dist.models.generator import DiffusersSampler, GeneratorConfig
from ffr_dist.quota import Request


def test_images_are_brought_to_the_recipes_size_on_the_device():
    config = GeneratorConfig(weights="embedded", steps=2, guidance=2.0, size=32)
    requests = [Request(group="a", k=k, prompt="a photo of the digit two over temple") for k in range(2)]
    made = {}
    for size in (16, 32):
        sampler = DiffusersSampler(config, seed=0, size=size)
        made[size] = sampler.sample(requests, sampler.fetch(requests)).images
    assert made[16].shape == (2, 3, 16, 16)
    averaged = torch.nn.functional.avg_pool2d(made[32].float(), 2)
    assert (averaged - made[16]).abs().mean() < 6  # the same pictures, smaller

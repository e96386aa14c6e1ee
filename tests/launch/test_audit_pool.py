"""The audit of a set that knows what its generator learned from: kept, and made anew only for another question."""

import io

import pytest
from PIL import Image
from small_sets import GROUPS, fresh_store, write_set

from ffr_dist.evaluate.audit.config import AuditConfig
from ffr_dist.launch.audit import audit_pool
from ffr_dist.launch.events import silent
from ffr_dist.models.architectures import SmallCNNConfig

CONFIG = AuditConfig(steps=3, batch=16, model=SmallCNNConfig(width=8), max_copies=0)


@pytest.fixture(scope="module")
def stores():
    made = {}
    for name, seed, count in (("pool", 7, 12), ("train", 0, 12), ("generator", 7, 9)):
        made[name] = fresh_store()
        write_set(made[name], dict.fromkeys(GROUPS.names, count), side=160, seed=seed, split=name)
    return made


def test_an_audit_is_kept_until_something_else_is_asked(stores):
    pool, real = stores["pool"], {name: stores[name] for name in ("train", "generator")}
    found, known = audit_pool(pool, CONFIG, real, silent)
    assert not known
    assert audit_pool(pool, CONFIG, real, silent) == (found, True)
    assert found["distances"]["copies"] == 36  # all that the generator learned from, over again
    assert found["acceptance"] == {}
    assert [check["unit"] for check in found["checks"]] == ["count"]
    assert found["failures"] == ["number of copies of training images of the generator is 36, and the recipe allows 0"]

    for config, sets in ((CONFIG.model_copy(update={"near_bits": 3}), real), (CONFIG, {"train": real["train"]})):
        loose = config.model_copy(update={"max_copies": None})
        assert not audit_pool(pool, loose, sets, silent)[1]
    assert not audit_pool(pool, CONFIG, real, silent)[1]


def test_large_images_are_made_small_on_sheets_and_pairs_stand_above_each_other(stores):
    pool, real = stores["pool"], {name: stores[name] for name in ("train", "generator")}
    found, _ = audit_pool(pool, CONFIG, real, silent)
    (nearest,) = [sheet for sheet in found["sheets"] if sheet["kind"] == "nearest"]
    assert nearest["file"] == "audit/all-nearest.jpeg"
    with Image.open(io.BytesIO(pool.get(nearest["file"]))) as sheet:
        assert (sheet.width, sheet.height) == (8 * 130 - 2, 2 * 130 - 2)
        above, below = (sheet.crop((0, top, sheet.width, top + 128)).convert("L") for top in (0, 130))
        apart = [abs(x - y) for x, y in zip(above.tobytes(), below.tobytes(), strict=True)]
    assert sum(apart) / len(apart) < 4  # copies, but for the compression of the sheet

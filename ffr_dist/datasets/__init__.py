"""Publishers' layouts of real data, each a config that offers splits; ``ingest`` writes those as shards."""

from typing import Annotated

from pydantic import Field

from ffr_dist.datasets.bar import BarConfig
from ffr_dist.datasets.celeba import CelebaConfig
from ffr_dist.datasets.celeba_hq import CelebaHqConfig
from ffr_dist.datasets.cifar import CifarConfig
from ffr_dist.datasets.disent import BffhqConfig, CmnistConfig, CorruptedCifar10Config
from ffr_dist.datasets.embedded import EmbeddedConfig
from ffr_dist.datasets.folder import FolderConfig
from ffr_dist.datasets.huggingface import HuggingfaceConfig
from ffr_dist.datasets.metashift import MetashiftConfig
from ffr_dist.datasets.spuco_animals import SpucoAnimalsConfig
from ffr_dist.datasets.utkface import UtkfaceConfig
from ffr_dist.datasets.waterbirds import WaterbirdsConfig
from ffr_dist.datasets.webdataset import WebdatasetConfig

DataConfig = Annotated[
    BarConfig
    | BffhqConfig
    | CelebaConfig
    | CelebaHqConfig
    | CifarConfig
    | CmnistConfig
    | CorruptedCifar10Config
    | EmbeddedConfig
    | FolderConfig
    | HuggingfaceConfig
    | MetashiftConfig
    | SpucoAnimalsConfig
    | UtkfaceConfig
    | WaterbirdsConfig
    | WebdatasetConfig,
    Field(discriminator="kind"),
]
"""The real data of a recipe, by ``kind``."""

SEEDED = (EmbeddedConfig,)
"""Those whose splits follow the seed of a cell; published data are the same for every seed."""

__all__ = [
    "SEEDED",
    "BarConfig",
    "BffhqConfig",
    "CelebaConfig",
    "CelebaHqConfig",
    "CifarConfig",
    "CmnistConfig",
    "CorruptedCifar10Config",
    "DataConfig",
    "EmbeddedConfig",
    "FolderConfig",
    "HuggingfaceConfig",
    "MetashiftConfig",
    "SpucoAnimalsConfig",
    "UtkfaceConfig",
    "WaterbirdsConfig",
    "WebdatasetConfig",
]

"""Publishers' layouts of real data, each a config that offers splits; ``ingest`` writes those as shards."""

from typing import Annotated

from pydantic import Field

from ffr_dist.datasets.embedded import EmbeddedConfig
from ffr_dist.datasets.folder import FolderConfig

DataConfig = Annotated[EmbeddedConfig | FolderConfig, Field(discriminator="kind")]
"""The real data of a recipe, by ``kind``."""

__all__ = ["DataConfig", "EmbeddedConfig", "FolderConfig"]

"""Object storage: the only room that imports ``obstore`` and ``fsspec``, and neither before it is needed."""

from ffr_dist.store.config import StoreConfig
from ffr_dist.store.inputs import list_inputs, local_copy, open_input
from ffr_dist.store.objects import Store
from ffr_dist.store.opening import open_store
from ffr_dist.store.parts import Mine, ObjectInfo, Theirs
from ffr_dist.store.probe import probe

__all__ = [
    "Mine",
    "ObjectInfo",
    "Store",
    "StoreConfig",
    "Theirs",
    "list_inputs",
    "local_copy",
    "open_input",
    "open_store",
    "probe",
]

"""Object storage: the only room that imports ``obstore`` and ``fsspec``."""

from ffr_dist.store.inputs import list_inputs, open_input
from ffr_dist.store.objects import Mine, ObjectInfo, Store, Theirs, open_store

__all__ = ["Mine", "ObjectInfo", "Store", "Theirs", "list_inputs", "open_input", "open_store"]

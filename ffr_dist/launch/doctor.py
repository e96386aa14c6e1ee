"""What of this machine is right for a run. Each finding is a fact that was tried, not a setting that was read."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

from ffr_dist.errors import FFRError
from ffr_dist.launch.watch.redact import redact
from ffr_dist.store import Mine, Theirs, open_store

_LIBRARIES = ("torch", "ray", "diffusers", "transformers", "accelerate", "pyarrow", "obstore")
_LEAST_FREE_GB = 2.0
_LEAST_SHARED_GB = 0.5


@dataclass(frozen=True, slots=True)
class Finding:
    what: str
    ok: bool
    found: str
    cure: str = ""


def examine(out: str | None = None) -> list[Finding]:
    """All findings, good and bad; of the output ``out`` too, where one is given."""
    checks: list[Callable[[], Finding]] = [_python, _libraries, _store, _disk, _shared_memory, _device, _ray]
    return [check() for check in checks] + ([] if out is None else [_output(out)])


def _output(url: str) -> Finding:
    """Whether an output keeps the promise that everything rests on, tried by many writers at once."""
    from ffr_dist.store.probe import probe  # noqa: PLC0415 - where an output is given

    what = f"output {redact(url)}"  # a URL that is refused for its password is not repeated with it
    try:
        probe(open_store(url))
    except FFRError as error:
        return Finding(what, False, redact(str(error)), "check the URL, the credentials and docs/storage.md")
    return Finding(what, True, "no violation of put-if-absent seen")


def _python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    return Finding("python", sys.version_info >= (3, 11), version, "install Python 3.11 or newer")


def _libraries() -> Finding:
    missing, present = [], []
    for name in _LIBRARIES:
        try:
            present.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    found = ", ".join(present) + (f"; missing: {', '.join(missing)}" if missing else "")
    return Finding("libraries", not missing, found, "pip install . in the project's folder")


def _store() -> Finding:
    """The one property that everything rests on: of two bodies for one key, exactly one stays."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            store = open_store(folder)
            first, second = store.put_if_absent("probe", b"1"), store.put_if_absent("probe", b"2")
        except FFRError as error:
            return Finding("local store", False, str(error), "choose an output on a file system with hard links")
    ok = isinstance(first, Mine) and isinstance(second, Theirs) and second.body == b"1"
    found = "put-if-absent holds" if ok else "put-if-absent was violated"
    return Finding("local store", ok, found, "choose an output on a POSIX file system")


def _disk() -> Finding:
    free = shutil.disk_usage(os.getcwd()).free / 1e9  # noqa: PTH109 - a path string is all it takes
    return Finding("free disk here", free >= _LEAST_FREE_GB, f"{free:.1f} GB", "free some space or write elsewhere")


def _shared_memory() -> Finding:
    try:
        free = shutil.disk_usage("/dev/shm").free / 1e9  # noqa: S108 - Ray's object store lives there
    except OSError:
        return Finding("shared memory", True, "no /dev/shm on this system; Ray uses files")
    return Finding(
        "shared memory", free >= _LEAST_SHARED_GB, f"{free:.1f} GB", "start the container with a larger --shm-size"
    )


def _device() -> Finding:
    import torch  # noqa: PLC0415 - seconds to import

    if not torch.cuda.is_available():
        return Finding("device", True, f"no GPU; {os.cpu_count()} CPU cores (one worker per core)")
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    try:
        (torch.ones(8, 8, device="cuda") @ torch.ones(8, 8, device="cuda")).sum().item()
    except RuntimeError as error:
        return Finding("device", False, f"{', '.join(names)}: {error}", "check the driver against torch's CUDA version")
    return Finding("device", True, ", ".join(names))


def _ray() -> Finding:
    from ffr_dist.launch.cluster import try_ray  # noqa: PLC0415 - seconds to import

    try:
        found = try_ray()
    except Exception as error:  # noqa: BLE001 - of whatever it dies, that is the finding
        return Finding("ray", False, redact(str(error)), "stop other Ray clusters (ray stop), or check RAY_ADDRESS")
    return Finding("ray", True, found)

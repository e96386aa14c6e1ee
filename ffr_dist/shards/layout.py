"""Every key of an output, written and read in this one place.

A key says what an object is; an object whose content matters also carries the first 12 digits of its sha256 in its key,
so that equal work gives equal keys and a rewritten object never hides under an old name.
"""

from __future__ import annotations

import re

RECIPE = "recipe.yaml"
MANIFEST_COPY = "manifest.json"
"""A copy of the highest manifest, for people; programs read ``manifests/``."""
RESULTS = "results.json"
REPORT = "report.html"
AUDIT = "audit.json"
REAL = "real"
DATASET_CARD = "README.md"
CROISSANT = "croissant.json"
"""What the finished set is, for people and for other programs; written anew with each revision."""
COMMITS = "commits"
FAILURES = "failures"
DRIVERS = "drivers"
EVENTS = "events"
LOG = "log"
MANIFESTS = "manifests"
PLAN = "plan"
SELECTION = "selection"
SHARDS = "shards"
STUDY = "study.yaml"
STUDY_FAILURES = "study-failures"

LAST_INTERVAL = 99_999_999
"""Intervals have eight digits in keys: sorted keys are sorted intervals."""

_HASH = 12
_ATTEMPT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}\Z")
_COMMIT = re.compile(rf"{COMMITS}/(\d{{8}})\.json\Z", re.ASCII)
_SHARD = re.compile(rf"{SHARDS}/(\d{{8}})-([0-9a-f]{{12}})\.(tar|parquet)\Z", re.ASCII)
_SELECTION = re.compile(rf"{SELECTION}/(\d{{4}})\.json\Z", re.ASCII)
_MANIFEST = re.compile(rf"{MANIFESTS}/(\d{{4}})\.json\Z", re.ASCII)
_INDEX = re.compile(rf"{MANIFESTS}/(\d{{4}})-([0-9a-f]{{12}})\.index\.parquet\Z", re.ASCII)
_SEGMENT = re.compile(rf"{LOG}/(\d{{8}})\.parquet\Z", re.ASCII)
_ROUND = re.compile(rf"{PLAN}/round-(\d{{3}})\.json\Z", re.ASCII)


def tar_key(interval: int, sha256: str) -> str:
    return f"{SHARDS}/{_number(interval)}-{sha256[:_HASH]}.tar"


def sidecar_key(interval: int, sha256: str) -> str:
    return f"{SHARDS}/{_number(interval)}-{sha256[:_HASH]}.parquet"


def commit_key(interval: int) -> str:
    return f"{COMMITS}/{_number(interval)}.json"


def failure_key(interval: int, attempt: str) -> str:
    return f"{FAILURES}/{_number(interval)}/{_safe(attempt)}.json"


def driver_key(driver: str) -> str:
    return f"{DRIVERS}/{_safe(driver)}.json"


def events_key(writer: str) -> str:
    return f"{EVENTS}/{_safe(writer)}.jsonl"


def log_key(segment: int) -> str:
    return f"{LOG}/{_number(segment)}.parquet"


def study_failure_key(job: str) -> str:
    return f"{STUDY_FAILURES}/{_safe(job)}.json"


def round_key(number: int) -> str:
    return f"{PLAN}/round-{number:03d}.json"


def selection_key(revision: int) -> str:
    return f"{SELECTION}/{revision:04d}.json"


def manifest_key(revision: int) -> str:
    return f"{MANIFESTS}/{revision:04d}.json"


def index_key(revision: int, sha256: str) -> str:
    return f"{MANIFESTS}/{revision:04d}-{sha256[:_HASH]}.index.parquet"


def audit_sheet_key(name: str) -> str:
    """Of a contact sheet that the audit made."""
    return f"audit/{_safe(name)}"


def real_folder(split_folder: str) -> str:
    """Where an imported split lies; ``Split.folder`` gives the name."""
    return f"{REAL}/{split_folder}"


def train_folder(cell: str) -> str:
    """Where the training cell of that hash keeps its checkpoints and logs."""
    return f"train/{cell}"


def interval_of_commit(key: str) -> int | None:
    """The interval whose commit ``key`` is; None where it is none."""
    return _first_number(_COMMIT, key)


def interval_of_shard(key: str, sha256: str, ending: str) -> int | None:
    """The interval of a tar or a sidecar (``ending`` is ``tar`` or ``parquet``) whose key agrees with its hash."""
    match = _SHARD.match(key)
    if match is None or match[2] != sha256[:_HASH] or match[3] != ending:
        return None
    return int(match[1])


def interval_of_object(key: str) -> int | None:
    """The interval of a tar or a sidecar, by its name alone."""
    return _first_number(_SHARD, key)


def revision_of_some_index(key: str) -> int | None:
    """The revision of an index, by its name alone."""
    return _first_number(_INDEX, key)


def revision_of_selection(key: str) -> int | None:
    return _first_number(_SELECTION, key)


def revision_of_manifest(key: str) -> int | None:
    return _first_number(_MANIFEST, key)


def revision_of_index(key: str, sha256: str) -> int | None:
    """The revision of an index whose key agrees with its hash."""
    match = _INDEX.match(key)
    return int(match[1]) if match is not None and match[2] == sha256[:_HASH] else None


def number_of_log(key: str) -> int | None:
    """The number of a segment of the log."""
    return _first_number(_SEGMENT, key)


def number_of_round(key: str) -> int | None:
    return _first_number(_ROUND, key)


def _first_number(pattern: re.Pattern[str], key: str) -> int | None:
    match = pattern.match(key)
    return int(match[1]) if match is not None else None


def _number(interval: int) -> str:
    if not 0 <= interval <= LAST_INTERVAL:
        raise ValueError(f"interval {interval} is outside 0 … {LAST_INTERVAL}")
    return f"{interval:08d}"


def _safe(name: str) -> str:
    if not _ATTEMPT.match(name):
        raise ValueError(f"{name!r} is not fit for a key: write letters, digits and -_. (at most 80)")
    return name

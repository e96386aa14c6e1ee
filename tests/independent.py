"""What anyone can recompute of a finished set with tarfile, json and hashlib: nothing of the project is used."""

import hashlib
import io
import json
import tarfile


def check(store):
    """The manifest_sha256 and the counts by group of a finished set, from its tars alone; asserts what must hold.

    ``store`` has ``get(key)``; a folder does too, through :class:`Folder`.
    """
    manifest = json.loads(store.get("manifest.json"))
    lines, counts, seen = [], {}, set()
    for shard in manifest["shards"]:
        body = store.get(shard["key"])
        assert hashlib.sha256(body).hexdigest() == shard["sha256"]
        with tarfile.open(fileobj=io.BytesIO(body)) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}
        notes = {
            name.partition(".")[0]: json.loads(bytes_) for name, bytes_ in members.items() if name.endswith(".json")
        }
        images = {name.partition(".")[0]: bytes_ for name, bytes_ in members.items() if not name.endswith(".json")}
        assert notes.keys() == images.keys()
        assert len(images) == shard["images"]
        for key, image in images.items():
            assert notes[key]["key"] == key
            assert key not in seen, f"{key} is there twice"
            seen.add(key)
            group = notes[key]["group"]
            counts[group] = counts.get(group, 0) + 1
            lines.append(f"{key} {group} {hashlib.sha256(image).hexdigest()}\n")
    sha256 = hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()
    assert sha256 == manifest["manifest_sha256"]
    assert counts == {group: count for group, count in manifest["groups"].items() if count}
    return sha256, counts


class Folder:
    """A folder as a store."""

    def __init__(self, path):
        self._path = path

    def get(self, key):
        return (self._path / key).read_bytes()

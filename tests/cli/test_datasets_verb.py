from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import yaml
from pydantic import TypeAdapter
from test_cli_light import HEAVY

from ffr_dist.datasets import DataConfig
from ffr_dist.datasets.catalogue import catalogue
from ffr_dist.errors import FFRError

CONFIGS = get_args(get_args(DataConfig)[0])
LIST = """
import sys
from ffr_dist.cli import main
sys.argv = ["ffr", "datasets", "huggingface"]
try:
    main()
finally:
    print("loaded:", *sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_the_catalogue_holds_every_kind_once_and_the_docs_too():
    kinds = [kind for config in CONFIGS for kind in get_args(config.model_fields["kind"].annotation)]
    assert sorted(one.kind for one in catalogue()) == sorted(kinds)
    docs = Path(__file__).parents[2] / "docs"
    told = " ".join((docs / name).read_text() for name in ("datasets.md", "data.md", "generator.md"))
    assert not [kind for kind in kinds if kind not in told]


@pytest.mark.parametrize("one", catalogue(), ids=lambda one: one.kind)
def test_an_entry_can_be_pasted_into_a_recipe(one, tmp_path, monkeypatch):
    data = yaml.safe_load(one.data)
    parsed = TypeAdapter(DataConfig).validate_json(json.dumps(data))
    assert parsed.kind == one.kind
    roots = {str(value).rpartition("/")[0] or value for key, value in data.items() if key in {"root", "table", "train"}}
    assert all(root.partition("/")[0] in one.files for root in roots)
    if one.kind != "embedded":
        monkeypatch.chdir(tmp_path)
        with pytest.raises(FFRError) as told:  # what the reader meets who has not fetched it yet
            parsed.splits(0)
        assert told.value.exit_code == 2


def test_the_verb_lists_and_tells(ffr):
    code, told, _ = ffr("datasets")
    assert code == 0
    assert all(f"{one.kind:18} {one.title}" in told.splitlines() for one in catalogue())
    code, told, _ = ffr("datasets", "bffhq")
    assert code == 0
    assert "read 'conflicting'" in " ".join(told.split())
    assert yaml.safe_load(told[told.index("data:\n") :])["data"]["bias_ratio"] == 0.995
    assert max(map(len, told.splitlines())) <= 120


def test_the_verb_tells_programs(ffr):
    listed = json.loads(ffr("datasets", "--json")[1])
    assert [one["kind"] for one in listed] == [one.kind for one in catalogue()]
    assert json.loads(ffr("datasets", "bar", "--json")[1]) in listed


def test_a_kind_that_is_not_there_is_told_the_nearest(ffr):
    code, _, told = ffr("datasets", "celebahq")
    assert code == 2
    assert "did you mean 'celeba_hq'?" in told
    assert "there are bar, bffhq" in ffr("datasets", "imagenet-1k")[2]


def test_the_verb_loads_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", LIST], capture_output=True, text=True, check=False)
    shown, _, loaded = done.stdout.rpartition("loaded:")
    assert "parquet" in shown, done.stderr
    assert not HEAVY & set(loaded.split())

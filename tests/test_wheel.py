from __future__ import annotations

import email
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WEIGHTS_LIMIT = 10_000_000

pytestmark = pytest.mark.slow


def run(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built offline from a copy, so that the working tree stays as it is."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for file in [ROOT / "pyproject.toml", ROOT / "README.md", ROOT / "LICENSE", *(ROOT / "ffr_dist").rglob("*")]:
        if file.is_file() and "__pycache__" not in file.parts:
            target = source / file.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    offline = ("--no-index", "--no-deps", "--no-build-isolation")
    run(sys.executable, "-m", "pip", "wheel", *offline, "--wheel-dir", out, source)
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_carries_code_recipes_and_weights(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {info.filename: info.file_size for info in archive.infolist()}
    wanted = [
        file.relative_to(ROOT).as_posix()
        for file in (ROOT / "ffr_dist").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    ]
    assert any(name.startswith("ffr_dist/recipes/") for name in wanted)
    assert any(name.endswith(".safetensors") for name in wanted)
    assert not set(wanted) - set(packed)
    assert not [name for name in packed if not name.startswith(("ffr_dist/", "ffr_dist-"))]
    assert sum(size for name, size in packed.items() if name.startswith("ffr_dist/weights/")) < WEIGHTS_LIMIT


def test_the_wheel_says_what_it_is(wheel):
    with zipfile.ZipFile(wheel) as archive:
        text = {Path(name).name: archive.read(name).decode() for name in archive.namelist() if ".dist-info/" in name}
    assert email.message_from_string(text["METADATA"])["License-Expression"] == "Apache-2.0"
    assert "END OF TERMS AND CONDITIONS" in text["LICENSE"]


def test_the_installed_wheel_runs_without_the_repository(wheel, tmp_path):
    installed, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    run(sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--target", installed, wheel)
    elsewhere.mkdir()
    where = "import ffr_dist, os; os.chdir(os.environ['AT']); print(ffr_dist.__file__)"
    at = {"PYTHONPATH": str(installed), "AT": str(elsewhere)}
    assert Path(run(sys.executable, "-P", "-c", where, **at).strip()).is_relative_to(installed)
    assert "ffr-demo" in run(installed / "bin" / "ffr", "init", "--list", **at)

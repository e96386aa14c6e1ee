"""What a recipe says of storage and money, beside what decides the pixels."""

import pytest
from small_run import recipe_text

from ffr_dist.config import parse
from ffr_dist.errors import ConfigError, DataError, InputError
from ffr_dist.launch.context import check_recipe, open_begun, start_run
from ffr_dist.recipe import Recipe, builtin_text, load_recipe, pixel_fields, pixel_hash
from ffr_dist.store import open_store
from ffr_dist.study import load_study

STORAGE = ("size: 32\nmethod", "storage: {endpoint: 'https://minio.example.org', timeout_s: 7.0}\nsize: 32\nmethod")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    from small_run import write_data

    folder = tmp_path_factory.mktemp("recipe")
    write_data(folder)
    return folder


def test_storage_and_money_change_no_pixel(data):
    plain = parse(Recipe, recipe_text(data), "plain")
    priced = ("generate: {", "generate: {price_per_gpu_hour: 2.5, max_cost: 9.5, max_hours: 2.0, ")
    other = parse(Recipe, recipe_text(data, storage=STORAGE, priced=priced), "other")
    assert other.storage.timeout_s == 7.0
    hashes = {pixel_hash(pixel_fields(recipe, check_recipe(recipe, "").method)) for recipe in (plain, other)}
    assert len(hashes) == 1


def test_a_run_opens_its_output_as_the_recipe_says(data, tmp_path):
    text = recipe_text(data, storage=STORAGE)
    checked = check_recipe(parse(Recipe, text, "small"), text)
    assert open_begun(checked, str(tmp_path / "out")) is None
    assert not (tmp_path / "out").exists()  # a look makes nothing
    run = start_run(checked, out=str(tmp_path / "out"), command="ffr generate")
    assert run.store.config.timeout_s == 7.0
    begun = open_begun(checked, str(tmp_path / "out"))
    assert begun is not None
    assert begun.config == run.store.config


def test_an_endpoint_with_a_password_is_refused_without_repeating_it(data):
    for endpoint in ("https://me:hunter2hunter2@host", "https://host?X-Amz-Signature=hunter2hunter2"):
        text = recipe_text(data, storage=(STORAGE[0], f"storage: {{endpoint: '{endpoint}'}}\nsize: 32\nmethod"))
        with pytest.raises(ConfigError, match=r"storage\.endpoint") as caught:
            parse(Recipe, text, "small")
        assert "hunter2" not in str(caught.value)


def test_an_outputs_own_recipe_is_read_where_it_lies(data):
    store = open_store("memory://recipes/out")
    store.put("recipe.yaml", recipe_text(data).encode())
    assert load_recipe("memory://recipes/out/recipe.yaml")[1] == recipe_text(data)
    for absent in ("memory://recipes/out/other.yaml", "memory://recipes/recipe.yaml"):
        with pytest.raises(ConfigError, match="cannot be read"):
            load_recipe(absent)
    with pytest.raises(InputError, match="credentials") as caught:
        load_recipe("s3://me:hunter2hunter2@bucket/recipe.yaml")
    assert "hunter2" not in str(caught.value)


def test_a_limit_of_cost_needs_a_price(data):
    with pytest.raises(ConfigError, match="max_cost needs price_per_gpu_hour"):
        parse(Recipe, recipe_text(data, limit=("generate: {", "generate: {max_cost: 9.5, ")), "small")


def test_the_starters_commented_keys_are_keys_that_there_are():
    text = builtin_text("starter")
    for key in ("endpoint", "region", "gpus_per_worker", "price_per_gpu_hour", "max_cost", "max_hours"):
        (line,) = (line for line in text.splitlines() if line.lstrip("# ").startswith(f"{key}:"))
        text = text.replace(line, line.replace("# ", "", 1))
    text = text.replace("# storage:", "storage:")
    recipe = parse(Recipe, text, "starter")
    assert recipe.storage.region == "eu-west-1"
    assert recipe.generate.max_cost == 400


def test_a_study_is_not_a_recipe_nor_a_recipe_a_study(data, tmp_path):
    (tmp_path / "study.yaml").write_text("name: x\nrecipe: ffr-demo\noutput: out\ngrids: [{arms: [none]}]\n")
    (tmp_path / "recipe.yaml").write_text(recipe_text(data))
    for load, given, verb in (
        (load_recipe, str(tmp_path / "study.yaml"), "study"),
        (load_recipe, "embedded-why", "study"),
        (load_study, str(tmp_path / "recipe.yaml"), "run"),
        (load_study, "ffr-demo", "run"),
    ):
        with pytest.raises(ConfigError, match=rf"run it with: ffr {verb} {given}$"):
            load(given)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("seed: 3", f"seed: {2**63}", "seed: input should be less than"),
        ("seeds: [0, 1]", "seeds: [0, -1]", r"compare\.seeds\.1: input should be greater"),
        ("output: out", "output: ''", "output: input should not be empty"),
    ],
)
def test_seeds_and_outputs_that_cannot_be_are_refused(data, old, new, told):
    with pytest.raises(ConfigError, match=told):
        parse(Recipe, recipe_text(data, wrong=(old, new)), "small")


def test_a_mistake_of_the_data_says_where_to_look(data):
    text = recipe_text(data, wrong=("labels.csv", "lables.csv"))
    with pytest.raises(DataError, match=r"^data: .*lables\.csv is not there.*\n.*: ffr datasets folder$"):
        check_recipe(parse(Recipe, text, "small"), text)


def test_a_folder_called_like_a_built_in_recipe_is_its_output(tmp_path, monkeypatch):
    (tmp_path / "ffr-demo").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_recipe("ffr-demo")[1] == builtin_text("ffr-demo")

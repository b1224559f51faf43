"""Every shipped YAML parses with its recipe, and every command in the documentation parses and names existing files."""

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from jpllm import cli
from jpllm.config import parse as parsing

ROOT = Path(__file__).resolve().parent.parent.parent
RECIPES = sorted((ROOT / "recipes").glob("*.py"))
SOURCES = sorted((ROOT / "recipes" / "configs" / "sources").glob("*.yaml"))
YAMLS = [file for file in sorted((ROOT / "recipes" / "configs").rglob("*.yaml")) if file not in SOURCES]
TEXTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), ROOT / "Makefile"]
VERBS = "|".join(dict.fromkeys(name.split()[0] for name in cli.VERBS))
DOCUMENTS = [*RECIPES, *YAMLS, *SOURCES, *TEXTS]


class Parsed(Exception):
    """Raised in place of running a command once its configuration has been read."""


def parse_only(monkeypatch, main, argv):
    """Call a recipe's or verb's own main until its configuration is read; returns the parsed instances."""
    real_read = parsing._read

    def read_and_stop(*given):
        instances, problems = real_read(*given)
        if problems:
            raise parsing.ConfigError(problems)
        raise Parsed(instances)

    monkeypatch.setattr(parsing, "_read", read_and_stop)
    if argv is not None:
        monkeypatch.setattr(sys, "argv", ["recipe", *argv])
    with pytest.raises(Parsed) as parsed:
        main()
    return parsed.value.args[0]


def load_recipe(path):
    specification = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # dataclasses look their module up
    specification.loader.exec_module(module)
    return module


def test_there_is_a_smoke_config_for_the_training_recipe():
    assert (ROOT / "recipes/configs/pretrain_scratch/smoke_cpu.yaml") in YAMLS


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.stem)
def test_ready_source_names_its_licence_and_parses(monkeypatch, file, tmp_path):
    monkeypatch.chdir(ROOT)
    (preview,) = parse_only(monkeypatch, lambda: cli._dispatch(["data", "preview", "--sources", str(file)]), None)
    (source,) = preview.sources
    assert source.licence
    assert source.label == file.stem
    entry = f"{{preset: {file}, path: {tmp_path / 'local.jsonl'}, where: {{}}}}"
    (local,) = parse_only(monkeypatch, lambda: cli._dispatch(["data", "preview", "--sources", entry]), None)
    assert (local.sources[0].path, local.sources[0].clean) == (str(tmp_path / "local.jsonl"), source.clean)


@pytest.mark.parametrize("file", YAMLS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_yaml_parses_with_its_recipe(monkeypatch, file):
    recipe = load_recipe(ROOT / "recipes" / f"{file.parent.name}.py")
    parsed = parse_only(monkeypatch, recipe.main, ["--config", str(file)])
    keys = set(yaml.safe_load(file.read_text(encoding="utf-8")))
    assert keys <= {key for part in parsed for key in vars(part)}


def commands():
    """(where, words) of each jpllm, accelerate launch and python recipes/… command in the documentation."""
    for file in DOCUMENTS:
        text = re.sub(r"\\\n#?\s*", " ", file.read_text(encoding="utf-8"))
        text = text.replace("$(BIN)/", "").replace("$(DEMO)", "runs/demo")
        for line in text.splitlines():
            match = re.search(rf"(?<![\w/.`-])((?:jpllm (?:{VERBS}) |accelerate launch|python recipes/).*)", line)
            if match and "`" not in match[1] and '"' not in line[: match.start()]:
                yield f"{file.relative_to(ROOT)}: {match[1]}", match[1]


@pytest.mark.parametrize(("where", "command"), list(commands()), ids=lambda text: None)
def test_documented_command(monkeypatch, where, command):
    words = [word for word in shlex.split(command, comments=True) if word != "…"]
    for word in words:
        if re.match(r"(recipes|accelerate_configs|ds_configs)/", word):
            assert (ROOT / word).is_file(), f"{where}: no {word}"
    if words[0] == "jpllm":
        if "…" in command or words[-1] == "--help":
            return
        monkeypatch.chdir(ROOT)
        parse_only(monkeypatch, lambda: cli._dispatch(words[1:]), None)
        return
    script = next(index for index, word in enumerate(words) if word.startswith("recipes/"))
    argv = words[script + 1 :]
    if "…" in command or "CONFIG.yaml" in argv:
        return
    monkeypatch.chdir(ROOT)
    parse_only(monkeypatch, load_recipe(ROOT / words[script]).main, argv)


def test_commands_are_found():
    assert len(list(commands())) > 60

"""List entries that take keys from a file of their own, and entries written on the command line."""

from dataclasses import dataclass
from typing import ClassVar

import pytest

from jpllm.config.parse import ConfigError, parse
from jpllm.config.settings import REQUIRED, option, write_yaml


@dataclass
class Source:
    """One source."""

    shorthand: ClassVar[str] = "path"
    preset_key: ClassVar[str] = "preset"
    path: str = option(REQUIRED, "Path.")
    preset: str | None = option(None, "File with keys.")
    weight: float | None = option(None, "Weight.", above=0)
    where: dict[str, str] = option(default_factory=dict, help="Values.")


@dataclass
class Data:
    """Data"""

    sources: list[Source] = option(REQUIRED, "Sources.")


def sources_of(*argv):
    return parse([Data], argv, prog="p", description="d")[0].sources


@pytest.fixture
def preset(tmp_path):
    file = tmp_path / "aozora.yaml"
    file.write_text("path: hf://aozora\nweight: 2\nwhere: {a: b}\n", encoding="utf-8")
    return str(file)


def test_a_bare_yaml_file_is_a_preset(preset):
    assert sources_of("--sources", preset, "a.txt") == [Source("hf://aozora", preset, 2.0, {"a": "b"}), Source("a.txt")]


def test_the_entry_s_own_keys_replace_those_of_the_preset(preset, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(f"sources:\n- preset: {preset}\n  path: local.jsonl\n  where: {{}}\n", encoding="utf-8")
    (source,) = sources_of("--config", str(file))
    assert source == Source("local.jsonl", preset, 2.0, {})


def test_the_resolved_configuration_gives_the_same(preset, tmp_path):
    sources = sources_of("--sources", f"{{preset: {preset}, weight: 7}}")
    write_yaml([Data(sources)], tmp_path / "resolved.yaml")
    assert sources_of("--config", str(tmp_path / "resolved.yaml")) == sources


def test_entries_on_the_command_line():
    assert sources_of("--sources", "{path: a b.txt, weight: 2e-1}", '{path: "1", where: {k: "2"}}', "c.txt") == [
        Source("a b.txt", weight=0.2),
        Source("1", where={"k": "2"}),
        Source("c.txt"),
    ]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("{path: a, wait: 1}", "--sources[0].wait: unknown key; did you mean 'weight'?"),
        ("{path: a, weight: 0}", "--sources[0].weight: "),
        ("{path: a, path: b}", "--sources[0].path: given twice"),
        ("{weight: 1}", "--sources[0].path: required, but not set"),
        ("gone.yaml", "--sources[0]: cannot read gone.yaml: No such file or directory"),
    ],
)
def test_problems_on_the_command_line(argument, message):
    with pytest.raises(ConfigError) as raised:
        sources_of("--sources", argument)
    assert str(raised.value).startswith(message)


def test_problems_in_the_preset_name_its_file_and_line(preset, tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("path: x\nwait: 1\nweight: many\n", encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        sources_of("--sources", str(bad))
    first, second = raised.value.problems
    assert first.startswith(f"{bad}:2: sources[0].wait: unknown key")
    assert second.startswith(f"{bad}:3: sources[0].weight: write a number")

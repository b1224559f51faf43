"""The configuration reader: exact values, exact messages, and the help page."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Literal, Optional

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jpllm.config.parse import ConfigError, parse
from jpllm.config.settings import REQUIRED, option, shareable_values, to_yaml, write_yaml
from jpllm.config.types import suggest
from jpllm.runtime import run_command


@dataclass
class Source:
    """One text source of the blend."""

    path: str = option(REQUIRED, "File or folder.")
    weight: float = option(1.0, "Share of the tokens.", above=0)
    column: str | None = option(None, "Column with the text.")
    shorthand: ClassVar[str] = "path"
    renamed_keys: ClassVar[dict[str, str]] = {"share": "write weight"}

    def check(self) -> Iterable[tuple[str, str]]:
        if self.column and self.path.endswith(".txt"):
            yield "column", "a text file has no columns"
        if self.path.endswith(".csv") and self.column is None:
            yield "column", "a table needs a column"


@dataclass
class Rule:
    """A class without a shorthand."""

    pattern: str
    keep: bool = True


@dataclass
class Data:
    """Data: which texts, and how they are cut."""

    sources: list[Source] = option(help="Where the texts come from.")
    sequence_length: int = option(1024, "Tokens per block.", minimum=2, maximum=8192)
    rules: list[Rule] = option(default_factory=list, help="What is kept.")
    variables: dict[str, str] = option({}, "Variables of the environment.")
    fractions: list[float] = option([0.5, 1], "Points of the run.", minimum=0)


@dataclass
class Training:
    """Training: how long, and how fast.

    The second paragraph is not in the help.
    """

    learning_rate: float = option(6e-4, "Peak learning rate.", above=0)
    scheduler: Literal["linear", "cosine", "no"] = option("cosine", "How the learning rate falls.")
    bits: Literal[8, 16] | None = option(None, "Bits of a weight.")
    eval_steps: int = option(500, "Steps between evaluations.", minimum=1)
    save_steps: int = option(1000, "Steps between checkpoints.", minimum=1)
    compile: bool = option(False, "Compile the model.")
    run_name: Optional[str] = option(None, "Name of the run.")  # noqa: UP045
    seed: int | None = option(None, "Seed of the shuffle.")
    trackers: list[str] | None = option(None, "Trackers.")
    output_dir: Path = option(Path("out"), "Folder of the results.")
    renamed_keys: ClassVar[dict[str, str]] = {"lr": "write learning_rate"}

    def check(self) -> Iterable[tuple[str, str]]:
        if self.save_steps % self.eval_steps:
            yield "save_steps", f"must be a multiple of eval_steps ({self.eval_steps}), not {self.save_steps}"


@dataclass
class Anything:
    """Every shape that a value can have."""

    text: str
    optional_text: str | None
    number: float
    optional_integer: int | None
    flag: bool
    texts: list[str]
    nested: list[list[str]]
    names: dict[str, str]
    numbers: dict[str, float | None]
    optional_texts: list[str | None]
    sources: list[Source]
    path: Path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def parsed(*arguments: str, classes=(Training,)):
    return parse(classes, arguments, prog="recipe.py", description="A recipe.")


def parse_yaml(text: str, *arguments: str, classes=(Training,)):
    Path("a.yaml").write_text(text, encoding="utf-8")
    return parsed("--config", "a.yaml", *arguments, classes=classes)


def problems(read, *arguments, **keywords) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(*arguments, **keywords)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def test_defaults_file_and_command_line_in_rising_precedence(folder):
    (training,) = parse_yaml("learning_rate: 1e-3\neval_steps: 10\n", "--eval_steps", "20", "--save_steps=40")
    assert training == Training(learning_rate=1e-3, eval_steps=20, save_steps=40)


def test_each_class_gets_its_keys_of_one_flat_file(folder):
    data, training = parse_yaml("compile: true\nsources: [a]\n", classes=(Data, Training))
    assert data == Data(sources=[Source("a")], fractions=[0.5, 1])
    assert training == Training(compile=True)


def test_mutable_defaults_are_not_shared():
    first, second = parsed("--sources", "a", classes=(Data,)), parsed("--sources", "a", classes=(Data,))
    first[0].fractions.append(2)
    assert second[0].fractions == [0.5, 1]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-5", 2e-5),
        ("1e6", 1e6),
        (".5", 0.5),
        ("5.", 5.0),
        ("+3", 3.0),
        ("0o17", 15.0),
        ("017", 17.0),
        ("0x1F", 31.0),
        ("1_000_000", 1e6),
    ],
)
def test_numbers_of_yaml_1_2(folder, text, value):
    for training in (*parse_yaml(f"learning_rate: {text}"), *parsed("--learning_rate", text)):
        assert training.learning_rate == value
        assert type(training.learning_rate) is float


@pytest.mark.parametrize(("text", "value"), [("2e8", 200_000_000), ("1.5e3", 1500), ("0o17", 15), ("017", 17)])
def test_integers(folder, text, value):
    for training in (*parse_yaml(f"seed: {text}"), *parsed("--seed", text)):
        assert training.seed == value
        assert type(training.seed) is int


@pytest.mark.parametrize("text", ["1.5", "1.0", "true", "yes", "1e-1", "1e300", "1__0", "12:30", "2024-01-01"])
def test_what_is_no_integer(folder, text):
    shown = text if text in ("1.5", "1.0", "true", "1e-1", "1e300") else f"'{text}'"
    assert problems(parse_yaml, f"eval_steps: {text}") == [f"a.yaml:1: eval_steps: write an integer, not {shown}"]
    assert problems(parsed, "--eval_steps", text) == [f"--eval_steps: write an integer, not {shown}"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('eval_steps: "7"', "write an integer, not '7'; remove the quotes"),
        ("eval_steps: １０", "write an integer, not '１０'; in half-width characters: 10"),
        ("eval_steps:", "write an integer, not an empty value"),
        ("eval_steps: null", "write an integer, not null"),
        ("eval_steps: [7]", "write an integer, not a list"),
        ("eval_steps: {a: 7}", "write an integer, not a mapping"),
        ("eval_steps: !!int 7", "remove the YAML tag tag:yaml.org,2002:int"),
        ("eval_steps: 0", "must be at least 1, not 0"),
        ("learning_rate: 0", "must be above 0, not 0"),
        ("learning_rate: .nan", "write a number, not '.nan'"),
        ("learning_rate: .inf", "write a number, not '.inf'"),
        ("learning_rate: 1e999", "write a number, not 1e999"),
        ("learning_rate: true", "write a number, not true"),
        ("compile: yes", "write true or false, not 'yes'"),
        ("compile: off", "write true or false, not 'off'"),
        ("compile: 1", "write true or false, not 1"),
        ('compile: "true"', "write true or false, not 'true'; remove the quotes"),
        ("run_name: 007", 'write text or null, not 007; quote it: "007"'),
        ("run_name: true", 'write text or null, not true; quote it: "true"'),
        ("run_name: None", "write text or null, not 'None'; quote it: \"None\""),
        ("run_name: [a]", "write text or null, not a list"),
        ("output_dir: 2024", 'write a path, not 2024; quote it: "2024"'),
        ("output_dir:", "write a path, not an empty value"),
        ("seed: None", "write an integer or null, not 'None'"),
        ("scheduler: cosin", "write one of linear, cosine, no, not 'cosin'; did you mean 'cosine'?"),
        ("scheduler: [no]", "write one of linear, cosine, no, not a list"),
        ("bits: 4", "write one of 8, 16 or null, not 4"),
        ('bits: "8"', "write one of 8, 16 or null, not '8'; remove the quotes"),
        ("trackers: wandb", "write a list, each item text, or null, not 'wandb'; in brackets: [wandb]"),
    ],
)
def test_a_wrong_value(folder, line, message):
    key = line.partition(":")[0]
    assert problems(parse_yaml, f"# comment\n\n{line}\n") == [f"a.yaml:3: {key}: {message}"]


def test_right_values(folder):
    text = "scheduler: no\nbits: 8\nrun_name: 'None'\ncompile: TRUE\nseed: ~\ntrackers: [yes, '1']\noutput_dir: あ\n"
    (training,) = parse_yaml(text)
    assert asdict(training) == asdict(Training()) | {
        "scheduler": "no",
        "bits": 8,
        "run_name": "None",
        "compile": True,
        "trackers": ["yes", "1"],
        "output_dir": Path("あ"),
    }


def test_entries_lists_and_mappings(folder):
    text = """\
sources:
  - wiki.jsonl
  - {path: web.jsonl, weight: 2}
rules: [{pattern: a, keep: false}]
variables: {yes: "1", 1: a}
"""
    (data,) = parse_yaml(text, classes=(Data,))
    assert data.sources == [Source("wiki.jsonl"), Source("web.jsonl", 2.0)]
    assert data.rules == [Rule("a", keep=False)]
    assert data.variables == {"yes": "1", "1": "a"}


def test_problems_in_entries_have_their_own_line(folder):
    text = """\
sources:
  - 7
  - weight: 2
    share: 2
  - path: web
    wieght: 1
    path: wiki
    weight: 0
  - path: a.txt
    column: text
  - [a]
  - b.csv
rules:
  - abc
  - ? [x]
    : y
variables:
  A: 1
  A: a
fractions:
  - 1
  - -1
  - half
"""
    assert problems(parse_yaml, text, classes=(Data,)) == [
        'a.yaml:2: sources[0].path: write text, not 7; quote it: "7"',
        "a.yaml:4: sources[1].share: unknown key; write weight",
        "a.yaml:3: sources[1].path: required, but not set",
        "a.yaml:6: sources[2].wieght: unknown key; did you mean 'weight'?",
        "a.yaml:7: sources[2].path: given twice; the first is in line 5",
        "a.yaml:8: sources[2].weight: must be above 0, not 0",
        "a.yaml:10: sources[3].column: a text file has no columns",
        "a.yaml:11: sources[4]: write its path, or a mapping with path, weight, column, not a list",
        "a.yaml:12: sources[5].column: a table needs a column",
        "a.yaml:14: rules[0]: write a mapping with pattern, keep, not 'abc'",
        "a.yaml:15: rules[1]: a key cannot be a list or a mapping",
        "a.yaml:15: rules[1].pattern: required, but not set",
        'a.yaml:18: variables.A: write text, not 1; quote it: "1"',
        "a.yaml:19: variables.A: given twice; the first is in line 18",
        "a.yaml:22: fractions[1]: must be at least 0, not -1",
        "a.yaml:23: fractions[2]: write a number, not 'half'",
    ]


def test_the_command_line(folder):
    arguments = ["--sources", "a", "b c", "--fractions", "1", ".5", "--sequence_length=8", "--compile"]
    arguments += ["--run_name", "007", "--seed", "-1", "--trackers", "none", "--bits", "16"]
    data, training = parsed(*arguments, classes=(Data, Training))
    assert data.sources == [Source("a"), Source("b c")]
    assert (data.fractions, data.sequence_length) == ([1, 0.5], 8)
    assert training == Training(compile=True, run_name="007", seed=-1, bits=16)


@pytest.mark.parametrize(
    ("arguments", "key", "value"),
    [
        (["--compile", "false"], "compile", False),
        (["--compile=True"], "compile", True),
        (["--run_name", "none"], "run_name", None),
        (["--run_name", "null"], "run_name", None),
        (["--run_name", "true"], "run_name", "true"),
        (["--run_name="], "run_name", ""),
        (["--run_name=--compile"], "run_name", "--compile"),
        (["--run_name", "a=b"], "run_name", "a=b"),
        (["--seed", "None"], "seed", None),
        (["--seed", "-2e3"], "seed", -2000),
        (["--scheduler", "no"], "scheduler", "no"),
        (["--trackers"], "trackers", []),
        (["--trackers", "null"], "trackers", None),
        (["--trackers", "a"], "trackers", ["a"]),
        (["--output_dir", "2024"], "output_dir", Path("2024")),
        (["--output-dir", "a-b"], "output_dir", Path("a-b")),
        (["--run-name=a-b"], "run_name", "a-b"),
    ],
)
def test_one_argument(arguments, key, value):
    (training,) = parsed(*arguments)
    assert getattr(training, key) == value
    assert type(getattr(training, key)) is type(value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--learn", "1"], "--learn: unknown key; did you mean 'learning_rate'?"),
        (["--learning-rat", "1"], "--learning-rat: unknown key; did you mean 'learning_rate'?"),
        (["--eval-steps", "1", "--eval_steps", "1"], "--eval_steps: given twice"),
        (["--lr=1"], "--lr: unknown key; write learning_rate"),
        (["--confg", "a.yaml"], "--confg: unknown key; did you mean 'config'?"),
        (["--", "1"], "--: unknown key; see --help"),
        (["--zzz"], "--zzz: unknown key; see --help"),
        (["--seed", "1", "--seed=1"], "--seed: given twice"),
        (["--seed", "1", "2"], "--seed: write an integer or null, not 2 values"),
        (["--seed"], "--seed: write an integer or null, not 0 values"),
        (["--seed="], "--seed: write an integer or null, not an empty value"),
        (["--learning_rate", "-1e-5"], "--learning_rate: must be above 0, not -1e-5"),
        (["--compile", "yes"], "--compile: write true or false, not 'yes'"),
        (["--compile", "true", "x"], "--compile: write true or false, not 2 values"),
        (["--eval_steps", "none"], "--eval_steps: write an integer, not 'none'"),
        (["--scheduler", "lin"], "--scheduler: write one of linear, cosine, no, not 'lin'; did you mean 'linear'?"),
        (["a.yaml"], "a.yaml: unexpected argument; write --key value, or --config FILE.yaml"),
        (["-x"], "-x: unexpected argument; write --key value, or --config FILE.yaml"),
        (["--config"], "--config: write one file name, not 0"),
        (["--config", "a", "b"], "--config: write one file name, not 2"),
        (["--config", "no.yaml"], "--config: cannot read no.yaml: No such file or directory"),
        (["--config", "."], "--config: cannot read .: Is a directory"),
    ],
)
def test_a_wrong_argument(folder, arguments, message):
    assert problems(parsed, *arguments) == [message]


POSITIONAL = {"positional": "trackers", "prog": "recipe.py", "description": "A recipe."}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["a", "b"], Training(trackers=["a", "b"])),
        (["a", "--seed", "3", "--compile"], Training(trackers=["a"], seed=3, compile=True)),
        (["--seed", "3", "a", "b"], Training(trackers=["a", "b"], seed=3)),
        (["--output_dir=x", "a", "--compile", "b"], Training(trackers=["a", "b"], output_dir=Path("x"), compile=True)),
        (["--compile", "false", "true"], Training(trackers=["true"])),
        (["--trackers", "a", "b", "--seed", "3"], Training(trackers=["a", "b"], seed=3)),
        (["--config", "a.yaml", "a"], Training(trackers=["a"], seed=9)),
        (["--config", "a.yaml"], Training(trackers=["of the file"], seed=9)),
    ],
)
def test_arguments_without_a_key(folder, arguments, expected):
    Path("a.yaml").write_text("seed: 9\ntrackers: [of the file]\n", encoding="utf-8")
    assert parse([Training], arguments, **POSITIONAL) == (expected,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "--trackers", "b"], "a: unexpected argument; --trackers is given too"),
        (["--sed", "3", "a"], "--sed: unknown key; did you mean 'seed'?"),
        (["--seed", "a", "b"], "--seed: write an integer or null, not 'a'"),
    ],
)
def test_wrong_arguments_without_a_key(arguments, message):
    assert problems(parse, [Training], arguments, **POSITIONAL) == [message]


def test_help_shows_what_needs_no_key(capsys):
    with pytest.raises(SystemExit):
        parse([Training], ["--help"], **POSITIONAL)
    assert capsys.readouterr().out.startswith(
        "usage: recipe.py [TRACKERS ...] [--config FILE.yaml] [--key value ...]\n"
    )


def test_entries_on_the_command_line():
    arguments = ["--sources", "a", "b.csv", "--rules", "x", "--variables", "A=1", "--fractions", "1", "x"]
    assert problems(parsed, *arguments, classes=(Data,)) == [
        "--sources[1].column: a table needs a column",
        "--rules[0]: write a mapping with pattern, keep, not 'x'; set it in the YAML file",
        "--variables: write a mapping, each value text, not 'A=1'; set it in the YAML file",
        "--fractions[1]: write a number, not 'x'",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a.yaml:1: the file is empty; write key: value, one a line"),
        (b"# nothing\n", "a.yaml:1: the file is empty; write key: value, one a line"),
        (b"- a\n", "a.yaml:1: the file has no keys; write key: value, one a line"),
        (b"seed 1\n", "a.yaml:1: the file has no keys; write key: value, one a line"),
        (b"a: b\nseed: \x83\x81\n", "a.yaml:2: not UTF-8; save the file as UTF-8"),
        (b"a: b\n\nc: \x08\n", "a.yaml:3: remove the control character U+0008"),
        (
            b"seed: 1\nb: [1\nc: 2\n",
            "a.yaml:3: not valid YAML: while parsing a flow sequence (line 2): expected ',' or ']', but got ':'",
        ),
        (b"a: 1\n\tb: 2\n", "a.yaml:2: not valid YAML: found character '\\t' that cannot start any token"),
        (b"a: *b\n", "a.yaml:1: not valid YAML: found undefined alias 'b'"),
        (
            b"a: 1\n---\nb: 1\n",
            "a.yaml:2: not valid YAML: expected a single document in the stream (line 1): but found another document",
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_one_problem(folder, content, message):
    Path("a.yaml").write_bytes(content)
    assert problems(parsed, "--config", "a.yaml", classes=(Data,)) == [message]


def test_keys_are_not_missing_when_the_file_cannot_be_read(folder):
    assert problems(parsed, "--zzz", "--config", "no.yaml", classes=(Data,)) == [
        "--config: cannot read no.yaml: No such file or directory",
        "--zzz: unknown key; see --help",
    ]


def test_a_byte_order_mark_is_no_part_of_the_first_key(folder):
    assert parse_yaml("\ufeffseed: 1\n") == (Training(seed=1),)


def test_merge_keys_and_aliases(folder):
    assert problems(parse_yaml, "<<: {seed: 1}\n") == ["a.yaml:1: <<: unknown key; see --help"]
    assert parse_yaml("run_name: &name a\ntrackers: [*name]\n") == (Training(run_name="a", trackers=["a"]),)


def test_missing_keys():
    assert problems(parsed, classes=(Data, Rule)) == [
        "--sources: required, but not set",
        "--pattern: required, but not set",
    ]


def test_all_problems_come_together(folder):
    text = "seed: a\nsed: 1\nseed: 1\nsave_steps: 7\nlr: 1\n"
    found = problems(parse_yaml, text, "--zzz", "--eval_steps", "2", "--sequence_length", "1", classes=(Data, Training))
    assert found == [
        "a.yaml:1: seed: write an integer or null, not 'a'",
        "a.yaml:2: sed: unknown key; did you mean 'seed'?",
        "a.yaml:3: seed: given twice; the first is in line 1",
        "a.yaml:5: lr: unknown key; write learning_rate",
        "--zzz: unknown key; see --help",
        "--sequence_length: must be at least 2, not 1",
        "a.yaml: sources: required, but not set",
    ]


def test_check_names_the_place_of_the_key(folder):
    message = "save_steps: must be a multiple of eval_steps"
    assert problems(parse_yaml, "\nsave_steps: 7\nx: 1\n") == [
        "a.yaml:3: x: unknown key; see --help",
        f"a.yaml:2: {message} (500), not 7",
    ]
    assert problems(parsed, "--save_steps", "7") == [f"--{message} (500), not 7"]
    assert problems(parsed, "--eval_steps", "7") == [f"default: {message} (7), not 1000"]
    assert problems(parse_yaml, "save_steps: 7", "--save_steps", "8") == [f"--{message} (500), not 8"]


def test_a_command_shows_the_problems_without_a_traceback(capsys):
    assert run_command(lambda: parsed("--zzz")) == 2
    assert capsys.readouterr().err == "error: --zzz: unknown key; see --help\n"


def test_mistakes_of_the_programmer():
    with pytest.raises(AssertionError, match="a key is in two classes"):
        parsed(classes=(Training, Training))
    with pytest.raises(AssertionError, match="each option needs a sentence of help"):
        option(1)


def test_suggest():
    assert suggest("vocab-size", ["vocab_size", "seed"]) == "; did you mean 'vocab_size'?"
    assert suggest("voc", ["seed", "vocabulary_size"]) == "; did you mean 'vocabulary_size'?"
    assert suggest("", ["seed"]) == ""


def test_help(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    with pytest.raises(SystemExit) as caught:
        parse([Data], ["--sources", "a", "-h"], prog="recipe.py", description="A recipe:\n\n  one   two\n")
    assert caught.value.code == 0
    assert capsys.readouterr().out == HELP


HELP = """\
usage: recipe.py [--config FILE.yaml] [--key value ...]

A recipe:

  one   two

Every key can be set in the YAML file (key: value) and on the command
line (--key value), which wins. A list takes any number of values.
After a key that is true or false, true can be left out.

Data: which texts, and how they are cut.

  --sources: a list, each item its path, or a mapping with path,
      weight, column; required
      Where the texts come from.

  --sequence_length: an integer, at least 2, at most 8192; default
      1024
      Tokens per block.

  --rules: a list, each item a mapping with pattern, keep; default []
      What is kept.

  --variables: a mapping, each value text; default {}
      Variables of the environment.

  --fractions: a list, each item a number, at least 0; default [0.5,
      1]
      Points of the run.

Each entry of sources: One text source of the blend.

  path: text; required
      File or folder.

  weight: a number, above 0; default 1.0
      Share of the tokens.

  column: text or null; default null
      Column with the text.

Each entry of rules: A class without a shorthand.

  pattern: text; required

  keep: true or false; default true
"""


NASTY_TEXTS = [
    *("yes", "no", "on", "1e5", "2e-5", "null", "None", "none", "~", "007", "0o17", "1_000", ".5", "true", "=", "<<"),
    *("'", '"', "\\", "2024-01-01", "12:30", "!a", "&a", "*a", "{", "[", "%a", "@", "`", "|", ">", "?", "---", "..."),
    *(
        "#a",
        "a #b",
        "a:b",
        "a: b",
        "- a",
        " a",
        "a ",
        "",
        " ",
        "\n",
        "a\n\nb\n",
        "\t",
        "\0",
        "\x85",
        "\ufeff",
        "\u2028",
    ),
    *("吾輩は猫である。\n　名前はまだ無い。", "𠮷野家", "🍣", "1" * 400),
]
texts = st.text() | st.sampled_from(NASTY_TEXTS)
numbers = st.floats(allow_nan=False, allow_infinity=False)
entries = st.builds(Source, texts, numbers.filter(lambda number: number > 0), st.none())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    anything=st.builds(
        Anything,
        text=texts,
        optional_text=st.none() | texts,
        number=numbers,
        optional_integer=st.none() | st.integers(),
        flag=st.booleans(),
        texts=st.lists(texts, max_size=3),
        nested=st.lists(st.lists(texts, max_size=2), max_size=3),
        names=st.dictionaries(texts, texts, max_size=3),
        numbers=st.dictionaries(texts, st.none() | numbers, max_size=2),
        optional_texts=st.lists(st.none() | texts, max_size=3),
        sources=st.lists(entries.filter(lambda entry: not entry.path.endswith(".csv")), max_size=2),
        path=texts.map(Path),
    )
)
def test_what_dump_writes_is_read_back(folder, anything):
    assert parse_yaml(to_yaml([anything]), classes=(Anything,)) == (anything,)


def test_nasty_texts_are_read_back(folder):
    anything = Anything(
        "", None, 0.1, None, False, NASTY_TEXTS, [[]], {text: text for text in NASTY_TEXTS}, {}, [], [], Path()
    )
    assert parse_yaml(to_yaml([anything]), classes=(Anything,)) == (anything,)


def test_dump_is_readable_and_in_the_order_of_the_classes(folder):
    shared = ["yes"]
    data = Data([Source("日本語.txt")], fractions=[1.0], variables={"a": "007"})
    training = Training(run_name="長い" * 60, trackers=shared)
    text = to_yaml([data, training])
    assert (
        text
        == f"""\
sources:
- path: 日本語.txt
  weight: 1.0
  column: null
sequence_length: 1024
rules: []
variables:
  a: "007"
fractions:
- 1.0
learning_rate: 0.0006
scheduler: cosine
bits: null
eval_steps: 500
save_steps: 1000
compile: false
run_name: {"長い" * 60}
seed: null
trackers:
- 'yes'
output_dir: out
"""
    )
    assert parse_yaml(text, classes=(Data, Training)) == (data, training)


def test_what_others_may_see(tmp_path, monkeypatch):
    """Numbers, switches, choices; of names and paths that are asked for the last part; nothing else that was typed."""
    monkeypatch.setenv("HOME", str(tmp_path / "cat"))
    typed = Training(seed=3, run_name="hf_canary", trackers=["canary"], output_dir=tmp_path / "cat" / "canary" / "run")
    data = Data([Source("canary.jsonl")], variables={"TOKEN": "canary"})
    found = shareable_values([typed, data], names=("output_dir", "run_name"))
    assert found == {
        **{"learning_rate": 6e-4, "scheduler": "cosine", "eval_steps": 500, "save_steps": 1000, "compile": False},
        **{"run_name": "hf_canary", "seed": 3, "output_dir": "run", "sequence_length": 1024},
    }
    assert not {"run_name", "output_dir"} & shareable_values([typed]).keys()
    home = Training(output_dir=tmp_path / "cat")
    assert "output_dir" not in shareable_values([home], names=("output_dir",))


def test_write_resolved(tmp_path):
    path = tmp_path / "run" / "config.yaml"
    for seed in (1, 2):
        write_yaml([Training(seed=seed)], path)
    assert path.read_text(encoding="utf-8") == to_yaml([Training(seed=2)])
    assert list(path.parent.iterdir()) == [path]


def test_the_import_is_light():
    code = "import sys, jpllm.config.parse\n"
    code += "print(sorted({'torch', 'transformers', 'numpy', 'argparse'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"

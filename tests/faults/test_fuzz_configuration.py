"""Whatever a file of settings or a command line holds, it is read or refused with one message. See `fuzzing`."""

import json
import tempfile
from pathlib import Path

import yaml
from hypothesis import strategies as st

from jpllm.config.parse import ConfigError, parse
from jpllm.config.settings import to_yaml
from jpllm.training.recipe_configs import RECIPES
from tests.faults.fuzzing import ODD_TEXTS, ODD_VALUES, changed, check_many

RECIPE = "pretrain_scratch"
CONFIG = Path(__file__).resolve().parents[2] / "recipes" / "configs" / RECIPE / "demo_cpu.yaml"
FRAGMENTS = st.sampled_from(
    [
        *("a: ", "- ", "? ", "[", "]", "{", "}", "&x ", "*x", "<<: *x", "\n", "  ", "\t", '"', "'", "|\n", ">\n", "# "),
        *("%YAML 1.2\n", "---\n", "...\n", "!!binary ", "!x ", '"\\U00110000"', '"\\uD800"', "\0", "\ufeff", "\x85"),
        *("model: ", "sources: ", "tokens: ", "learning_rate: ", "seed: ", "1e999", "0x" + "f" * 300, "9" * 5000),
        *("1:2:3", "~", ".nan", "2001-99-99", "[" * 60, "- " * 60, "path: ", "preset: ", "clean: "),
    ]
)


def read(content, *arguments):
    """Read the settings of a recipe from a file with this content; what is accepted can be written and read again."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_bytes(content)
        try:
            found = parse(RECIPES[RECIPE], ["--config", str(file), *arguments], prog="x", description="x")
        except ConfigError:
            return
        file.write_text(to_yaml(found), encoding="utf-8")
        assert parse(RECIPES[RECIPE], ["--config", str(file)], prog="x", description="x") == found


def values():
    return yaml.safe_load(CONFIG.read_text(encoding="utf-8"))


def test_odd_values():
    def check(value):
        read(json.dumps(value, ensure_ascii=False).encode("utf-8", errors="surrogatepass"))

    check_many(check, changed(values()) | ODD_VALUES, num_examples=40)


def test_odd_yaml():
    def check(parts):
        read("".join(parts).encode("utf-8", errors="surrogatepass"))

    check_many(check, st.lists(FRAGMENTS | st.text(max_size=5), max_size=25), num_examples=40)


def test_odd_bytes():
    whole = CONFIG.read_bytes()

    def check(place):
        at, junk, length = place
        read(whole[:at] + junk + whole[at + length :])

    check_many(
        check, st.tuples(st.integers(0, len(whole)), st.binary(max_size=10), st.integers(0, 30)), num_examples=40
    )


def test_odd_arguments():
    # what the operating system hands over: no NUL, and bytes that are not UTF-8 as halves of characters
    texts = (FRAGMENTS | ODD_TEXTS).map(lambda text: text.replace("\0", "").encode("utf-8", "replace").decode())
    names = st.sampled_from(["--model", "--sources", "--tokens", "--prompts", "--clean", "--x", "--", "---", "--seed="])

    def check(arguments):
        if {"-h", "--help"}.isdisjoint(arguments):  # these are answered with a page, and exit code 0
            read(CONFIG.read_bytes(), *arguments)

    check_many(check, st.lists(names | texts | st.just("\udc80"), max_size=6), num_examples=40)

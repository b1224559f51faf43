import pytest

from jpllm.sharing.card_rules import is_repository, language_problem, licence_problem, problems

GOOD = """\
---
language: [ja, en]
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
datasets: [globis-university/aozorabunko-clean]
base_model: openai-community/gpt2
model-index:
- name: a
  results:
  - task: {type: text-generation}
    dataset: {type: held_out, name: held-out texts}
    metrics:
    - {type: bits_per_byte, value: 2.0}
---

# a
"""


def test_good_metadata():
    assert list(problems(GOOD)) == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "apache-2.0",
            "Apache-2.0",
            "license: 'Apache-2.0' is no identifier that the Hub knows; did you mean 'apache-2.0'?",
        ),
        ("license: apache-2.0\n", "", "license: there is none"),
        ("apache-2.0", "other", "license: other needs license_name and license_link"),
        ("[ja, en]", "[jp]", "language: 'jp' is no code of ISO 639"),
        ("text-generation\nd", "text-generating\nd", "pipeline_tag: 'text-generating' is no task"),
        ("globis-university/aozorabunko-clean", "/home/a/b", "datasets: '/home/a/b' is no name of a repository"),
        ("openai-community/gpt2", "runs/a/model", "base_model: 'runs/a/model' is no name of a repository"),
        ("dataset: {type: held_out, name: held-out texts}", "dataset: {name: x}", "the metadata cannot be read"),
        ("[ja, en]", "[ja", "the metadata cannot be read"),
        (GOOD[: GOOD.index("# a")], "", "there is no metadata"),
    ],
)
def test_what_the_hub_would_refuse(old, new, message):
    card = GOOD.replace(old, new)
    assert card != GOOD
    (found,) = problems(card)
    assert message in found


def test_identifiers():
    assert [licence_problem(name) for name in ("mit", "cc-by-sa-4.0", "other")] == [None] * 3
    assert "no identifier" in licence_problem("CC BY 4.0")
    assert [language_problem(name) for name in ("ja", "en", "jpn", "multilingual")] == [None] * 4
    assert "'Japanese'" in language_problem("Japanese")
    assert is_repository("openai-community/gpt2")
    assert is_repository("gpt2")
    assert not is_repository("runs/a/b")

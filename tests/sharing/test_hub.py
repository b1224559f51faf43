from types import SimpleNamespace

import huggingface_hub
import pytest

from jpllm.runtime import InputError
from jpllm.sharing import hub
from jpllm.sharing.hub import card_problems, is_repository, language_problem, licence_problem

TOKEN = "hf_canary0123456789"
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


class FakeApi:
    """A Hub with one repository, which remembers what it was asked."""

    def __init__(self, private=None, error=None):
        self.private, self.error, self.calls = private, error, []

    def create_repo(self, repository, *, private, exist_ok):
        self.calls.append(("create", repository, private))
        assert exist_ok
        if self.private is None:
            self.private = private

    def model_info(self, repository):
        return SimpleNamespace(private=self.private)

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        if self.error:
            raise self.error
        self.calls.append(("upload", repo_id, folder_path))


@pytest.fixture
def api(monkeypatch):
    def use(found):
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: found)
        return found

    return use


def test_private_by_default(api, tmp_path):
    found = api(FakeApi())
    assert hub.push(tmp_path, "me/neko", is_public=False) == "https://huggingface.co/me/neko"
    assert found.calls == [("create", "me/neko", True), ("upload", "me/neko", tmp_path)]


def test_public_when_asked(api, tmp_path):
    found = api(FakeApi())
    hub.push(tmp_path, "me/neko", is_public=True)
    assert found.calls == [("create", "me/neko", False), ("upload", "me/neko", tmp_path)]


def test_nothing_is_pushed_to_a_public_repository_unasked(api, tmp_path):
    found = api(FakeApi(private=False))
    with pytest.raises(InputError, match="me/neko is there and public"):
        hub.push(tmp_path, "me/neko", is_public=False)
    assert found.calls == [("create", "me/neko", True)]
    hub.push(tmp_path, "me/neko", is_public=True)
    assert found.calls[-1] == ("upload", "me/neko", tmp_path)


def test_errors_show_no_token(api, tmp_path):
    error = OSError(f"Authorization: Bearer {TOKEN}")
    error.response = SimpleNamespace(status_code=403)
    api(FakeApi(error=error))
    with pytest.raises(InputError) as found:
        hub.push(tmp_path, "me/neko", is_public=False)
    assert "the upload failed (OSError 403)" in str(found.value)
    assert TOKEN not in str(found.value)
    assert found.value.__suppress_context__


def test_login(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(InputError, match="hf auth login"):
        hub.refuse_without_login()
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: TOKEN)
    hub.refuse_without_login()


def test_good_metadata():
    assert list(card_problems(GOOD)) == []


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
    (found,) = card_problems(card)
    assert message in found


def test_identifiers():
    assert [licence_problem(name) for name in ("mit", "cc-by-sa-4.0", "other")] == [None] * 3
    assert "no identifier" in licence_problem("CC BY 4.0")
    assert [language_problem(name) for name in ("ja", "en", "jpn", "multilingual")] == [None] * 4
    assert "'Japanese'" in language_problem("Japanese")
    assert is_repository("openai-community/gpt2")
    assert is_repository("gpt2")
    assert not is_repository("runs/a/b")

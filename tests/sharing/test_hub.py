from types import SimpleNamespace

import huggingface_hub
import pytest

from jpllm.runtime import InputError
from jpllm.sharing import hub

TOKEN = "hf_canary0123456789"


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

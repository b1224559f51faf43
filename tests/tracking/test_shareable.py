import pytest

from jpllm.tracking.shareable import encodable, shareable


def test_home_folders_become_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/srv/people/me")
    found = shareable(
        {
            "tokenizer": "/srv/people/me/tok",
            "model": "/home/alice/runs/a",
            "sources": [{"path": "/Users/bob"}, "C:\\Users\\eve\\x.txt"],
            "/root/key": 3,
            "text": "from /root/a and /home/c",
            "kept": ["/srv/people/mean", "/rootfs/x", "https://example.org/home/page", "/data/corpus", None, 1.5],
        }
    )
    assert found == {
        "tokenizer": "~/tok",
        "model": "~/runs/a",
        "sources": [{"path": "~"}, "~\\x.txt"],
        "~/key": 3,
        "text": "from ~/a and ~",
        "kept": ["/srv/people/mean", "/rootfs/x", "https://example.org/home/page", "/data/corpus", None, 1.5],
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/mnt/home/alice/x", "~/x"),
        ("/nfs/users/alice/x", "~/x"),
        ("/mnt/c/Users/alice", "~"),
        ("C:/Users/al/x", "~/x"),
        ("d:\\backup\\Users\\al\\x", "~\\x"),
        ("\\\\server\\users\\al\\x", "\\~\\x"),
        ("file:///home/alice/x", "file://~/x"),
        ("C://Users/al/x", "C:/~/x"),
        ("no file /scratch/home/alice/m, or no model", "no file ~/m, or no model"),
        ("https://example.org/home/page, /home/alice/x", "https://example.org/home/page, ~/x"),
        ("s3://bucket/users/guide", "s3://bucket/users/guide"),
        ("docs/users/guide.md", "docs/users/guide.md"),
    ],
)
def test_homes_on_other_disks_and_systems(text, expected, monkeypatch):
    monkeypatch.setenv("HOME", "/srv/people/me")
    assert shareable(text) == expected


def test_a_long_text_of_slashes_takes_no_time():
    assert shareable("/!" * 50_000) == "/!" * 50_000


def test_a_home_that_is_the_root_hides_nothing(monkeypatch):
    monkeypatch.setenv("HOME", "/")
    assert shareable("/data/x") == "/data/x"


def test_halves_of_characters():
    assert encodable("猫\ud800😀") == "猫?😀"

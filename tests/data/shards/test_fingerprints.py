from jpllm.data.read.sources import SourceConfig
from jpllm.data.shards.fingerprints import content_hash


def test_content_hash_follows_the_bytes_and_not_the_name(tmp_path):
    for name, text in (("a.txt", "x"), ("b.txt", "x"), ("c.txt", "y")):
        (tmp_path / name).write_text(text)
    a, b, c = (content_hash(SourceConfig(str(tmp_path / name))) for name in ("a.txt", "b.txt", "c.txt"))
    assert a == b != c

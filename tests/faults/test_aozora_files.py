"""Files of Aozora Bunko as they are downloaded, in their encoding, through `jpllm data preview`."""

import json

import pytest

from jpllm import cli

BOX = f"{'-' * 55}\n【記号について】\n\n《》：ルビ\n{'-' * 55}\n"


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        (
            "題\n作者\n\n"
            "　其の※［＃「姉」の正字、「※［＃「例」の正字、第3水準1-85-57］」の「木」に代えて「女」、749-12］が来た。"
            "\n\n\n底本：「例」\n入力：甲\n校正：乙\n",
            "其の〓が来た。",
        ),
        (
            f"題\n作者\n\n{BOX}\n　本文［＃割り注］注釈［＃割り注終わり］です。"
            "\n\n\n　　翻訳の底本：Foo (1890)\n著作権は失効\n翻訳者：丙\n",
            "本文（注釈）です。",
        ),
    ],
)
def test_a_file_as_downloaded(tmp_path, capsys, raw, plain):
    file = tmp_path / "work.txt"
    file.write_bytes(raw.replace("\n", "\r\n").encode("cp932"))
    source = json.dumps({"path": str(file), "encoding": "cp932", "clean": ["aozora"]}, ensure_ascii=False)
    assert cli.main(["data", "preview", "--sources", source, "--output", str(tmp_path / "seen.html")]) == 0
    shown = (tmp_path / "seen.html").read_text(encoding="utf-8")
    assert plain in shown

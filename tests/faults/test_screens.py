"""What models, corpora and strangers write reaches the terminal and reports, and is shown there instead of obeyed."""

import io
import json
import logging
import os
import pty
import re
import subprocess
import sys
import threading

import pytest
import torch
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from jpllm import cli, markdown, runtime, terminal
from jpllm.commands import chat as chatting
from jpllm.evaluation.generate import Answer
from jpllm.tokenizer.chat_template import set_template
from jpllm.tokenizer.load import load
from jpllm.tracking.plot import plot_loss
from jpllm.tracking.wandb import content
from jpllm.training.callbacks import SampleWriter
from tests.models.test_build import memoryless_model
from tests.tracking.run_folders import RESULTS, place, write_rows, write_run

# A title, a cleared screen, a colour, a link, what a terminal answers as if it were typed; the same in C1; a line that
# replaces the one before; a text that is shown from its end; half a character.
ATTACK = "題\x1b]0;x\x07\x1b[2J\x1b[31m\x1b]8;;http://x\x1b\\\x1b[6n\x9b2J\x9d0;x\x9c\x90q\x85\r\x08\x7f\u202etxt.\u2066\ud800名"
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f\ud800-\udfff]")
PIECES = [
    "<0x1B>",
    "<0x5B>",
    "<0x32>",
    "<0x4A>",
    "<0xC2>",
    "<0x9B>",
    "<0xE2>",
    "<0x80>",
    "<0xAE>",
]  # ESC [ 2 J, CSI, RLO
COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # our own


@pytest.fixture(scope="module")
def model(tokenizer_dir, tmp_path_factory):
    """Folder of a model that answers all with ESC [2J, CSI and RLO: the next token depends on the latest alone."""
    folder, tokenizer = tmp_path_factory.mktemp("model") / "obeyed", load(tokenizer_dir)
    set_template(tokenizer, "chat")
    model = memoryless_model(len(tokenizer))
    chain = [*tokenizer.convert_tokens_to_ids(PIECES), tokenizer.eos_token_id]
    assert len(set(chain)) == len(chain)
    with torch.no_grad():
        embeddings = model.get_input_embeddings().weight
        embeddings[:] = embeddings[tokenizer.unk_token_id]  # whatever the prompt ends with, the chain begins
        for index, token in enumerate(chain[:-1]):
            embeddings[token] = torch.randn(embeddings.shape[1], generator=torch.Generator().manual_seed(index))
        begins = embeddings[tokenizer.unk_token_id]
        for before, after in zip([begins, *embeddings[chain[:-1]]], chain, strict=True):
            model.lm_head.weight[after] = 100 * before / before.norm()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def shown_by(*command, cwd, columns=200):
    """Return what a command writes to a terminal of its own, and its exit code."""
    ours, its = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm-256color"}
    process = subprocess.Popen(
        [sys.executable, "-m", "jpllm.cli", *command], stdin=its, stdout=its, stderr=its, cwd=cwd, env=environment
    )
    os.close(its)
    pieces = []

    def read():
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:
                return
            if not piece:
                return
            pieces.append(piece)

    reader = threading.Thread(target=read)
    reader.start()
    code = process.wait(timeout=120)
    reader.join(timeout=10)
    os.close(ours)
    return b"".join(pieces).decode("utf-8", errors="replace"), code


def assert_harmless(text):
    """Apart from colours, the ends of lines, and what shows and hides the cursor of a progress bar."""
    own = re.sub(r"\x1b\[\?25[lh]|\x1b\[[12]K|\x1b\[1A|\r", "", COLOURS.sub("", text))
    assert OBEYED.findall(own) == []


def test_the_function():
    assert terminal.harmless("a\x1b[2J\tb\nc\u3000だ👨‍👩‍👧 é") == "a [2J\tb\nc\u3000だ👨‍👩‍👧 é"
    assert terminal.harmless("a\rb\u202ec\x9bd\ud800e") == "a b c d?e"
    assert terminal.on_one_line("a\r\nb\tc\n") == "a⏎b c⏎"
    assert len(terminal.harmless(ATTACK)) == len(ATTACK)
    assert OBEYED.findall(terminal.harmless("".join(map(chr, range(sys.maxunicode + 1))))) == []


def test_answers_of_a_model(model, tmp_path, capsys):
    """As table, as stream, and in files."""
    answer = " [2J   "
    for more in ([], ["--stream"]):
        assert cli.main(["generate", "--model", model, "--prompt", f"{ATTACK[:20]}", "--template", "none", *more]) == 0
        shown = capsys.readouterr().out
        assert_harmless(shown)
        assert f"▸{answer[:4]}" in shown
    file = tmp_path / "answers.md"
    assert cli.main(["generate", "--model", model, "--prompt", "猫", "--output", str(file)]) == 0
    assert OBEYED.findall(file.read_text(encoding="utf-8")) == []


def test_a_conversation(model, tmp_path, capsys):
    script = tmp_path / "script.txt"
    script.write_text(f"猫{ATTACK[:12]}は？\n/x\x1b[2J\n", encoding="utf-8")
    assert cli.main(["chat", "--model", model, "--script", str(script)]) == 2
    shown = capsys.readouterr()
    assert "[2J" in shown.out
    assert_harmless(shown.out)
    assert_harmless(shown.err)


def test_an_answer_piece_by_piece(monkeypatch, capsys):
    class Talk:
        num_forgotten = 0

        def ask(self, question, on_text):
            for letter in ATTACK:
                on_text(letter)
            return Answer(ATTACK, True, 9)

    chatting.answer_line(Talk(), "猫")
    assert_harmless(capsys.readouterr().out)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a run whose every text is an attack, also its name."""
    monkeypatch.chdir(tmp_path)
    name = ATTACK.replace("/", "").replace("\ud800", "")[:60]
    groups = {ATTACK: {"before": 1.0, "after": 2.0}}
    results = {**RESULTS, "groups": groups, "device": ATTACK, "engine": ATTACK, "mixture": [{"source": ATTACK}]}
    evaluation = {"model": ATTACK, "forgetting": {"models": [ATTACK, "b"], "bits_per_byte": {ATTACK: [1.0, 2.0]}}}
    run = write_run(
        tmp_path / name,
        settings={"model": ATTACK.replace("\ud800", ""), "sources": [{"path": "a", "name": "a\x1b[2J\u202e"}]},
        results=json.loads(json.dumps(results)),
        evaluation=json.loads(json.dumps(evaluation)),
    )
    rows = [{**place(step), "loss": 2.0, f"eval_group_bits_per_byte/{ATTACK}": 1.0 + step} for step in range(4)]
    with (run / "metrics.jsonl").open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)
    with (run / "samples.jsonl").open("w", encoding="utf-8") as stream:
        stream.write(json.dumps({**place(3), "prompt": ATTACK, "text": ATTACK}) + "\n")
    (run / "environment.json").write_text(json.dumps({"sessions": [{"cpu": ATTACK, "cores": 2}]}), encoding="utf-8")
    (run / "model").mkdir()
    (run / "model" / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}')
    return run


def test_runs_on_the_terminal(folder, capsys):
    shown, code = shown_by("compare", folder.name, cwd=folder.parent)
    assert cli.main(["watch", folder.name, "--once"]) == code == 0
    for text in (shown, capsys.readouterr().out):
        assert "]0;x" in text
        assert_harmless(text)


def test_runs_in_reports(folder, capsys):
    (folder / "evaluation" / "evaluation.json").unlink()
    for name in ("report.html", "report.md"):
        assert cli.main(["compare", folder.name, "--output", name]) == 0
        assert OBEYED.findall((folder.parent / name).read_text(encoding="utf-8")) == []
    assert cli.main(["card", folder.name, "--license", "mit", "--allow_missing"]) == 0
    card = (folder / "model" / "README.md").read_text(encoding="utf-8")
    assert "題" in card
    assert OBEYED.findall(card) == []
    assert_harmless("".join(capsys.readouterr()))


def test_the_table_of_all_results(folder, capsys):
    row = {
        "text": ATTACK,
        "num_bytes": 10,
        "bits_per_byte": 1.0,
        "xz_bits_per_byte": 2.0,
        "context_length": 8,
        "stride": 4,
    }
    file = folder / "evaluation.json"
    file.write_text(json.dumps({"model": ATTACK, "perplexity": [row], "versions": {"torch": ATTACK}}), encoding="utf-8")
    (folder.parent / "broken").mkdir()
    (folder.parent / "broken" / "evaluation.json").write_text(json.dumps({"model": "m", "jglue": ATTACK}))
    for more in ([], ["--output", "l.md"], ["--output", "l.html"]):
        assert cli.main(["compare", "--leaderboard", folder.name, "broken", *more]) == 0
    assert_harmless("".join(capsys.readouterr()))
    for name in ("l.md", "l.html"):
        text = (folder.parent / name).read_text(encoding="utf-8")
        assert "題" in text
        assert OBEYED.findall(text) == []


def test_corpora(tmp_path, monkeypatch, capsys):
    """Their names and texts, also with what rich would read as markup, in previews and messages."""
    monkeypatch.chdir(tmp_path)
    name = "名\x1b[2J\u202e[x].jsonl"
    texts = [ATTACK.replace("\ud800", "") + "[/x] ＡＢＣ [red]", "[/]", "：：" * 30]
    write_rows(tmp_path / name, [{"text": text} for text in texts])
    sources = json.dumps({"path": name, "clean": ["nfkc"]}, ensure_ascii=False)
    assert cli.main(["data", "preview", "--sources", sources, "--output", "page.html"]) == 0
    shown = capsys.readouterr()
    assert "[/x] ABC [red]" in shown.out.replace("\n", "") or "[/x]" in shown.out
    assert_harmless(shown.out + shown.err)
    assert OBEYED.findall((tmp_path / "page.html").read_text(encoding="utf-8")) == []
    assert cli.main(["data", "dedup", "--sources", name, "--output_dir", "out"]) == 0
    assert_harmless("".join(capsys.readouterr()))


@pytest.mark.parametrize(
    "command",
    [
        ["compare", "\x1b[2J\u202e"],
        ["watch", "\x1b[2J\x9b"],
        ["card", "\x1b[2J"],
        ["\x1b[2J"],
        ["plan", "--\x1b[2J", "\x1b[2J"],
        ["plan", "--config", "\x1b[2J"],
        ["data", "dedup", "--sources", "\x1b[2J", "--output_dir", "x"],
        ["generate", "--model", "\x1b[2J", "--prompt", "x"],
        ["data", "dedup", "--sources", "\udc9b.txt", "--output_dir", "x"],
    ],
)
def test_error_messages(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(command) == 2
    message = capsys.readouterr().err
    assert "error: " in message
    assert_harmless(message)


def test_settings_in_error_messages(tmp_path, capsys):
    file = tmp_path / "config.yaml"
    file.write_text('"\\e[2J\\u202e": 1\nseed: "\\e[2J"\n"\\x9b": x\n', encoding="utf-8")
    assert cli.main(["plan", "--config", str(file)]) == 2
    assert_harmless(capsys.readouterr().err)


def test_log_lines_and_samples_of_a_training(tmp_path, capsys):
    runtime.configure_logging()
    logging.getLogger("jpllm.x").warning("%s", ATTACK)
    logging.getLogger("other").error("%s", ATTACK, exc_info=ValueError(ATTACK))
    runtime.announce(ATTACK)
    runtime.announce(Text(ATTACK))
    with runtime.progress_bar(ATTACK, "documents") as update:
        update(1, 2, documents=1)

    class Clock:
        def position(self, step):
            return {"step": step}

    class State:
        is_world_process_zero, global_step = True, 1

    SampleWriter(tmp_path, Clock(), [ATTACK[:10]], lambda model, prompts: [ATTACK]).on_evaluate(None, State(), None)
    shown = capsys.readouterr()
    assert_harmless(shown.out + shown.err)
    assert len(re.findall("名", shown.out + shown.err)) >= 5


def test_everything_that_rich_draws():
    stream = io.StringIO()
    console = terminal.console(file=stream, width=60, force_terminal=True)
    table = Table(title=ATTACK, caption=ATTACK)
    table.add_column(ATTACK, overflow="fold")
    table.add_row(Text(ATTACK), style="bold")
    table.add_row(f"[/x] {ATTACK} [red]:smile:")
    console.print(table, ATTACK, Panel(Text.assemble((ATTACK, "bold red")), title=ATTACK))
    console.rule(ATTACK.replace("\n", ""))
    with Live(Text(ATTACK), console=console, auto_refresh=False):
        pass
    shown = stream.getvalue()
    assert_harmless(shown)
    assert "[red]:smile:" in shown
    assert "\x1b[1;31m" in shown  # own colours stay


def test_markdown_and_what_is_mirrored():
    assert OBEYED.findall(markdown.table([ATTACK, ATTACK], [[ATTACK, ATTACK]], [[ATTACK, ""]])) == []
    assert markdown.escaped("a\r\nb\x85c\u2028d\x0be") == "a<br>b<br>c<br>d<br>e"
    sent = [
        content.metrics({ATTACK: 1.0}),
        content.samples([{"step": 1, "prompt": ATTACK, "text": ATTACK}]),
        content.evaluation_tables({"perplexity": [{ATTACK: ATTACK}]}),
        content.settings([], [ATTACK]),
    ]
    assert OBEYED.findall(json.dumps(sent, ensure_ascii=False)) == []


def test_a_plot_of_names_with_dollars(tmp_path):
    rows = [
        {"step": step, "epoch": step, "tokens": step, "loss": 1.0, "eval_group_bits_per_byte/$\\frac$\x1b": 1.0}
        for step in (1, 2)
    ]
    plot_loss(rows, 10, tmp_path / "loss.png", "$\\frac$")
    assert [file.name for file in tmp_path.iterdir()] == ["loss.png"]

"""Whatever a run folder holds, compare, watch and card show it or refuse it. See `fuzzing` for longer runs."""

import io
import json
import tempfile
from pathlib import Path

from hypothesis import strategies as st

from jpllm import terminal
from jpllm.runtime import InputError
from jpllm.sharing.card import compose as cards
from jpllm.sharing.card.compose import CardConfig
from jpllm.tracking import runs
from jpllm.tracking.compare import comparison
from jpllm.tracking.compare.page import to_html
from jpllm.tracking.watch.frame import frame
from jpllm.tracking.watch.status import RunReader
from tests.faults.fuzzing import ODD_VALUES, changed, check_many
from tests.tracking.run_folders import RESULTS, SETTINGS, place, rows, samples, write_run

GROUPS = {"wiki": {"before": 1.0, "after": 0.9}, "law": {"before": 2.0, "after": 2.5}}
MIXTURE = [{"source": "wiki", "requested_share": 0.5, "achieved_share": 0.4, "tokens": 1000, "epochs": 0.5}]
MEMORY = {"tensor_bytes": 10**9, "host_bytes": 10**9, "peak_bytes": 10**9}
SESSION = {"cpu": "x", "cores": 2, "gpus": [{"name": "y"}], "versions": {"torch": "2"}, "commit": "abc", "time": "now"}
TASK = {
    **{
        "task": "jnli",
        "metric": "acc",
        "value": 0.4,
        "n": 100,
        "chance": 0.33,
        "majority": 0.5,
        "standard_error": 0.03,
    },
    **{"style": "plain", "num_fewshot": 0, "data_version": "1.3", "shots_from": "train", "limit": None},
    "without_hits": [{"n": 90, "value": 0.3, "report": "r", "standard_error": 0.1}],
}
TEXT = {"text": "t", "num_bytes": 100, "bits_per_byte": 1.1, "xz_bits_per_byte": 2.0, "perplexity": 9.0}
FINETUNED = {"task": "jnli", "metric": "acc", "value": 0.9, "n": 100, "learning_rate": 1e-5, "seeds": [1, 2]}
WHOLE = {
    "config.yaml": {
        **SETTINGS,
        **{"sources": [{"path": "a.txt", "name": "wiki", "licence": "mit"}], "objective": "clm", "tokens": 8000},
        **{"prompts": ["p"], "temperature": 0.7, "top_p": 0.9, "max_new_tokens": 20, "epochs": 1},
    },
    "results.json": {
        **RESULTS,
        **{"groups": GROUPS, "mixture": MIXTURE, "peak_host_bytes": 10**9, "kwh": 0.1, "best_step": 4},
        "validation": {"accuracy": 0.9, "chance": 0.5, "standard_error": 0.01, "macro_f1": 0.8, "num_rows": 10},
        "answers_ended": {"before": 0.0, "after": 0.5},
    },
    "plan.json": {"num_steps": 8, "num_parameters": 10**6, "memory": MEMORY, "num_processes": 1},
    "environment.json": {"sessions": [SESSION, SESSION]},
    "evaluation.json": {
        **{"model": "m", "weights_sha256": "0", "jglue": [TASK], "perplexity": [TEXT], "jglue_finetuned": [FINETUNED]},
        "forgetting": {"models": ["a", "b"], "bits_per_byte": {"wiki": [1.0, 0.9]}, "context_length": 8, "stride": 4},
        "samples": [{"prompt": "p", "text": "t"}],
        "sample_quality": {"num_texts": 1, "japanese": 0.5},
    },
    "metrics.jsonl": [
        *({**row, "eval_group_bits_per_byte/wiki": 1.0 + row["step"], "peak_host_bytes": 10**9} for row in rows()),
        {**place(5), "loss": 2.25, "learning_rate": 0.0, "grad_norm": 1.0, "tokens_per_second": 10.0, "kwh": 0.1},
    ],
    "samples.jsonl": [{**row, "wanted": "w", "ended": True} for row in samples("あ", "名前はまだ無い。")],
}


def show(folder):
    """Do what `jpllm compare`, `watch` and `card` do with a folder, but for loading its model."""
    reader = RunReader(folder)
    for width in (40, 120):
        console = terminal.console(file=io.StringIO(), width=width, height=40, force_terminal=True)
        console.print(frame(reader.read(), width, 40), highlight=False)
    try:
        run = runs.read_run(folder, folder.name)
    except InputError:
        return
    found = comparison.compare([run, run])
    comparison.to_markdown(found)
    to_html(found)
    terminal.console(file=io.StringIO(), width=80).print(comparison.to_terminal(found))
    try:
        facts = cards.gather(folder, run, CardConfig(license="mit", allow_missing=True))
        cards.compose(facts, CardConfig(license="mit", allow_missing=True))
    except InputError:
        pass


def write(folder, name, value):
    texts = value if isinstance(value, list) and name.endswith("l") and name != "config.yaml" else [value]
    with (folder / name).open("w", encoding="utf-8", errors="surrogatepass") as stream:
        stream.writelines(json.dumps(text, ensure_ascii=False) + "\n" for text in texts)  # JSON is YAML too


def show_with(files):
    """Show a folder whose files hold these values, or these bytes."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "run"
        write_run(folder)
        (folder / "model").mkdir()
        (folder / "model" / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}')
        for name, value in (WHOLE | files).items():
            if isinstance(value, bytes):
                (folder / name).write_bytes(value)
            else:
                write(folder, name, value)
        show(folder)


@st.composite
def changed_files(draw):
    names = draw(st.lists(st.sampled_from(sorted(WHOLE)), min_size=1, max_size=2, unique=True))
    return {name: draw(changed(WHOLE[name]) | ODD_VALUES) for name in names}


@st.composite
def torn_files(draw):
    name = draw(st.sampled_from(sorted(WHOLE)))
    value = WHOLE[name]
    lines = value if name.endswith(".jsonl") else [value]
    whole = b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines)
    at, junk = draw(st.integers(0, len(whole))), draw(st.binary(max_size=20))
    return {name: whole[:at] + junk + whole[at + draw(st.integers(0, 50)) :]}


def test_a_whole_folder_is_shown():
    show_with({})


def test_odd_values():
    check_many(show_with, changed_files(), num_examples=15)


def test_torn_bytes():
    check_many(show_with, torn_files(), num_examples=15)

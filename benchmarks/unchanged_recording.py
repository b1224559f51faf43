"""Run the public commands of a checkout with small data, and keep what a user sees: the recording of unchanged.py.

`COMMANDS` names each step, the steps that it needs, and its command as a person types it. Each command has one core and
one thread, so that sums come in one order. Only the command line is used, never a module, so that this file works
before and after modules have moved.
"""

from __future__ import annotations

import json
import os
import queue
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from string import Template

NUM_COMMANDS_AT_ONCE = 2
SAID, CACHE = "said", ".cache"
PATHS = ".paths.json"  # where a recording was made, and of what: some files have these paths in them
WELL = (0, 1)  # jpllm plan ends with 1 where a run does not fit
WIDTH = 300  # of the terminal that tables are printed for
HELP_WIDTH = 100_000  # no line of a help page is wrapped
VERBS = """
tokenizer train · tokenizer convert · tokenizer report · tokenizer extend · data preview · data dedup · data pack
data contamination · data jglue · data builtin · plan · plan --recipe sft · plan --recipe classify · generate · compare
watch · card · export · chat · doctor
"""
RECIPES = ("pretrain_scratch", "cpt", "sft", "classify", "evaluate")
KEYS = {  # what stands for a `$NAME` in the commands
    "SHAPE": "--hidden_size 32 --num_layers 2 --num_heads 2 --intermediate_size 64 --max_positions 1024",
    "STEPS": "--precision fp32 --per_device_train_batch_size 4 --learning_rate 3e-3 --logging_steps 2",
    "TEXTS": "--sequence_length 256 --tokens 8_192 --eval_steps 4 --held_out_bytes 4_000",
    "SHARDS": "--shards_dir shards --held_out_fraction 0.05",
    "STORIES": "'{path: corpus/documents.jsonl, name: stories, licence: Apache-2.0}'",
    "SUMS": "'{path: corpus/arithmetic.jsonl, name: sums, licence: CC0-1.0}'",
    "TASKS": "'{path: corpus/instructions.jsonl, licence: Apache-2.0}'",
    "PAGES": "'{path: rough/pages.jsonl, max_bad_fraction: 0.5, clean: [control_characters, web_lines, nfkc, symbols, "
    "whitespace, japanese_share, repetition, {rule: length, at_least: 40}]}'",
    "NOVEL": "'{path: rough/novel.txt, clean: [aozora, whitespace]}'",
    "TWICE": "'{path: rough/pages.jsonl, name: twice, max_bad_fraction: 0.5}'",
    "ONCE": "'{path: rough/pages.jsonl, name: twice, max_bad_fraction: 0.5, "
    "exclude: duplicates/twice.duplicates.jsonl}'",
    "LINES": "'{path: rough/lines.txt, document: line}'",
}
COMMANDS = """
builtin
    jpllm data builtin --num_bytes 60_000 --num_rows 120 --output_dir corpus
tokenizer: builtin
    jpllm tokenizer train --input corpus/documents.jsonl --vocab_size 1200 --output_dir tokenizer
clm: tokenizer
    recipes/pretrain_scratch.py --sources $STORIES --tokenizer tokenizer --model neox-tiny $SHAPE $STEPS $TEXTS
    $SHARDS --max_new_tokens 10 --dropout 0.1 --output_dir clm
mlm: clm
    recipes/pretrain_scratch.py --objective mlm --sources $STORIES --tokenizer tokenizer --model bert-tiny $SHAPE
    $STEPS $TEXTS $SHARDS --sample_prompts むかし、ある[MASK]に --output_dir mlm
blend: clm
    recipes/pretrain_scratch.py --sources "{path: corpus/documents.jsonl, weight: 2}"
    "{path: corpus/arithmetic.jsonl, weight: 1}" --tokenizer tokenizer --model llama-tiny $SHAPE $STEPS $TEXTS
    $SHARDS --max_new_tokens 10 --isolate_documents --optimizer muon --gradient_accumulation_steps 2
    --activation_checkpointing --label_smoothing 0.1 --output_dir blend
cpt: clm
    recipes/cpt.py --model clm/model --sources $SUMS --replay 0.25 --replay_sources $STORIES $STEPS $TEXTS
    $SHARDS --max_new_tokens 10 --embedding_warmup_steps 2 --output_dir cpt
sft: clm
    recipes/sft.py --model clm/model --sources $TASKS --template chat $STEPS $TEXTS --held_out_rows 10
    --answered_rows 4 --max_new_tokens 10 --temperature 0 --shards_dir shards_of_sft --replay 0.25
    --replay_sources $STORIES --old_texts clm/held_out.jsonl --output_dir sft
lora: clm
    recipes/sft.py --model clm/model --sources $TASKS --lora_rank 4 --lora_alpha 8 --lora_dropout 0.1 $STEPS
    --sequence_length 128 --epochs 0.25 --eval_steps 4 --batching by_length --held_out_rows 10 --answered_rows 4
    --max_new_tokens 10 --output_dir lora
frozen: clm
    recipes/classify.py --model clm/model --train_file corpus/labels.jsonl --epochs 2 $STEPS --output_dir frozen
full: mlm
    recipes/classify.py --model mlm/model --train_file corpus/labels.jsonl --trainable all --epochs 1 $STEPS
    --balance --test_share 0.2 --output_dir full
generate: cpt
    jpllm generate --model clm/model cpt/model --prompt 私は、 むかし、 --max_new_tokens 20 --seed 3
    --output answers/answers.json
evaluate: cpt
    recipes/evaluate.py --model cpt/model --parts perplexity forgetting samples jglue --texts clm/held_out.jsonl
    --earlier_models clm/model --max_new_tokens 10 --jglue_dir jglue --limit 4 --num_fewshot 1 --any_jglue_content
    --output_dir cpt/evaluation
finetune: clm
    recipes/evaluate.py --model clm/model --parts jglue_finetuned --jglue_dir jglue --any_jglue_content
    --finetune_tasks jnli jsts --finetune_learning_rates 1e-3 --finetune_seeds 0 --finetune_epochs 1
    --finetune_batch_size 8 --output_dir finetune
plan_neox: builtin
    jpllm plan --config recipes/configs/pretrain_scratch/neox_1b_12gb.yaml --vocab_size 32000 --gpu rtx3060
    --host_memory_gib 32
plan_lora: builtin
    jpllm plan --recipe sft --config recipes/configs/sft/lora_16gb.yaml --model neox-1b --vocab_size 32000 --gpu t4
    --host_memory_gib 12
plan_classify: clm
    jpllm plan --recipe classify --model clm/model --train_file corpus/labels.jsonl --epochs 2 --gpu rtx3060
    --host_memory_gib 32 --output_dir planned
card: evaluate
    jpllm card cpt --license apache-2.0 --base_model somebody/small --title Small
card_classify: frozen
    jpllm card frozen --license apache-2.0 --data_license labels=Apache-2.0 --base_model somebody/small
export: lora
    jpllm export lora --to exported --license apache-2.0 --base_model somebody/small
page: sft lora blend evaluate
    jpllm compare clm cpt sft lora blend --output compared/page.html
page_markdown: mlm frozen full
    jpllm compare mlm frozen full --output compared/page.md
asked: evaluate
    jpllm compare clm cpt --prompts 私は、 --temperature 0 --max_new_tokens 10 --output compared/asked.md
leaderboard: evaluate finetune
    jpllm compare --leaderboard cpt/evaluation finetune --output compared/leaderboard.md
watch: cpt
    jpllm watch cpt --once
report: tokenizer
    jpllm tokenizer report --tokenizer tokenizer --input corpus/documents.jsonl --output report/tokenizer.json
extend: clm
    jpllm tokenizer extend --tokenizer clm/model --model clm/model --input $SUMS --num_pieces 20
    --held_out_fraction 0.1 --output_dir extended
dedup: builtin
    jpllm data dedup --sources $TWICE corpus/documents.jsonl --eval_sources rough/lines.txt
    --duplicates near --output_dir duplicates
preview: builtin
    jpllm data preview --sources $PAGES $NOVEL --output preview/preview.html
contamination: builtin
    jpllm data contamination --sources rough/lines.txt --benchmarks jglue/jcommonsenseqa-v1.3/valid-v1.3.json
    --output contamination/found.json
pack: tokenizer dedup
    jpllm data pack --sources $PAGES $NOVEL $LINES $ONCE --tokenizer tokenizer --held_out_fraction 0.1
    --output_dir packed
"""


@dataclass(frozen=True)
class Step:
    """A command of the recording, as words behind `python`, and the steps that have to be done before it."""

    name: str
    words: list[str]
    after: list[str]


def steps() -> list[Step]:
    """Return the commands of a recording, each behind those that it needs."""
    text = re.sub(r"\n {4}", " ", COMMANDS.strip())
    found = []
    for line in text.splitlines():
        heading, _, command = re.sub(r" (jpllm|recipes/)", r"\n\1", line, count=1).partition("\n")
        name, _, after = heading.partition(":")
        found.append(Step(name, python_words(Template(command).substitute(KEYS)), after.split()))
    return found


def python_words(command: str) -> list[str]:
    """Return the words behind `python` of a command as a person types it."""
    words = shlex.split(command)
    return ["-m", "jpllm.cli", *words[1:]] if words[0] == "jpllm" else words


def record(checkout: Path, folder: Path) -> int:
    """Run all commands in the new `folder` with the code of `checkout`; return the number of those that broke."""
    if folder.exists() and any(folder.iterdir()):
        raise SystemExit(f"{folder} is not empty; name a new folder")
    if not (checkout / "jpllm" / "cli.py").is_file():
        raise SystemExit(f"{checkout} is no checkout of jpllm; name one with --checkout")
    (folder / CACHE).mkdir(parents=True)
    (folder / "recipes").symlink_to(checkout.resolve() / "recipes")
    write_inputs(folder)
    free_cores: queue.Queue[int] = queue.Queue()
    for core in sorted(os.sched_getaffinity(0))[:NUM_COMMANDS_AT_ONCE]:
        free_cores.put(core)
    with ThreadPoolExecutor(NUM_COMMANDS_AT_ONCE) as pool:
        done: dict[str, Future[bool]] = {}

        def run_when_ready(step: Step) -> bool:
            for name in step.after:  # these stand in the queue before it, so that they run or have run
                done[name].result()
            core = free_cores.get()
            try:
                return run(step, checkout.resolve(), folder, core)
            finally:
                free_cores.put(core)

        helps = [Step(f"help/{command}", python_words(f"{command} --help"), []) for command in help_commands()]
        for step in [*steps(), *helps]:
            done[step.name] = pool.submit(run_when_ready, step)
    write(folder / PATHS, json.dumps([str(folder.resolve()), str(checkout.resolve())]))
    (folder / "recipes").unlink()
    shutil.rmtree(folder / CACHE)
    return sum(not future.result() for future in done.values())


def help_commands() -> Iterator[str]:
    """Yield the commands, as typed, that answer `--help`."""
    yield from (f"jpllm {verb.strip()}" for verb in re.split("[·\n]", VERBS.strip()))
    yield from (f"recipes/{name}.py" for name in RECIPES)


def run(step: Step, checkout: Path, folder: Path, core: int) -> bool:
    """Run a command on one core, keep what it says and its exit code; return whether it did its work."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("HF_", "WANDB_"))}
    environment |= {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder.resolve() / CACHE), "ACCELERATE_USE_CPU": "true"}
    environment["COLUMNS"] = str(HELP_WIDTH if step.name.startswith("help/") else WIDTH)
    began = time.monotonic()
    done = subprocess.run(
        ["taskset", "--cpu-list", str(core), sys.executable, *step.words],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    file = folder / SAID / f"{step.name.replace('recipes/', '')}.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{done.stdout}\nexit code {done.returncode}\n", encoding="utf-8")
    file.with_suffix(".log").write_text(done.stderr, encoding="utf-8")
    is_well = done.returncode in WELL and "Traceback" not in done.stderr
    report = "" if is_well else f"BROKEN, see {file.with_suffix('.log')}"
    print(f"{time.monotonic() - began:6.1f} s  exit code {done.returncode}  {step.name}  {report}", flush=True)
    return is_well


def write_inputs(folder: Path) -> None:
    """Write texts that need cleaning, and stand-ins for the files of JGLUE."""
    for name, text in rough_texts().items():
        write(folder / "rough" / name, text)
    for path, item in JGLUE_ITEMS.items():
        for split, numbers in (("train", range(100, 140)), ("dev" if "jaqket" in path else "valid", range(12))):
            items = [json.dumps(item(number), ensure_ascii=False) for number in numbers]
            text = "\n".join(items) + "\n"
            if path.startswith("jaqket"):
                text = f"[{', '.join(items)}]"
            elif path.startswith("jsquad"):
                text = f'{{"data": [{", ".join(items)}]}}'
            write(folder / "jglue" / path.format(split), text)


def rough_texts() -> dict[str, str]:
    """Return files with something for each cleaning rule to do: web pages, a novel as Aozora Bunko has it, lines."""
    work = {"港": "魚を並べる", "山": "雪をどける", "町": "店を開ける", "村": "馬を洗う"}
    sentences = [
        f"{place}の朝は{hour}時に始まり、{work[place]}のに{hour * 7}分かかる。" for hour, place in enumerate(work, 4)
    ]
    pages = []
    for number in range(40):
        chosen = [sentences[(number + shift) % 4].replace("朝", f"朝{number}") for shift in range(1 + number % 4)]
        frame = ["ホーム > 記事 > 一覧", *chosen, "■□■□■", "Copyright © 2024 All Rights Reserved.", "続きを読む"]
        pages.append("\r\n".join(frame) + "\u3000 ﾊﾝｶｸ\x07①" if number % 2 else "\n".join(chosen))
    pages += [pages[2], pages[3] + "!", "English only, and nothing else in it. " * 4, "同じ行。\n" * 30, "短い。", ""]
    rows = [json.dumps({"text": text}, ensure_ascii=False) for text in pages]
    rule = "-" * 24
    lines = [f"\u3000｜今朝《けさ》も{text}［＃改行］※［＃「木＋解」、第3水準1-86-22］\n" for text in sentences * 3]
    box = f"題\n著者\n\n{rule}\n【テキスト中に現れる記号について】\n\n《》：ルビ\n{rule}\n\n"
    return {
        "pages.jsonl": "\n".join([*rows, "{broken"]),
        "novel.txt": box + "".join(lines) + "\n底本：「全集」\n入力：某\n校正：某\n",
        "lines.txt": "\n".join([*sentences, "3番目の動物は何ですか?"]),
    }


def write(file: Path, text: str) -> None:
    """Write a text as it is, with its line ends, into a folder that need not be there yet."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode())


def _pair(number: int) -> dict:
    first, second = f"{number}匹の犬が道を歩く。", f"{'犬猫馬'[number % 3]}が歩く。"
    return {"sentence_pair_id": str(number), "yjcaptions_id": f"{number}-1-2", "sentence1": first, "sentence2": second}


def _jsquad(number: int) -> dict:
    answers = [{"text": f"{number}キロ", "answer_start": 0}]
    question = {"question": "川の長さは?", "id": f"a{number}p0q0", "answers": answers, "is_impossible": False}
    context = f"第{number}川 [SEP] 第{number}川は{number}キロを流れる。"
    return {"title": f"第{number}川", "paragraphs": [{"context": context, "qas": [question]}]}


def _jaqket(number: int) -> dict:
    contexts = [
        {"id": str(place), "title": f"山{place}", "text": f"山{place}は{number + place}メートル。", "score": "1.5"}
        for place in range(5)
    ]
    contexts = [context | {"has_answer": place == number % 3} for place, context in enumerate(contexts)]
    return {"qid": f"Q{number}", "question": f"{number}番の山は?", "answers": [f"山{number % 3}"], "ctxs": contexts}


JGLUE_ITEMS: dict[str, Callable[[int], dict]] = {
    "jnli-v1.3/{}-v1.3.json": lambda n: _pair(n) | {"label": ["entailment", "contradiction", "neutral"][n % 3]},
    "jsts-v1.3/{}-v1.3.json": lambda n: _pair(n) | {"label": n * 7 % 51 / 10},
    "marc_ja-v1.0/{}-v1.0.json": lambda n: {
        "sentence": f"{n}回使った。{'良い' if n % 2 else '悪い'}。",
        "label": "positive" if n % 2 else "negative",
        "review_id": f"R{n}",
    },
    "jcola-v1.0/in_domain_{}-v1.0.json": lambda n: {
        "uid": n,
        "source": "ours",
        "label": n % 2,
        "diacritic": "g",
        "sentence": f"{n}冊を{'読んだ' if n % 2 else '読まれる'}。",
    },
    "jcommonsenseqa-v1.3/{}-v1.3.json": lambda n: (
        {"q_id": n, "question": f"{n}番目の動物は何ですか?", "label": n % 5}
        | {f"choice{place}": "犬猫馬牛鳥魚熊"[(n + place) % 7] for place in range(5)}
    ),
    "jsquad-v1.3/{}-v1.3.json": _jsquad,
    "jaqket-v2.0/{}_jaqket_59.350.json": _jaqket,
}

"""Measure what a model knows of named texts, and let it write.

  a run of ours      python recipes/evaluate.py --model runs/NAME/model --texts runs/NAME/held_out.jsonl
  several texts      python recipes/evaluate.py --model runs/NAME/model --texts a.txt b.jsonl.gz --output_dir runs/eval
  any model          python recipes/evaluate.py --model owner/name --texts a.txt --context_length 1024
  several GPUs       accelerate launch --config_file accelerate_configs/multi_gpu.yaml recipes/evaluate.py --model M …
  what it forgot     python recipes/evaluate.py --model MODEL --parts forgetting --earlier_models OTHER --texts a.txt
  JGLUE              python recipes/evaluate.py --model runs/NAME/model --parts jglue --jglue_dir JGLUE/datasets
  JGLUE, fine-tuned  python recipes/evaluate.py --model MODEL --parts jglue_finetuned --jglue_dir DIR --output_dir DIR

Prints perplexity per token, and bits per byte and per character of the text as given, which compare between
tokenizers, beside those of `xz -9`. The part jglue asks the questions of JGLUE, JCoLA and JAQKET as the Japanese boards
do (docs/evaluation.md); jglue_finetuned trains recipes/classify.py on each task, learning rate and seed. With
--output_dir tables, settings and answers are kept; another command adds what is missing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jpllm import config, runtime
from jpllm.config import REQUIRED, ConfigError, option
from jpllm.data.sources import SourceConfig
from jpllm.evaluation.generate import SamplingConfig
from jpllm.evaluation.jglue_data import Style, Task
from jpllm.training.jglue_finetuning_arguments import FinetuneConfig

Part = Literal["perplexity", "forgetting", "jglue", "jglue_finetuned", "samples"]


@dataclass
class EvaluateConfig:
    """Evaluation"""

    model: str = option(REQUIRED, "Model folder, or name on the Hugging Face Hub.")
    parts: list[Part] = option(default_factory=lambda: ["perplexity", "samples"], help="What to measure.")
    texts: list[SourceConfig] = option(
        default_factory=list, help="Texts to score: paths, or entries with the keys below."
    )
    max_bytes: int = option(10_000_000, "Most bytes of each text, whole documents chosen by their hash.", minimum=1)
    context_length: int | None = option(
        None, "Tokens that the model sees at once; by default the length it was trained on, at most 2,048.", minimum=2
    )
    stride: int | None = option(None, "Tokens scored per window; by default context_length − 1.", minimum=1)
    batch_size: int = option(8, "Windows or prompts per forward pass.", minimum=1)
    prompts: list[str] = option(
        default_factory=lambda: ["今日はどんな一日でしたか?", "吾輩は猫である", "むかし、"], help="Prompts to continue."
    )
    seed: int = option(0, "Seed of the sampling.", minimum=0)
    earlier_models: list[str] = option(
        default_factory=list,
        help="Models that this one was made of, for the part forgetting; changes are those to the first of them.",
    )
    jglue_dir: Path | None = option(None, "Folder with the official files: datasets/ of yahoojapan/JGLUE, or alike.")
    tasks: list[Task] | None = option(None, "Tasks of the part jglue; by default those whose files are in jglue_dir.")
    style: Style = option("base", "Wording of the questions: base, or alpaca for instruction-tuned models.")
    num_fewshot: int | None = option(None, "Examples before each question; by default as on the boards.", minimum=0)
    limit: int | None = option(None, "Score only the first items of each task.", minimum=1)
    any_jglue_content: bool = option(False, "Also take files of jglue_dir that are not as they were published.")
    contamination: Path | None = option(
        None, "Report of jpllm data contamination: score also without the items that it found in training texts."
    )
    output_dir: Path | None = option(None, "Folder for evaluation.json, evaluation.md and the answers.")
    report_to: Literal["none", "wandb"] = option(
        "none", "Add the tables to the run of Weights & Biases that the training of this model was mirrored to."
    )

    def check(self) -> Iterator[tuple[str, str]]:
        """Each part has what it needs."""
        if {"perplexity", "forgetting"} & set(self.parts) and not self.texts:
            yield "texts", "name at least one text, or choose --parts samples"
        if ("forgetting" in self.parts) != bool(self.earlier_models):
            yield "earlier_models", "give them and the part forgetting, or neither"
        for key, names in (
            ("texts", [source.label for source in self.texts]),
            ("earlier_models", [self.model, *self.earlier_models]),
        ):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                yield key, f"{', '.join(twice)}: named twice; results are told apart by these names"
        if {"jglue", "jglue_finetuned"} & set(self.parts) and not self.jglue_dir:
            yield "jglue_dir", "name the folder with the official files; docs/evaluation.md says where they are"
        if "jglue_finetuned" in self.parts and not self.output_dir:
            yield "output_dir", "name it: each fine-tuning has a folder in it"
        if self.contamination and not self.output_dir:
            yield "contamination", "the answers that it needs are in output_dir; name that too"
        for key in ("jglue_dir", "tasks", "num_fewshot", "limit", "contamination"):
            acts = {"jglue", "jglue_finetuned"} if key == "jglue_dir" else {"jglue"}
            if not acts & set(self.parts) and getattr(self, key) is not None:
                yield key, "acts only on the part jglue; add it to parts, or remove this"


def main() -> None:
    evaluation, sampling, finetuning = config.parse(
        [EvaluateConfig, SamplingConfig, FinetuneConfig], prog="recipes/evaluate.py", description=__doc__
    )
    runtime.configure_logging()
    if "jglue_finetuned" not in evaluation.parts and finetuning != FinetuneConfig():
        raise ConfigError(
            ["finetune_…: these keys act only on the part jglue_finetuned; add it to parts, or remove them"]
        )
    from jpllm.evaluation import clean_scores, forgetting, harness, jglue_data, processes, report, samples, texts
    from jpllm.evaluation.continuations import PromptReader
    from jpllm.evaluation.identity import identity, measured_with
    from jpllm.models.build import context_length, load_trained
    from jpllm.models.classifier import load_any_kind
    from jpllm.tokenizer.encoder import corpus_encoder
    from jpllm.tokenizer.load import load
    from jpllm.tracking import wandb_mirror
    from jpllm.training import jglue_finetuning

    given, parts, output_dir = evaluation, evaluation.parts, evaluation.output_dir
    mirrored = wandb_mirror.mirrored_run(Path(given.model)) if given.report_to == "wandb" else None
    runtime.use_all_cores()
    # Files that cannot be used are found out before the model is loaded.
    tasks = jglue_data.find_all(given.jglue_dir, given.tasks, given.any_jglue_content) if "jglue" in parts else []
    is_finetuned = "jglue_finetuned" in parts
    chosen = is_finetuned and jglue_finetuning.choose_tasks(finetuning, given.jglue_dir, given.any_jglue_content)
    hits = clean_scores.read_report(given.contamination) if given.contamination else None
    processes.join()

    is_any_kind = parts == ["jglue_finetuned"]  # the other parts are for language models
    tokenizer = load(given.model, needs_eos=not is_any_kind)
    model = load_any_kind(given.model) if is_any_kind else load_trained(given.model)
    results = report.with_earlier(identity(given.model, model, tokenizer) | measured_with(), output_dir)
    reading = texts.Reading(given.texts, given.max_bytes, given.context_length, given.stride, given.batch_size)
    if "perplexity" in parts:
        texts.add_missing(results.setdefault("perplexity", []), model, corpus_encoder(tokenizer, given.model), reading)
    if "forgetting" in parts:
        encoder = corpus_encoder(tokenizer, given.model)
        forgetting.add_missing(results, model, encoder, given.earlier_models, reading)
    if tasks:
        reader = PromptReader(model, tokenizer, given.batch_size, runtime.process_rank(), runtime.num_processes())
        harness.add_missing(results, reader, tasks, given.style, given.num_fewshot, given.limit, output_dir)
    if "samples" in parts:
        samples.add_missing(results, model, tokenizer, given.prompts, sampling, given.seed)
    if hits and runtime.is_main_process():  # it alone wrote the answers
        report.save(results, output_dir)
        clean_scores.add_scores_without_hits(results["jglue"], hits, output_dir)
    if chosen:
        length = min(context_length(model.to("cpu")), tokenizer.model_max_length)  # the GPU is for the runs
        classify = Path(__file__).with_name("classify.py")
        jglue_finetuning.add_missing(results, chosen, finetuning, length, classify, output_dir)
    report.write(results, output_dir)
    if mirrored and runtime.is_main_process():
        wandb_mirror.send_tables(mirrored, wandb_mirror.evaluation_tables(results))
    processes.leave()


if __name__ == "__main__":
    sys.exit(runtime.run_command(main))

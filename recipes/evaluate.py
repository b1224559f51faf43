"""Measure what a model knows of named texts, and let it write.

  a run of ours      python recipes/evaluate.py --model runs/NAME/model --texts runs/NAME/held_out.jsonl b.jsonl.gz
  any model          python recipes/evaluate.py --model owner/name --texts a.txt --context_length 1024
  several GPUs       accelerate launch --config_file accelerate_configs/multi_gpu.yaml recipes/evaluate.py --model M …
  what it forgot     python recipes/evaluate.py --model MODEL --parts forgetting --earlier_models OTHER --texts a.txt
  JGLUE              python recipes/evaluate.py --model runs/NAME/model --parts jglue --jglue_dir JGLUE
  JGLUE, fine-tuned  python recipes/evaluate.py --model MODEL --parts jglue_finetuned --jglue_dir DIR --output_dir DIR

Prints perplexity per token, and bits per byte and per character of the text as given, which compare between
tokenizers, beside those of `xz -9`. The part jglue asks the questions of JGLUE, JCoLA and JAQKET as the Japanese boards
do (docs/evaluation.md); jglue_finetuned trains recipes/classify.py on each task, learning rate and seed. With
--output_dir tables, settings and answers are kept; another command adds what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from jpllm import runtime
from jpllm.config.parse import ConfigError, parse
from jpllm.config.settings import REQUIRED, option
from jpllm.evaluation.generate import SamplingConfig
from jpllm.evaluation.jglue.files import JglueConfig
from jpllm.evaluation.texts import ReadingConfig
from jpllm.models.adapters import LoadingConfig, tokenizer_source
from jpllm.training.jglue_finetuning import FinetuneConfig, problems_of_keys

Part = Literal["perplexity", "forgetting", "jglue", "jglue_finetuned", "samples"]


@dataclass
class EvaluateConfig:
    """Evaluation"""

    model: str = option(REQUIRED, "Model folder, or name on the Hugging Face Hub.")
    parts: list[Part] = option(default_factory=lambda: ["perplexity", "samples"], help="What to measure.")
    prompts: list[str] = option(
        default_factory=lambda: ["今日はどんな一日でしたか?", "吾輩は猫である", "むかし、"], help="Prompts to continue."
    )
    seed: int = option(0, "Seed of the sampling.", minimum=0)
    earlier_models: list[str] = option(
        default_factory=list,
        help="Models that this one was made of, for the part forgetting; changes are those to the first of them.",
    )
    output_dir: Path | None = option(None, "Folder for evaluation.json, evaluation.md and the answers.")
    report_to: Literal["none", "wandb"] = option(
        "none", "Add the tables to the run of Weights & Biases that the training of this model was mirrored to."
    )

    def check(self) -> Iterator[tuple[str, str]]:
        """Parts have what they need of these keys."""
        if ("forgetting" in self.parts) != bool(self.earlier_models):
            yield "earlier_models", "give them and the part forgetting, or neither"
        names = [self.model, *self.earlier_models]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            yield "earlier_models", f"{', '.join(twice)}: named twice; results are told apart by these names"
        if "jglue_finetuned" in self.parts and not self.output_dir:
            yield "output_dir", "name it: each fine-tuning has a folder in it"


def main() -> None:
    classes = [EvaluateConfig, LoadingConfig, ReadingConfig, JglueConfig, SamplingConfig, FinetuneConfig]
    given, held, reading, jglue, sampling, finetuning = parse(classes, prog="recipes/evaluate.py", description=__doc__)
    runtime.configure_logging()
    parts, output_dir, any_content = set(given.parts), given.output_dir, jglue.any_jglue_content
    if problems := list(problems_of_keys(parts, output_dir, reading, jglue, finetuning)):
        raise ConfigError(problems)

    # Imported here, so that --help and a mistake in the configuration answer at once.
    from jpllm.evaluation import distributed, forgetting, report, results, samples, texts
    from jpllm.evaluation.contamination import clean_scores
    from jpllm.evaluation.jglue import files, harness
    from jpllm.evaluation.jglue.continuations import PromptReader
    from jpllm.models.build import context_length, load_trained
    from jpllm.models.classifier import load_any_kind
    from jpllm.tokenizer.encoder import corpus_encoder
    from jpllm.tokenizer.load import load
    from jpllm.tracking.wandb import mirror
    from jpllm.training import jglue_finetuning

    mirrored = mirror.mirrored_run(Path(given.model)) if given.report_to == "wandb" else None
    runtime.use_all_cores()
    tasks = files.find_all(jglue.jglue_dir, jglue.tasks, any_content) if "jglue" in parts else []
    chosen = "jglue_finetuned" in parts and jglue_finetuning.choose_tasks(finetuning, jglue.jglue_dir, any_content)
    hits = clean_scores.read_report(jglue.contamination) if jglue.contamination else None
    distributed.join()  # once all files are known to be usable; a model is loaded last

    is_any_kind = parts == {"jglue_finetuned"}  # the other parts are for language models
    tokenizer = load(tokenizer_source(given.model, held.base_model), needs_eos=not is_any_kind)
    model = (load_any_kind if is_any_kind else partial(load_trained, **asdict(held)))(given.model, tokenizer=tokenizer)
    found = results.with_earlier(results.identity(given.model, model, tokenizer) | results.measured_with(), output_dir)
    save, encoder = partial(report.save, found, output_dir), partial(corpus_encoder, tokenizer, tokenizer.name_or_path)
    if "perplexity" in parts:
        texts.add_missing(found.setdefault("perplexity", []), model, encoder(), reading, save)
    if "forgetting" in parts:
        forgetting.add_missing(found, model, encoder(), given.earlier_models, reading, save, held.dtype)
    if tasks:
        reader = PromptReader(model, tokenizer, reading.batch_size, runtime.process_rank(), runtime.num_processes())
        harness.add_missing(found, reader, tasks, jglue.style, jglue.num_fewshot, jglue.limit, output_dir)
    if "samples" in parts:
        samples.add_missing(found, model, tokenizer, given.prompts, sampling, given.seed, save)
    if hits and runtime.is_main_process():  # it alone wrote the answers
        save()
        clean_scores.add_scores_without_hits(found["jglue"], hits, output_dir)
    if chosen:
        length = min(context_length(model.to("cpu")), tokenizer.model_max_length)  # the GPU is for the runs
        classify = Path(__file__).with_name("classify.py")
        jglue_finetuning.add_missing(found, chosen, finetuning, length, classify, output_dir)
    report.write(found, output_dir)
    if mirrored and runtime.is_main_process():
        mirror.send_evaluation(mirrored, found)


if __name__ == "__main__":
    runtime.run_recipe(main)

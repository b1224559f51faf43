"""Instruction tuning: the loss of the answers, and what the model answers by itself."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast, default_data_collator

from jpllm import runtime, terminal
from jpllm.data.blocks.dataset import BlockDataset
from jpllm.data.conversations.blocks import InstructDataset, PackedRows, RowsByLength, padded
from jpllm.data.conversations.layouts import InstructDataConfig
from jpllm.data.conversations.rows import Row, held_out_and_rest, preview, read_rows
from jpllm.data.corpus import DataConfig, EncodedText, evaluation_texts, training_shards
from jpllm.data.read.jsonl import write_jsonl
from jpllm.evaluation import perplexity, token_scores
from jpllm.evaluation.generate import SamplingConfig, answer
from jpllm.evaluation.perplexity import TextScore
from jpllm.evaluation.token_scores import TokenScore
from jpllm.models.isolation import isolate_documents
from jpllm.models.losses import use_chunked_loss
from jpllm.tokenizer.chat_template import (
    Learn,
    ask_without_thoughts,
    encode_chat_prompt,
    encode_conversation,
    holds_thoughts,
    special_token_in,
    thoughts_left_empty,
)
from jpllm.tokenizer.encoder import corpus_encoder
from jpllm.tokenizer.special_tokens import special_ids
from jpllm.tracking.metrics import GROUP_PREFIX, SAMPLES_NAME, append_row
from jpllm.training.arguments import num_steps
from jpllm.training.config import TrainingConfig
from jpllm.training.run_data import Clock, RowClock, RunData
from jpllm.training.trainer import BaseTrainer, autocast

_NUM_SHOWN = 3
_OLD = "old"


def prepare(model: PreTrainedModel, data: InstructDataConfig, training: TrainingConfig) -> None:
    """Give the model the attention and the loss that the settings ask for, before LoRA is added to it."""
    if data.batching == "packed":
        isolate_documents(model)
    if training.chunked_loss:
        use_chunked_loss(model, training.label_smoothing)


def conversations(
    data: InstructDataConfig, tokenizer: PreTrainedTokenizerFast, learn: Learn
) -> tuple[list[Row], list[Row]]:
    """Return rows to train on and held-out ones; the first of the former is shown.

    Where no answer holds thoughts and the template leaves some empty in front of it, the template asks with them from
    now on.
    """
    encode = partial(encode_conversation, tokenizer, learn=learn)
    find_special = partial(special_token_in, tokenizer, special=special_ids(tokenizer))
    rows, lines = read_rows(data.sources, data, encode, find_special)
    if data.eval_sources:
        held_out, more_lines = read_rows(data.eval_sources, data, encode, find_special)
        lines += more_lines
    else:
        held_out, rows = held_out_and_rest(rows, data.held_out_rows)
    if added := thoughts_left_empty(tokenizer):
        num_thinking = sum(holds_thoughts(row.conversation.answer, added) for row in rows)
        if num_thinking:
            lines.append(
                f"{num_thinking:,} of {len(rows):,} answers hold thoughts, so a question leaves it to the model to "
                f"think; in front of the other answers stands {added!r}, which is given"
            )
        else:
            lines.append(f"no answer holds thoughts: {ask_without_thoughts(tokenizer)!r} is part of each question")
    runtime.announce("\n".join(lines))
    # annotated as if the ids of one text could give several
    runtime.announce(preview(rows[0], lambda ids: cast("str", tokenizer.decode([*ids]))))
    return rows, held_out


def run_data(
    items: PackedRows | RowsByLength,
    held_out: Sequence[Row],
    texts: Sequence[EncodedText],
    replay_blocks: BlockDataset | None,
    data: InstructDataConfig,
    training: TrainingConfig,
) -> RunData:
    """Cut conversations, and the blocks that are replayed among them, into steps, and say how many these are.

    `held_out` rows and plain `texts` are evaluated.
    """
    items_per_step = training.blocks_per_step(runtime.num_processes())
    dataset = InstructDataset(items, replay_blocks, data.replay)
    tokens_per_item = dataset.mean_tokens
    tokens_per_step, tokens_per_epoch = tokens_per_item * items_per_step, tokens_per_item * dataset.items_per_epoch
    max_steps = num_steps(training, tokens_per_step, tokens_per_epoch)
    dataset.num_positions = max_steps * items_per_step
    tokens_until = dataset.tokens_until(items_per_step)
    clock = RowClock(round(tokens_per_step), tokens_per_epoch, items_per_step, dataset.items_per_epoch, tokens_until)
    runtime.announce(
        f"{tokens_until[-1]:,} tokens in {max_steps:,} steps of {items_per_step:,} "
        f"{'blocks' if data.batching == 'packed' else 'rows'}: {clock.epoch(max_steps):.2f} epochs; "
        f"evaluation on {len(held_out):,} rows{''.join(f', {text.name}' for text in texts)}"
    )
    replayed = replay_blocks.fingerprint if data.replay and replay_blocks is not None else data.replay
    return RunData(
        train_dataset=dataset,
        held_out=held_out,
        fingerprint=hashlib.sha256(f"{items.fingerprint}{replayed}".encode()).hexdigest(),
        clock=clock,
        max_steps=max_steps,
        write_held_out=partial(_write_rows, held_out),
        mixture=dataset.uses(" + ".join(source.label for source in data.sources), int(tokens_until[-1])),
        shards_dir=data.shards_dir if replay_blocks else None,
        shards_hash=replay_blocks.shards_hash if replay_blocks else None,
    )


def plain_texts(
    data: InstructDataConfig, tokenizer: PreTrainedTokenizerFast, tokenizer_path: str, seed: int
) -> tuple[list[EncodedText], BlockDataset | None]:
    """Return texts that show what is forgotten, and blocks to train on against it (None where nothing is replayed).

    Sources that name no group are of the group old.
    """
    sources, texts = (
        [replace(source, group=source.group or _OLD) for source in sources]
        for sources in (data.replay_sources, data.old_texts)
    )
    if not (sources or texts):
        return [], None
    encoder = corpus_encoder(tokenizer, tokenizer_path)
    names = ("sequence_length", "held_out_bytes", "processes", "shards_dir", "verify_shards")
    shared = {name: getattr(data, name) for name in names}
    corpus = DataConfig(sources=sources, eval_sources=texts, **shared)
    shards = training_shards(corpus, encoder)
    held_out = evaluation_texts(corpus, encoder, shards)
    if not shards:
        return held_out, None
    return held_out, BlockDataset(shards, data.sequence_length, seed=seed, isolate_documents=True)


def _write_rows(rows: Sequence[Row], file: Path) -> None:
    write_jsonl(({"messages": row.conversation.messages} for row in rows), file)


def _padded_tensors(items: Sequence[dict], pad_token_id: int, padding_side: str) -> dict[str, torch.Tensor]:
    batch = padded(items, pad_token_id, padding_side)
    return {name: torch.from_numpy(values) for name, values in batch.items()}


@dataclass(frozen=True)
class Questions:
    """What the model is asked at every evaluation, in full: its answers go to `samples.jsonl`.

    Attributes:
        prompts: without a known answer.
        rows: held-out conversations, whose last answer is known.
    """

    prompts: Sequence[str]
    rows: Sequence[Row]
    sampling: SamplingConfig
    seed: int
    clock: Clock
    output_dir: Path

    def ask(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, step: int) -> dict[str, float]:
        """Answer all questions; return the shares of the rows whose answer ended by itself, and is the wanted one."""
        asked = [([{"role": "user", "content": prompt}], None) for prompt in self.prompts]
        asked += [(row.conversation.messages[:-1], row.conversation.messages[-1]["content"]) for row in self.rows]
        ended, right = [], []
        for index, (messages, wanted) in enumerate(asked):
            got = answer(model, tokenizer, encode_chat_prompt(tokenizer, messages), self.sampling, self.seed)
            if wanted is not None:
                ended.append(got.ended)
                right.append(token_scores.is_right(got.text, wanted))
            if runtime.is_main_process():
                shown = {"prompt": messages[-1]["content"], "text": got.text, "wanted": wanted, "ended": got.ended}
                append_row(self.output_dir / SAMPLES_NAME, self.clock.position(step) | shown)
                if index < len(self.prompts) + _NUM_SHOWN:
                    mark = "" if got.ended else " …"
                    terminal.write_above_bar(f"  {shown['prompt']}▸{got.text}{mark}")
        if not self.rows:
            return {}
        return {"answers_ended": sum(ended) / len(ended), "answers_right": sum(right) / len(right)}


class InstructTrainer(BaseTrainer[tuple[TokenScore, list[TextScore]]]):
    """Trainer on conversations that evaluates the loss of held-out answers, and bits per byte of plain texts.

    `document_tokenizer` has the EOS that ends plain texts, which need not be the one that ends answers.
    """

    eval_dataset: Sequence[Row]
    loss_unit = "nats per answer token"

    def __init__(
        self,
        *,
        tokenizer: PreTrainedTokenizerFast,
        document_tokenizer: PreTrainedTokenizerFast,
        questions: Questions,
        texts: Sequence[EncodedText],
        context_length: int,
        is_packed: bool,
        **kwargs,
    ) -> None:
        pad = partial(_padded_tensors, pad_token_id=tokenizer.pad_token_id, padding_side=tokenizer.padding_side)
        super().__init__(data_collator=default_data_collator if is_packed else pad, **kwargs)
        self._tokenizer, self._questions, self._texts = tokenizer, questions, texts
        self._document_tokenizer, self._context_length = document_tokenizer, context_length

    def score(self, model: PreTrainedModel) -> tuple[TokenScore, list[TextScore]]:
        """Return the score of the held-out rows and those of the plain texts, in the arithmetic of the training."""
        rows = token_scores.score_rows(
            model,
            self.eval_dataset,
            pad_token_id=self._tokenizer.pad_token_id,
            batch_size=self.args.per_device_eval_batch_size,
            autocast=autocast(self.args),
            rank=self.args.process_index,
            num_ranks=self.args.world_size,
        )
        texts = perplexity.score(
            model,
            self._texts,
            eos_token_id=self._document_tokenizer.eos_token_id,
            context_length=self._context_length,
            batch_size=self.args.per_device_eval_batch_size,
            autocast=autocast(self.args),
            rank=self.args.process_index,
            num_ranks=self.args.world_size,
        )
        return rows, texts

    def figures(self, scores: tuple[TokenScore, list[TextScore]]) -> dict[str, float]:
        """Return loss and accuracy per learned token; bits per byte of each plain text, and of each group."""
        rows, texts = scores
        figures = {"loss": rows.loss, "token_accuracy": rows.accuracy}
        figures |= {f"bits_per_byte/{text.name}": text.bits_per_byte for text in texts}
        names = dict.fromkeys(text.group for text in self._texts if text.group)
        for name in names:
            members = [score for score, text in zip(texts, self._texts, strict=True) if text.group == name]
            figures[f"{GROUP_PREFIX}{name}"] = perplexity.total(members).bits_per_byte
        return figures

    def more_figures(self, model: PreTrainedModel, scores: tuple[TokenScore, list[TextScore]]) -> dict[str, float]:
        """Return the shares of the held-out questions whose answer ends by itself, and is right."""
        return self._questions.ask(model, self._tokenizer, self.state.global_step)

    def closing_figures(self, final: dict[str, float]) -> dict:
        """Return the token accuracy, and the shares of good answers before and after."""
        first = next(row for row in self.state.log_history if "eval_loss" in row)
        keys = [key for key in ("eval_answers_ended", "eval_answers_right") if key in final]
        answers = {key.removeprefix("eval_"): {"before": first[key], "after": final[key]} for key in keys}
        return {"token_accuracy": final["eval_token_accuracy"], "loss_before": first["eval_loss"], **answers}

    def closing_line(self, results: dict) -> str:
        """Return the result of the run in a line."""
        line = f"held-out loss {results['loss']:.4f} {self.loss_unit}, {results['loss_before']:.4f} before"
        for key, words in (("answers_ended", "answers that end by themselves"), ("answers_right", "right answers")):
            if key in results:
                line += f"; {words} {results[key]['after']:.0%}, {results[key]['before']:.0%} before"
        return line

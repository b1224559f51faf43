"""Look at a model that somebody else trained before hours are spent on it: what it is, and what can be done with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jpllm.data.corpus import DataConfig, encode_text
from jpllm.evaluation import perplexity
from jpllm.models import adapters, lora, pretrained
from jpllm.models.build import context_length, describe, input_embedding, load_trained, refuse_no_causal
from jpllm.models.dtypes import dtype_name
from jpllm.models.isolation import isolate_documents
from jpllm.models.losses import use_chunked_loss
from jpllm.planning import hardware, of_run
from jpllm.planning.checkup import Finding
from jpllm.planning.recipes import trained_parts
from jpllm.planning.report import memory_size
from jpllm.runtime import InputError
from jpllm.tokenizer import chat_template
from jpllm.tokenizer.document_tokens import document_bos, document_tokens
from jpllm.tokenizer.encoder import corpus_encoder
from jpllm.tokenizer.load import load as load_tokenizer
from jpllm.tokenizer.special_tokens import listed
from jpllm.training import engine
from jpllm.training.config import TrainingConfig
from jpllm.training.recipe_configs import WeightsConfig

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

_PLANNED_TOKENS = 1024  # of a block
_PLANNED_RANK = 16
_CONTEXT_TOKENS = 512
_QUESTION, _ANSWER = "日本の首都はどこですか。", "東京です。"
SAMPLES = {
    "Japanese": [
        "朝、窓を開けると、冷たい風が部屋に入ってきた。庭の木にはまだ葉が残っていて、その下で猫が一匹、じっとこちらを"
        "見ている。湯を沸かし、茶を淹れて、新聞を広げた。駅前の本屋が今月で店を閉めるという。学生のころ、帰り道に必ず"
        "寄った店である。",
        "水は零度で氷になり、百度で沸騰する。ただし、高い山の上では気圧が低いので、もっと低い温度で沸騰し、米は芯が"
        "残ったまま炊き上がる。圧力鍋はこの逆を利用した道具で、中の圧力を上げて、百度より高い温度で煮る。",
    ],
    "English": [
        "The train was late again, so she bought a cup of coffee and watched the rain run down the glass roof of the "
        "station. An old man on the next bench was feeding the pigeons, one crumb at a time, as if he had all the time "
        "in the world.",
        "A lever lets a small force move a heavy load: the longer the arm on which you push, the less you have to "
        "push. What is gained in force is lost in distance, and no machine can change that.",
    ],
}


def examine_model(name: str, tokenizer_name: str | None = None) -> Iterator[Finding]:
    """Yield what was found out about a model, in the order of a page.

    Each thing is tried with the functions that training, evaluation and export use, so what is said of it is what they
    would say.

    Raises:
        InputError: the model or its tokenizer cannot be used at all.
    """
    config = pretrained.read_config(name)
    refuse_no_causal(name, config)
    where = tokenizer_name or adapters.tokenizer_source(name)
    tokenizer = load_tokenizer(where)
    model = load_trained(name, tokenizer=tokenizer, dtype="auto")
    saved = pretrained.saved_dtype(name, config)

    yield Finding("architecture", "ok", describe(model))
    yield Finding("number format", "ok", f"saved in {saved}, held in {dtype_name(model.dtype)} where it does not learn")
    yield Finding("context", "ok", f"{context_length(model):,} tokens")
    yield _habit(tokenizer, where)
    yield _ends(model, tokenizer)
    yield from _templates(tokenizer)
    yield _attempt("isolate_documents", "proved", lambda: isolate_documents(model))
    yield _head(model)
    yield _targets(model)
    yield _attempt(
        "GGUF", "llama.cpp knows the architecture and cuts texts as the tokenizer does", _gguf(name, config, tokenizer)
    )
    yield from _plans(name, model.config)
    yield from _bits_per_byte(model, tokenizer, where)
    # last: it changes the model
    yield _attempt("chunked_loss", "equal to the model's own loss", lambda: use_chunked_loss(model))


def _attempt(subject: str, success: str, act: Callable[[], object]) -> Finding:
    """Return whether something that may be refused works; a refusal says itself what to do."""
    try:
        act()
    except InputError as error:
        reason, _, advice = str(error).partition("; ")
        return Finding(subject, "warn", reason, advice)
    return Finding(subject, "ok", success)


def _habit(tokenizer: PreTrainedTokenizerFast, where: str) -> Finding:
    try:
        bos = document_bos(tokenizer)
    except InputError as error:
        return Finding("documents", "fail", str(error))
    habit = document_tokens(tokenizer).habit
    begins = "" if bos is None else f"{tokenizer.convert_ids_to_tokens(bos)} "
    return Finding("documents", "ok", f"the tokenizer writes: {habit}; packed as {begins}… {tokenizer.eos_token}")


def _ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Finding:
    """Return which ids end a text, by the tokenizer, the configuration and the settings of generation."""
    own = listed(tokenizer.eos_token_id)
    others = {
        "config.json": listed(model.config.get_text_config().eos_token_id),
        "generation_config.json": listed(model.generation_config.eos_token_id if model.generation_config else None),
    }
    names = [f"tokenizer {tokenizer.eos_token}"]
    names += [
        f"{file} {' '.join(map(str, tokenizer.convert_ids_to_tokens(found)))}"
        for file, found in others.items()
        if found
    ]
    if all(set(own) <= set(found) for found in others.values() if found):
        return Finding("EOS", "ok", "; ".join(names))
    return Finding(
        "EOS", "warn", "; ".join(names), "texts end at each of these; eos_token in recipes/sft.py chooses one"
    )


def _templates(tokenizer: PreTrainedTokenizerFast) -> Iterator[Finding]:
    """Yield whether the tokenizer's own chat template can be learned from, with one turn and with two."""
    if not tokenizer.chat_template:
        yield Finding("template", "warn", "none of its own", "name one in recipes/sft.py: template")
        return
    turn = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}]
    for number, words in ((1, "one turn"), (2, "two turns")):
        learn = partial(chat_template.encode_conversation, tokenizer, turn * number)
        yield _attempt(f"template, {words}", "answers can be learned", learn)


def _head(model: PreTrainedModel) -> Finding:
    output = model.get_output_embeddings()
    is_tied = output is not None and output.weight is input_embedding(model).weight
    return Finding("output layer", "ok", "the same matrix as the embeddings" if is_tied else "a matrix of its own")


def _targets(model: PreTrainedModel) -> Finding:
    try:
        layers, _ = lora.targets_of(model)
    except InputError as error:
        return Finding("LoRA", "warn", str(error))
    ends = dict.fromkeys(name.rpartition(".")[2] for name in layers)
    return Finding("LoRA", "ok", f"{len(layers)} layers: {', '.join(ends)}")


def _gguf(name: str, config: PretrainedConfig, tokenizer: PreTrainedTokenizerFast) -> Callable[[], object]:
    from jpllm.sharing.gguf import file
    from jpllm.sharing.gguf.proof import Tolerance

    architecture = next(iter(config.architectures or []), "")
    folder = pretrained.folder_of(name)
    return partial(file.refuse_impossible, config, architecture, tokenizer, folder, "f16", Tolerance())


def _plans(name: str, config: PretrainedConfig) -> Iterator[Finding]:
    """Yield the memory that training takes on this machine, of all weights and beside frozen ones."""
    ways = {
        "training all weights": WeightsConfig(),
        f"LoRA, rank {_PLANNED_RANK}": WeightsConfig(lora_rank=_PLANNED_RANK),
        f"QLoRA, rank {_PLANNED_RANK}": WeightsConfig(lora_rank=_PLANNED_RANK, quantization="nf4"),
    }
    here = hardware.resolve(hardware.HardwareConfig())
    data: Any = DataConfig(sources=[], sequence_length=_PLANNED_TOKENS)
    training = TrainingConfig(output_dir=Path(), tokens=1, per_device_train_batch_size=1, activation_checkpointing=True)
    for words, weights in ways.items():
        try:
            parts = trained_parts(weights, training, name, here, config)
            run = of_run.of_texts(config, data, training, 0.0, engine.requested(), parts)
            search, asked = run.search()
            found = search.candidate(asked, asked)
        except (InputError, ValueError) as error:
            yield Finding(words, "warn", f"no plan: {error}")
            continue
        where = search.hardware
        told = f"{memory_size(found.memory.claimed)} of the {memory_size(where.memory)} of {where.name}"
        fits = found.fits(where)
        yield Finding(
            words, "ok" if fits else "warn", told, "" if fits else "jpllm plan --config … says what makes it fit"
        )


def _bits_per_byte(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, where: str) -> Iterator[Finding]:
    """Yield bits per byte of a few sentences, and what they are without the BOS where the tokenizer writes one."""
    encoder = corpus_encoder(tokenizer, where)
    score = partial(
        perplexity.score,
        model,
        eos_token_id=encoder.eos_token_id,
        context_length=min(_CONTEXT_TOKENS, context_length(model)),
        batch_size=1,
    )
    for language, documents in SAMPLES.items():
        text = encode_text(language, documents, encoder)
        if encoder.bos_token_id is None:
            (found,) = score([text])
            told = f"{found.bits_per_byte:.4f}"
        else:
            told = str(perplexity.bos_effect(score, [text], encoder.bos_token_id))
        yield Finding(f"bits per byte, {language}", "ok", told)

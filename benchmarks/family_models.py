"""Tiny models and tokenizers of the families that `benchmarks/model_families.py` tries; nothing is fetched."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from tokenizers import Tokenizer

VOCABULARY_SIZE = 480  # before special tokens
TURN = "{% for m in messages %}TURN{% endfor %}{% if add_generation_prompt %}PROMPT{% endif %}"


def _template(turn: str, prompt: str) -> str:
    return TURN.replace("TURN", turn).replace("PROMPT", prompt)


_CHATML = _template("<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n", "<|im_start|>assistant\n")
_CHATML_THINKING = _CHATML.replace(
    "{{ m.content }}",
    "{% if loop.last and m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}",
)
_HEADERS = "{{ bos_token }}" + _template(
    "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}<|eot_id|>",
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
)
_INST = "{{ bos_token }}" + _template(
    "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}</s>{% endif %}", ""
)
_GEMMA = "{{ bos_token }}" + _template(
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content }}<end_of_turn>\n",
    "<start_of_turn>model\n",
)
_COHERE = "{{ bos_token }}" + _template(
    "<|START_OF_TURN_TOKEN|>{{ '<|USER_TOKEN|>' if m.role == 'user' else '<|CHATBOT_TOKEN|>' }}"
    "{{ m.content }}<|END_OF_TURN_TOKEN|>",
    "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
)
_GRANITE = _template(
    "<|start_of_role|>{{ m.role }}<|end_of_role|>{{ m.content }}<|end_of_text|>\n",
    "<|start_of_role|>assistant<|end_of_role|>",
)
_PHI = _template("<|{{ m.role }}|>\n{{ m.content }}<|end|>\n", "<|assistant|>\n")


@dataclass(frozen=True)
class TokenizerShape:
    """What a family's tokenizer is like.

    Attributes:
        pieces: bytes as GPT-2 writes them, or SentencePiece's with ▁ for a space and a piece for each byte.
        adds: what is put around a text.
        special: special tokens beside BOS and EOS, in the vocabulary.
        beyond: special tokens that the model has no embedding for.
    """

    pieces: Literal["byte_level", "sentencepiece"]
    bos: str | None
    eos: str
    adds: Literal["nothing", "bos", "eos", "bos and eos"] = "nothing"
    special: tuple[str, ...] = ()
    template: str | None = None
    pad: str | None = None
    beyond: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """A type of model of transformers: the keys of its configuration that make it tiny, and its tokenizer."""

    model_type: str
    tokenizer: TokenizerShape
    keys: dict[str, object] = field(default_factory=dict)
    vision: dict[str, object] | None = None


_USUAL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
    "intermediate_size": 64, "max_position_embeddings": 64,
}  # fmt: skip
_OLD = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
_WIDE_HEADS = {**_USUAL, "head_dim": 16}
_EXPERTS = {**_WIDE_HEADS, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_OPT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 64, "word_embed_proj_dim": 32}
_LINEAR = {
    **_WIDE_HEADS, "layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2,
    "linear_num_value_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
}  # fmt: skip
_PICTURES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
_QWEN_PICTURES = {"depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32}

_END_OF_TEXT = TokenizerShape("byte_level", "<|endoftext|>", "<|endoftext|>")
_LLAMA_3 = TokenizerShape(
    "byte_level", "<|begin_of_text|>", "<|eot_id|>", "bos",
    ("<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>"), _HEADERS,
)  # fmt: skip
_IM = ("<|im_start|>", "<|endoftext|>")
_QWEN_2 = TokenizerShape("byte_level", None, "<|im_end|>", special=_IM, template=_CHATML, pad="<|endoftext|>")
_QWEN_3 = TokenizerShape("byte_level", None, "<|im_end|>", special=_IM, template=_CHATML_THINKING, pad="<|endoftext|>")
_GEMMA_TURNS = ("<start_of_turn>", "<end_of_turn>")
_GEMMA_TOKENS = TokenizerShape("sentencepiece", "<bos>", "<eos>", "bos", _GEMMA_TURNS, _GEMMA, "<pad>")
_GEMMA_3_TOKENS = TokenizerShape(
    "sentencepiece", "<bos>", "<eos>", "bos", _GEMMA_TURNS, _GEMMA, "<pad>", ("<image_soft_token>",)
)
FAMILIES = {
    "gpt2": Family("gpt2", _END_OF_TEXT, _OLD),
    "gpt_neox": Family("gpt_neox", _END_OF_TEXT, _USUAL),
    "gptj": Family("gptj", _END_OF_TEXT, {**_OLD, "rotary_dim": 8}),
    "opt": Family("opt", TokenizerShape("byte_level", "</s>", "</s>", "bos", pad="<pad>"), _OPT),
    "bloom": Family(
        "bloom", TokenizerShape("byte_level", "<s>", "</s>", pad="<pad>"),
        {"hidden_size": 32, "n_layer": 2, "n_head": 2},
    ),
    "falcon": Family("falcon", _END_OF_TEXT, _USUAL),
    "llama (3)": Family("llama", _LLAMA_3, _USUAL),
    "llama (llm-jp)": Family("llama", TokenizerShape("sentencepiece", "<s>", "</s>", "eos"), _USUAL),
    "mistral": Family("mistral", TokenizerShape("sentencepiece", "<s>", "</s>", "bos", template=_INST), _USUAL),
    "qwen2": Family("qwen2", _QWEN_2, _USUAL),
    "qwen3": Family("qwen3", _QWEN_3, _WIDE_HEADS),
    "qwen3_moe": Family("qwen3_moe", _QWEN_3, _EXPERTS),
    "qwen3_5 (text)": Family("qwen3_5_text", _QWEN_3, _LINEAR),
    "qwen3_5": Family("qwen3_5", _QWEN_3, _LINEAR, _QWEN_PICTURES),
    "gemma": Family("gemma", _GEMMA_TOKENS, _WIDE_HEADS),
    "gemma2": Family("gemma2", _GEMMA_TOKENS, _WIDE_HEADS),
    "gemma3 (text)": Family("gemma3_text", _GEMMA_3_TOKENS, _WIDE_HEADS),
    "gemma3": Family("gemma3", _GEMMA_3_TOKENS, _WIDE_HEADS, _PICTURES),
    "cohere": Family(
        "cohere",
        TokenizerShape(
            "byte_level", "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", "bos",
            ("<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>"), _COHERE, "<PAD>",
        ),
        _USUAL,
    ),
    "granite": Family(
        "granite",
        TokenizerShape(
            "byte_level", None, "<|end_of_text|>", special=("<|start_of_role|>", "<|end_of_role|>"), template=_GRANITE
        ),
        {**_USUAL, "logits_scaling": 8.0},
    ),
    "phi3": Family(
        "phi3",
        TokenizerShape(
            "sentencepiece", "<s>", "<|endoftext|>", special=("<|user|>", "<|assistant|>", "<|end|>"), template=_PHI
        ),
        _USUAL,
    ),
    "olmo3": Family("olmo3", _QWEN_2, _USUAL),
}  # fmt: skip


def write_corpus(file: Path) -> Path:
    """Write a small corpus, once."""
    if not file.exists():
        rows = (json.dumps({"text": text}, ensure_ascii=False) for text in _texts())
        file.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return file


def make_folder(family: Family, folder: Path) -> Path:
    """Return the folder, in which a model of random weights and its tokenizer now are."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMultimodalLM

    tokenizer = _tokenizer(family.tokenizer)
    keys = {
        **family.keys, "vocab_size": len(tokenizer) - len(family.tokenizer.beyond),
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    torch.manual_seed(0)
    if family.vision is None:
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family.model_type, **keys))
    else:
        config = AutoConfig.for_model(family.model_type, text_config=keys, vision_config=family.vision)
        model = AutoModelForMultimodalLM.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _texts() -> list[str]:
    from jpllm.demo import builtin

    return list(builtin.documents(num_bytes=40_000, seed=0))


def _tokenizer(shape: TokenizerShape):
    from tokenizers import AddedToken
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    backend = _byte_level() if shape.pieces == "byte_level" else _sentencepiece()
    named = [token for token in (shape.bos, shape.eos, shape.pad) if token]
    backend.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in dict.fromkeys([*named, *shape.special])]
    )
    if shape.adds != "nothing":
        before = [shape.bos] if "bos" in shape.adds else []
        after = [shape.eos] if "eos" in shape.adds else []
        ids = [(token, backend.token_to_id(token)) for token in dict.fromkeys([*before, *after])]
        backend.post_processor = TemplateProcessing(single=[*before, "$A", *after], special_tokens=ids)
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in shape.beyond])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=shape.bos, eos_token=shape.eos, pad_token=shape.pad,
        unk_token="<unk>" if shape.pieces == "sentencepiece" else None,
    )  # fmt: skip
    tokenizer.chat_template = shape.template
    return tokenizer


def _byte_level() -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        _texts(), trainers.BpeTrainer(vocab_size=VOCABULARY_SIZE, initial_alphabet=alphabet, show_progress=False)
    )
    return backend


def _sentencepiece() -> Tokenizer:
    """Return a BPE over whole texts, in which ▁ is a space; a character without a piece becomes its bytes."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, trainers

    learned = Tokenizer(models.BPE())
    learned.train_from_iterator(
        (text[start : start + 40] for text in _texts() for start in range(0, len(text), 40)),
        trainers.BpeTrainer(vocab_size=VOCABULARY_SIZE, show_progress=False),
    )
    state = json.loads(learned.to_str())["model"]
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *state["vocab"], "▁"]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    merges = [tuple(merge) for merge in state["merges"]]
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens([AddedToken("<unk>", special=True, normalized=False)])
    return backend

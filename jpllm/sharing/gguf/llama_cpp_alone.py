"""A script that lets llama.cpp read a GGUF file: its ids of texts, and its log-probabilities of every next token.

    python llama_cpp_alone.py FILE.gguf REQUEST.json ANSWER.json ROWS.npy

REQUEST has `texts`, `parse_special` (whether special tokens typed in them count), `conversations` (lists of messages),
`prompts` (lists of ids) and `num_ids`. ANSWER gets `ids`, and of each conversation the ids of the prompt that the chat
template of the file makes of it, or the error as a text. ROWS gets the log-probabilities of the token that follows each
prompt, float32 (prompts, ids). llama.cpp ends its process when it cannot read a file, so it runs in one of its own.
"""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

_CERTAIN = 1e6  # added to a logit


def main() -> None:
    """Load the file in float32 arithmetic, and ask."""
    file, request_file, answer_file, rows_file = sys.argv[1:]
    import numpy
    import xllamacpp

    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    llama_cpp: Any = xllamacpp  # an extension in C without annotations
    settings = llama_cpp.CommonParams()
    settings.model.path = file
    settings.n_ctx = max(map(len, request["prompts"])) + 8
    settings.n_gpu_layers, settings.n_parallel, settings.warmup = 0, 1, False
    settings.cpuparams.n_threads = 1
    settings.cache_type_k = settings.cache_type_v = llama_cpp.ggml_type.GGML_TYPE_F32
    settings.flash_attn_type = llama_cpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = llama_cpp.Server(settings)
    address = server.listening_address
    drawn = _asked(f"{address}/tokenize", content="a", add_special=False)["tokens"][-1]
    answer = {
        "ids": [_ids(address, text, request["parse_special"]) for text in request["texts"]],
        "conversations": [_prompt_ids(address, messages) for messages in request["conversations"]],
    }
    rows = numpy.full((len(request["prompts"]), request["num_ids"]), -numpy.inf, numpy.float32)
    for row, prompt in zip(rows, request["prompts"], strict=True):
        for index, value in _next(server, prompt, request["num_ids"], drawn):
            row[index] = value
    numpy.save(rows_file, rows)
    Path(answer_file).write_text(json.dumps(answer), encoding="utf-8")


def _ids(address: str, text: str, parse_special: bool) -> list[int]:
    """Return the ids of a text."""
    return _asked(f"{address}/tokenize", content=text, add_special=True, parse_special=parse_special)["tokens"]


def _prompt_ids(address: str, messages: list[dict[str, str]]) -> list[int] | str:
    """Return the ids of the prompt that is made of a conversation, or the error where the template cannot make one."""
    try:
        return _ids(address, _asked(f"{address}/apply-template", messages=messages)["prompt"], parse_special=True)
    except urllib.error.HTTPError as error:
        return error.read().decode("utf-8", errors="replace")


def _asked(address: str, **question) -> dict:
    """Return an answer of the server on this machine: the package has no functions for texts."""
    request = urllib.request.Request(address, json.dumps(question).encode(), {"Content-Type": "application/json"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
        return json.load(answer)


def _next(server, prompt: list[int], num_ids: int, drawn: int) -> list[tuple[int, float]]:
    """Return each id with its log-probability before one is drawn.

    That one is `drawn`, for of an end or half a letter llama.cpp gives no answer.
    """
    question = {"prompt": prompt, "n_predict": 1, "n_probs": num_ids, "samplers": [], "logit_bias": [[drawn, _CERTAIN]]}
    found = server.handle_completions(question)
    found = json.loads(found) if isinstance(found, str | bytes) else found
    return [(entry["id"], entry["logprob"]) for entry in found["choices"][0]["logprobs"]["content"][0]["top_logprobs"]]


if __name__ == "__main__":
    main()

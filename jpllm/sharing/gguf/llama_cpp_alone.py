"""A script that lets llama.cpp read a GGUF file: its ids of texts, and its log-probabilities of every next token.

    python llama_cpp_alone.py FILE.gguf REQUEST.json ANSWER.json

REQUEST has `texts`, `parse_special` (whether special tokens typed in them count), `prompts` (lists of ids) and
`num_ids`. ANSWER gets `ids` and `log_probabilities`, for each prompt one number per id. llama.cpp ends its process when
it cannot read a file, so it runs in one of its own.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

_CERTAIN = 1e6  # added to a logit


def main() -> None:
    """Load the file in float32 arithmetic, and ask."""
    file, request_file, answer_file = sys.argv[1:]
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
    drawn = _ids(server.listening_address, "a", parse_special=False)[-1]
    answer = {
        "ids": [_ids(server.listening_address, text, request["parse_special"]) for text in request["texts"]],
        "log_probabilities": [_next(server, prompt, request["num_ids"], drawn) for prompt in request["prompts"]],
    }
    Path(answer_file).write_text(json.dumps(answer), encoding="utf-8")


def _ids(address: str, text: str, parse_special: bool) -> list[int]:
    """Return the ids of a text, from the server's address on this machine: the package has no function for it."""
    body = json.dumps({"content": text, "add_special": True, "parse_special": parse_special}).encode()
    question = urllib.request.Request(f"{address}/tokenize", body, {"Content-Type": "application/json"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(question) as answer:
        return json.load(answer)["tokens"]


def _next(server, prompt: list[int], num_ids: int, drawn: int) -> list[float]:
    """Return log-probabilities of all ids before one is drawn.

    That one is `drawn`, for of an end or half a letter llama.cpp gives no answer.
    """
    question = {"prompt": prompt, "n_predict": 1, "n_probs": num_ids, "samplers": [], "logit_bias": [[drawn, _CERTAIN]]}
    found = server.handle_completions(question)
    found = json.loads(found) if isinstance(found, str | bytes) else found
    row = [float("-inf")] * num_ids
    for entry in found["choices"][0]["logprobs"]["content"][0]["top_logprobs"]:
        row[entry["id"]] = entry["logprob"]
    return row


if __name__ == "__main__":
    main()

"""The code with which a model is loaded and asked, as its card shows it; it works beside the card as it stands."""

from __future__ import annotations

import json

from jpllm.sharing.card_text import Facts

_HEAD = """from transformers import {names}

name = {name}{remark}
"""
_CAUSAL = """tokenizer = AutoTokenizer.from_pretrained(name)
model = AutoModelForCausalLM.from_pretrained(name)
ids = tokenizer({prompt}, return_tensors="pt", return_token_type_ids=False)
sampling = {sampling}
output = model.generate(**ids, **sampling)
print(tokenizer.decode(output[0], skip_special_tokens=True))
"""
_CHAT = """tokenizer = AutoTokenizer.from_pretrained(name)
model = AutoModelForCausalLM.from_pretrained(name)
messages = [{{"role": "user", "content": {prompt}}}]
ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
sampling = {sampling}
output = model.generate(input_ids=ids["input_ids"], attention_mask=ids["attention_mask"], **sampling)
print(tokenizer.decode(output[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))
"""
_FILL_MASK = """fill = pipeline("fill-mask", model=name)
for found in fill({prompt}):
    print(found["token_str"], found["score"])
"""
_CLASSIFY = """classify = pipeline("text-classification", model=name)
print(classify({row}))
"""
_REGRESSION = """score = pipeline("text-classification", model=name, function_to_apply="none")
print(score({row}))
"""
_CHOICES = """score = pipeline("text-classification", model=name, function_to_apply="none")
question, choices = {prompt}, ["一つ目", "二つ目"]
scores = [score({{"text": question, "text_pair": choice}})["score"] for choice in choices]
print(choices[scores.index(max(scores))])
"""


def code(facts: Facts, name: str) -> str:
    """Python code that loads the model called `name`: a repository of the Hub, or "." for the folder of the card."""
    prompts = facts.prompts
    prompt = str(prompts[0]["prompt"]) if prompts else "吾輩は猫である。"
    task = facts.run.settings.get("task")
    shown = _text(prompt)
    row = shown
    if facts.run.settings.get("pair_column"):
        row = f'{{"text": {shown}, "text_pair": {shown}}}'
    names, body = {
        "fill-mask": ("pipeline", _FILL_MASK),
        "text-classification": (
            "pipeline",
            {"regression": _REGRESSION, "multiple_choice": _CHOICES}.get(str(task), _CLASSIFY),
        ),
    }.get(str(facts.tag), ("AutoModelForCausalLM, AutoTokenizer", _CHAT if facts.has_chat_template else _CAUSAL))
    remark = "  # the folder of this card" if name == "." else ""
    head = _HEAD.format(names=names, name=_text(name), remark=remark)
    return head + body.format(prompt=shown, row=row, sampling=_sampling(facts.run.settings))


def _sampling(settings: dict) -> str:
    """The keywords of `generate` that sample as the training did; transformers' own defaults may be others."""
    keys = {"max_new_tokens": settings.get("max_new_tokens", 50), "do_sample": bool(settings.get("temperature"))}
    if keys["do_sample"]:
        keys |= {"temperature": settings["temperature"], "top_p": settings.get("top_p", 1.0), "top_k": 0}
    keys |= {key: settings[key] for key in ("repetition_penalty", "no_repeat_ngram_size") if settings.get(key)}
    return "{" + ", ".join(f'"{key}": {value!r}' for key, value in keys.items()) + "}"


def _text(text: str) -> str:
    """A literal of Python, in double quotes."""
    return json.dumps(text, ensure_ascii=False)

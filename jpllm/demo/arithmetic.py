"""Write word problems and bare calculations with their answers; formulas read `12+5=17` and `17÷5=3あまり2`."""

from __future__ import annotations

import random

from jpllm.demo.scene import another, between, choose, new_scene
from jpllm.demo.tables import problem_table, word_table

# The first factor of a product, by the slot that it fills: lowest, highest and unit; p is a price in yen, walk are
# meters a minute.
_FACTORS = {"p": (3, 30, 10), "small": (2, 6, 1), "walk": (50, 80, 1), "a": (3, 24, 1)}

# Formulas, answer ("" where it is the value of the last formula), and the number for each slot of the question.
_Solution = tuple[list[str], str, dict[str, int]]


def arithmetic(rng: random.Random) -> str:
    """Return one to three word problems, each with its formula and its computed answer."""
    polite = rng.random() < 0.6
    return "\n".join("\n".join(problem(rng, polite)) for _ in range(between(rng, 1, 3)))


def calculations(rng: random.Random) -> str:
    """Return eight to sixteen sums, differences and products of one-digit numbers, each with its question in a line."""
    return "\n".join("".join(calculation(rng)) for _ in range(between(rng, 8, 16)))


def calculation(rng: random.Random) -> tuple[str, str]:
    """Return the question for a sum, a difference or a product of one-digit numbers, and its answer."""
    sign, a, b = choose(rng, "+-×"), between(rng, 1, 9), between(rng, 1, 9)
    if sign == "-":
        a, b = max(a, b), min(a, b)
    value = {"+": a + b, "-": a - b, "×": a * b}[sign]
    asked = choose(rng, ("を計算してください。", "はいくつですか。", "の答えを教えてください。"))
    return f"{a}{sign}{b}{asked}", f"{a}{sign}{b}={value}です。"


def problem(rng: random.Random, polite: bool) -> tuple[str, str]:
    """Return a word problem and its solution."""
    operation, question, unit = choose(rng, problem_table())
    item, counter = choose(rng, word_table()["carry"]).split(":")
    place, animal, animal_counter = choose(rng, word_table()["animals"]).split(":")
    scene = new_scene(rng, polite, item=item, c=counter)
    scene.words.update(animal_place=place, animal=animal, ac=animal_counter)
    scene.words["friend2"] = another(rng, "female", scene.words["friend"])
    formulas, answer, numbers = _solve(rng, operation, question)
    scene.words.update({slot: str(number) for slot, number in numbers.items()})
    scene.words["result"] = scene.fill(answer or f"{_value(formulas)}{unit}")
    solution = [
        "式は{formulas}[だ/ます]。答えは{result}[だ/ます]。",
        "{formulas}なので、答えは{result}[だ/ます]。",
        "計算すると{formulas}となり、答えは{result}[だ/ます]。",
    ]
    if len(formulas) == 2:
        solution = [
            "まず、{first}と[なる/ます]。次に、{second}と[なる/ます]。<だから|したがって>、答えは{result}[だ/ます]。"
        ]
    scene.words.update(formulas=formulas[0], first=formulas[0], second=formulas[-1])
    return scene.fill(question), scene.fill(choose(rng, solution))


def _solve(rng: random.Random, operation: str, question: str) -> _Solution:
    a, b = between(rng, 12, 99), between(rng, 2, 9)
    if operation in ("add", "sub", "addsub"):
        return _add_and_subtract(rng, operation, a)
    if operation in ("mul", "muladd", "change"):
        return _multiply(rng, operation, question, b)
    if operation in ("div", "rem"):
        return _divide(rng, operation, question, b)
    if operation == "clock":
        return _tell_time(rng)
    a, b = (between(rng, 3, 19) * 50, 2) if operation == "meter" else (between(rng, 2, 30), 100)
    return [f"{a}×{b}={a * b}"], "", {"m1": a, "m2": a}


def _add_and_subtract(rng: random.Random, operation: str, a: int) -> _Solution:
    if operation == "add":
        b = between(rng, 3, 60)
        return [f"{a}+{b}={a + b}"], "", {"a": a, "b": b}
    if operation == "sub":
        b = between(rng, 2, a - 1)
        return [f"{a}-{b}={a - b}"], "", {"a": a, "b": b}
    b, gone = between(rng, 3, 30), between(rng, 2, a)
    return [f"{a}+{b}={a + b}", f"{a + b}-{gone}={a + b - gone}"], "", {"a": a, "b": b, "d": gone}


def _multiply(rng: random.Random, operation: str, question: str, b: int) -> _Solution:
    slot = next(slot for slot in _FACTORS if f"{{{slot}}}" in question)
    low, high, unit = _FACTORS[slot]
    a = between(rng, low, high) * unit
    product = a * b
    formulas, numbers = [f"{a}×{b}={product}"], {slot: a, "b": b}
    if operation == "muladd":
        extra = choose(rng, (3, 5, 10)) if slot == "p" else between(rng, 2, 9)
        numbers |= {"fee": extra, "d": extra}
        formulas.append(f"{product}+{extra}={product + extra}")
    elif operation == "change":
        paid = next(note for note in (500, 1000, 2000, 5000) if note > product)
        numbers["paid"] = paid
        formulas.append(f"{paid}-{product}={paid - product}")
    return formulas, "", numbers


def _divide(rng: random.Random, operation: str, question: str, b: int) -> _Solution:
    value, rest = between(rng, 2, 25), between(rng, 1, b - 1) if operation == "rem" else 0
    a = value * b + rest
    share = "1人分は" if "1人分" in question else "1箱は"
    answer = f"{share}{value}{{c}}で、あまりは{rest}{{c}}" if rest else ""
    return [f"{a}÷{b}={value}" + (f"あまり{rest}" if rest else "")], answer, {"a": a, "b": b}


def _tell_time(rng: random.Random) -> _Solution:
    hour, minute, minutes = between(rng, 7, 20), between(rng, 1, 59), between(rng, 2, 59)
    numbers = {"h": hour, "m": minute, "dur": minutes}
    value = minute + minutes
    formulas = [f"{minute}+{minutes}={value}"]
    if value >= 60:
        formulas.append(f"{value}-60={value - 60}")
        hour, value = hour + 1, value - 60
    return formulas, f"{hour}時{value}分" if value else f"{hour}時", numbers


def _value(formulas: list[str]) -> str:
    return formulas[-1].split("=")[1]

"""The structure that docs/architecture.md promises, read off the imports."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = {
    "lm_eval_tasks": 0,
    "config": 0,
    "runtime": 0,
    "processes": 0,
    "whole_files": 0,
    "streams": 0,
    "limits": 0,
    "xla": 0,
    "markdown": 0,
    "terminal": 0,
    "bounded": 0,
    "scores": 0,
    "tokenizer": 1,
    "data": 1,
    "demo": 1,
    "models": 1,
    "evaluation": 2,
    "tracking": 2,
    "sharing": 2,
    "training": 2,
    "planning": 2.5,
    "commands": 3,
    "cli": 4,
    "recipes": 3,
}
STANDALONE = "jpllm.evaluation.jglue.lm_eval_tasks"
HEAVY = ("torch", "transformers", "datasets", "accelerate", "sentencepiece", "tokenizers", "matplotlib", "pyarrow")
ONE_OWNER = ("deepspeed", "lm_eval", "wandb", "wandb_workspaces", "gradio", "xllamacpp", "torch_xla")


def modules():
    yield from sorted((ROOT / "jpllm").rglob("*.py"))
    yield from sorted((ROOT / "recipes").glob("*.py"))


def unit(module: str) -> str | None:
    """`data` for jpllm.data.shards.pack, `config` for jpllm.config.parse, `recipes` for a recipe.

    The task files that lm-evaluation-harness reads without jpllm are a unit of their own, below all others.
    """
    parts = module.split(".")
    if module.startswith(STANDALONE):
        return "lm_eval_tasks"
    if parts[0] == "jpllm":
        return parts[1] if len(parts) > 1 and parts[1] in LAYERS else None
    return "recipes" if parts[0] == "recipes" else None


def imports(tree: ast.AST):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def dotted(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts)


@pytest.mark.parametrize("file", modules(), ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_down(file):
    own = unit(dotted(file))
    for target in filter(None, map(unit, imports(parse(file)))):
        if target == own:
            continue
        assert target != "recipes", f"{file} imports a recipe"
        below = LAYERS[target] < LAYERS[own] or (LAYERS[own] in (0, 2) and LAYERS[target] == LAYERS[own])
        assert below, f"{file} ({own}) imports {target}: imports point down, and packages of layer 1 stay apart"


def test_task_files_need_nothing_of_jpllm():
    for file in (ROOT / STANDALONE.replace(".", "/")).glob("*.py"):
        assert not [name for name in imports(parse(file)) if name.split(".")[0] == "jpllm"], file


def test_layer_2_has_no_circle():
    """training may use evaluation and tracking, sharing tracking; these two use neither them nor each other."""
    above = {"evaluation": {"tracking", "training", "sharing"}, "tracking": {"evaluation", "training", "sharing"}}
    above |= {"sharing": {"evaluation", "training"}, "training": {"sharing"}}
    for package, refused in above.items():
        for file in (ROOT / "jpllm" / package).rglob("*.py"):
            assert not {unit(name) for name in imports(parse(file))} & refused, file


def run_imports(node: ast.AST):
    """The import statements that are executed, inside functions too: all but those for type checkers."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        yield from run_imports(child)


def circle_from(start: str, targets_of: dict[str, set[str]]) -> list[str]:
    """A shortest path along imports from a file back to itself; empty where there is none."""
    came_from, waiting = {}, [start]
    for module in waiting:
        for target in sorted(targets_of[module]):
            if target == start:
                path = [module]
                while path[-1] != start:
                    path.append(came_from[path[-1]])
                return [*reversed(path), start]
            if target not in came_from:
                came_from[target] = module
                waiting.append(target)
    return []


def test_files_import_in_no_circle():
    names = {dotted(file) for file in modules()}
    targets_of = {}
    for file in modules():
        tree = ast.Module(list(run_imports(parse(file))), [])
        targets_of[dotted(file)] = {name for name in imports(tree) if name in names}
    circles = {tuple(sorted(set(circle))) for name in names if (circle := circle_from(name, targets_of))}
    assert circles == set()


@pytest.mark.parametrize("library", ONE_OWNER)
def test_optional_libraries_have_one_owner(library):
    users = [file for file in modules() if any(name.split(".")[0] == library for name in imports(parse(file)))]
    assert len(users) <= 1
    for file in users:
        top_level = ast.Module(
            [node for node in parse(file).body if isinstance(node, (ast.Import, ast.ImportFrom))], []
        )
        assert library not in {name.split(".")[0] for name in imports(top_level)}


@pytest.mark.parametrize(
    "file", ["jpllm/cli.py", *sorted(str(f.relative_to(ROOT)) for f in (ROOT / "recipes").glob("*.py"))]
)
def test_help_needs_no_heavy_import(file):
    code = f"import runpy, sys; sys.argv = ['x', '--help']\ntry: runpy.run_path({file!r}, run_name='__main__')\n"
    code += "except SystemExit as stop: assert not stop.code, stop.code\n"
    code += f"print(sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "--help" in done.stdout or "usage" in done.stdout


def test_no_catch_all_modules():
    names = {file.name for file in modules()}
    assert not names & {"utils.py", "common.py", "helpers.py", "misc.py"}

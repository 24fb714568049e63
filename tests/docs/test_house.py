"""What CONTRIBUTING.md asks of files and functions holds, but for a named few with their reason."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "schemas", "stages", "label_formats", "detectors", "quantization",
    "synth_job", "qat_job", "eval_job", "pipeline", "zsq",
)  # fmt: skip
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
LONGEST_FILE, LONGEST_FUNCTION, MOST_PARAMETERS = 300, 60, 6
OPTIONS = "a command's parameters are its options"
FACTS = "each parameter is a fact that is written down"
EXCEPTIONS = {
    ("pipeline/cli.py", "run"): OPTIONS,
    ("pipeline/cli.py", "sensitivity"): OPTIONS,
    ("pipeline/cli.py", "evaluate"): OPTIONS,
    ("pipeline/cli.py", "export_onnx"): OPTIONS,
    ("pipeline/cli.py", "_run_alone"): OPTIONS,
    ("eval_job/__main__.py", "main"): OPTIONS,
    ("qat_job/__main__.py", "main"): OPTIONS,
    ("pipeline/sets/subset.py", "subset_of_set"): OPTIONS,
    ("stages/shards.py", "write_shard"): FACTS,
    ("quantization/student.py", "save_student"): FACTS,
    ("eval_job/report/pictures.py", "_picture"): FACTS,
    ("quantization/fake_quantize.py", "forward"): "PyTorch hands an autograd function its context and each input",
}
"""Functions with more parameters, and why."""


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            yield node


def parameters(function: ast.FunctionDef) -> int:
    named = [each.arg for each in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
    return len([name for name in named if name not in ("self", "cls")])


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    assert path.read_text().count("\n") <= LONGEST_FILE
    for function in functions(path):
        assert function.end_lineno is not None
        assert function.end_lineno - function.lineno < LONGEST_FUNCTION, function.name
        if (name, function.name) not in EXCEPTIONS:
            assert parameters(function) <= MOST_PARAMETERS, function.name


def test_an_exception_that_is_none_any_more_goes() -> None:
    many = {
        (str(path.relative_to(ROOT)), function.name)
        for path in FILES
        for function in functions(path)
        if parameters(function) > MOST_PARAMETERS
    }
    assert EXCEPTIONS.keys() - many == set()

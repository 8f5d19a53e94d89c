"""Files and functions stay small enough to be read at one sitting."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "src").rglob("*.py"))
FILE_CAP, FUNCTION_CAP = 400, 80


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT / "src")))
def test_files_and_functions_are_small(file: Path):
    text = file.read_text(encoding="utf-8")
    assert text.count("\n") <= FILE_CAP
    functions = [
        n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    long = {n.name: n.end_lineno - n.lineno + 1 for n in functions if n.end_lineno - n.lineno >= FUNCTION_CAP}
    assert not long


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT / "src")))
def test_future_annotations(file: Path):
    text = file.read_text(encoding="utf-8")
    code = [
        n for n in ast.parse(text).body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))
    ]
    assert not code or "from __future__ import annotations" in text

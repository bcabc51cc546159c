"""Writes docs/troubleshooting.md's tables: all errors and warnings in the code, each with what it says to do.

python -m tests.installation.messages
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "troubleshooting.md"
BEGIN, END = "<!-- messages -->\n", "<!-- end of messages -->"

SECTIONS = {
    "Folders, datasets and labels": ("paths", "dataset", "meaning", "config"),
    "Patients": ("patients",),
    "Archives that are converted": ("dataset_conversion",),
    "`difflung_augment`: plan, training, painting": (
        *("pipeline", "commands.augment", "lesions", "generator", "segmenter", "preparing", "judging", "painting"),
        *("telling", "methods"),
    ),
    "Changes of the dataset: injection and removal": ("injection", "commands.remove"),
    "`difflung_audit`": ("audit", "commands.audit"),
    "Trainings": ("trainers", "nnunet_ext"),
    "`difflung_compare`": ("comparison", "commands.compare"),
    "`difflung_evaluate`, `difflung_turing`": (
        "evaluation",
        "commands.evaluate",
        "commands.turing",
        "report.blind_reading",
    ),
    "Reports": ("report", "pages", "commands.report"),
    "`difflung_export`": ("export", "commands.export", "comparison.checkpoint"),
    "The demo": ("commands.demo", "demonstration"),
    "Python API": ("api",),
    "Device, files, packages, options": ("runtime", "commands"),
}
_FOLDERS = ("nnunet_difflung", "dataset_conversion", "trainers")
_ERRORS, _WARNINGS, _PLAIN = ("BadInput", "Failed"), ("warn",), ("RuntimeError", "ValueError")


def messages(source: str, more: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """(``error`` or ``warning``, message) of each one that a module can give; ``…`` stands for what varies.

    Args:
        source: of the module.
        more: names of other errors that a user sees.
    """
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args):
            continue
        text = _text(node.args[0])
        if text is not None and re.search(r"\w{3}", text):
            if node.func.id in (*_ERRORS, *more):
                yield "error", text
            elif node.func.id in _WARNINGS:
                yield "warning", text


def _text(node: ast.expr) -> str | None:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
        return re.sub("…(…)+", "…", "".join(map(str, parts)))
    return None


def remedied(message: str) -> tuple[str, str]:
    """A message's two halves: what is wrong, and after the last semicolon what to do."""
    wrong, _, remedy = message.rpartition("; ")
    return (wrong, remedy) if re.search(r"\w{3}", wrong) else (message, "")


def tables() -> str:
    """The tables, section by section."""
    rows: dict[str, set[tuple[str, str, str]]] = {title: set() for title in SECTIONS}
    for path in sorted(path for folder in _FOLDERS for path in (ROOT / folder).rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removeprefix("nnunet_difflung.")
        plain = module.startswith("trainers.")  # nnU-Net shows what they raise
        for kind, message in messages(path.read_text(encoding="utf-8"), _PLAIN if plain else ()):
            rows[section(module)].add((*remedied(message), "yes" if kind == "warning" else ""))
    return "\n".join(_table(title, sorted(of, key=_order)) for title, of in rows.items() if of)


def section(module: str) -> str:
    """The section of a module's messages: the one that names the longest part of its path."""
    fits = [
        (len(name), title) for title, names in SECTIONS.items() for name in names if f"{module}.".startswith(f"{name}.")
    ]
    return max(fits)[1]


def _order(row: tuple[str, str, str]) -> tuple[str, ...]:
    return row[0].strip("… :-").lower(), *row


def _table(title: str, rows: list[tuple[str, str, str]]) -> str:
    lines = [f"### {title}\n", "| it says | what to do | goes on |", "|---|---|---|"]
    return "\n".join([*lines, *("| " + " | ".join(map(_cell, row)) + " |" for row in rows), ""])


def _cell(text: str) -> str:
    escaped = re.sub(r"([|<*_\[\]`])", r"\\\1", " ".join(text.split()))
    return re.sub(r"(?<!\w)(--?[a-z][\w-]*)", r"`\1`", escaped)


def written(page: str) -> str:
    """The page with the tables of now."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + "\n" + tables() + "\n" + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

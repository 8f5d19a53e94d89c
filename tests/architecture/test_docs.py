"""The handbook and README against the program: commands, options, links and files that they name."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from napari_attnseg.cli import cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGE = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")


def section(command: str) -> str:
    found = re.search(rf"^## {command}$(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    assert found, f"docs/command-line.md has no section '## {command}'"
    return found.group(1)


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_and_option_is_documented(name: str):
    text = section(name)
    command = cli.commands[name]
    parts = list(command.commands.values()) if isinstance(command, click.Group) else [command]
    for part in parts:
        assert part is command or f"{name} {part.name}" in text
        for option in part.params:
            if isinstance(option, click.Option) and not option.is_eager and not option.hidden:
                assert any(flag in text for flag in option.opts), f"{option.opts} is not in '## {name}'"


def test_no_section_without_a_command():
    assert set(re.findall(r"^## (\S+)$", PAGE, re.M)) == set(cli.commands)


def examples() -> list[str]:
    lines = []
    for page in PAGES:
        for block in re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S):
            lines += [line for line in block.splitlines() if line.startswith("napari-attnseg ")]
    return sorted(set(lines))


def test_examples_are_found():
    assert len(examples()) >= 10


@pytest.mark.parametrize("line", examples())
def test_examples_are_accepted_by_the_parser(line: str):
    """Every example names a command that exists and options with values that it takes."""
    args = shlex.split(line, comments=True)[1:]
    command: click.Command = cli
    context = click.Context(cli, info_name="napari-attnseg")
    while isinstance(command, click.Group):
        name, command, args = command.resolve_command(context, args)
        assert command is not None
        context = click.Context(command, info_name=name, parent=context)
    command.parse_args(context, args)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_to_files_lead_somewhere(page: Path):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_readme_has_the_two_lines():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert "bash .ci/setup demo" in lines
    assert "bash .ci/setup test" in lines
    assert (ROOT / ".ci" / "setup").exists()


def test_the_layer_law_reads_the_same_everywhere():
    law = (
        "__main__ > cli > _qt > _napari > jobs > engine > nn > store > core > "
        "(registry | params | records) > errors"
    )
    for page in ("CONTRIBUTING.md", "docs/architecture.md"):
        assert law in (ROOT / page).read_text(encoding="utf-8")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    layers = re.search(r"^layers = \[(.*?)^\]", project, re.M | re.S)
    assert layers
    names = [
        n.replace("registry | params | records", "(registry | params | records)")
        for n in re.findall(r'"([^"]+)"', layers[1])
    ]
    assert " > ".join(names) == law

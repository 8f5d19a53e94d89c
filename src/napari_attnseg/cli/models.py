"""``models``: what there is to choose from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from napari_attnseg.cli.common import FILE, json_option, report, say

if TYPE_CHECKING:
    from pathlib import Path

    from napari_attnseg.records import ModelCard


@click.group("models")
def models_command() -> None:
    """List models, show their cards, send them away and take them in."""


@models_command.command("list")
@json_option
def list_command(as_json: bool) -> None:
    """List all models."""
    from napari_attnseg.store.models import list_models

    cards = list_models()
    lines = [f"{card.id:20} {card.name}" for card in cards] or ["There is no model yet."]
    report({"models": [summary(card) for card in cards]}, as_json, "\n".join(lines))


@models_command.command("show")
@click.argument("name")
@json_option
def show_command(name: str, as_json: bool) -> None:
    """Show the card of the model NAME."""
    from napari_attnseg.store.models import find

    stored = find(name)
    about = {"weights": str(stored.weights), "bytes": stored.size, "date": stored.date}
    result = {**stored.card.to_json(), **about, "shipped": stored.shipped}
    report(result, as_json, "\n".join(f"{key:15} {_text(value)}" for key, value in result.items()))


@models_command.command("remove")
@click.argument("name")
@json_option
def remove_command(name: str, as_json: bool) -> None:
    """Delete your model NAME; it is not asked again."""
    from napari_attnseg.store.models import remove

    remove(name)
    report({"removed": name}, as_json, f"'{name}' was deleted.")


@models_command.command("rename")
@click.argument("name")
@click.argument("new")
@json_option
def rename_command(name: str, new: str, as_json: bool) -> None:
    """Give your model NAME the name NEW; models tuned from it follow."""
    from napari_attnseg.store.run_names import rename_model

    rename_model(name, new)
    report({"renamed": name, "to": new}, as_json, f"'{name}' is '{new}' now.")


@models_command.command("import")
@click.argument("path", type=FILE)
@click.option("--name", help="Name it gets here; empty keeps its own.")
@json_option
def import_command(path: Path, name: str | None, as_json: bool) -> None:
    """Take in the model of PATH: a zip file, or a folder, that 'export' wrote.

    Hash, card and names are checked first; a model is never overwritten.
    """
    from napari_attnseg.store.exchange import import_model

    card = import_model(path, name)
    report({"imported": card.id}, as_json, f"'{card.id}' was imported.")


@models_command.command("export")
@click.argument("name")
@click.option("--out", type=FILE, required=True, help="File to write; a folder where it has no .zip.")
@click.option(
    "--format", "kind", type=click.Choice(["zip", "onnx"]), default="zip", show_default=True,
    help="zip: card and weights, for 'import'. onnx: the network, for programs without PyTorch.",
)  # fmt: skip
@json_option
def export_command(name: str, out: Path, kind: str, as_json: bool) -> None:
    """Write the model NAME to a file for another computer or program."""
    if kind == "onnx":
        from napari_attnseg.jobs.export import export_onnx

        say("Tracing the network takes a minute or two.")
        path = export_onnx(name, out)
    else:
        from napari_attnseg.store.exchange import export_model

        path = export_model(name, out)
    report({"exported": name, "path": str(path)}, as_json, f"Saved as {path}.")


def summary(card: ModelCard) -> dict[str, Any]:
    """Return the short form of a card."""
    return {"id": card.id, "name": card.name, "diameter": card.diameter, "blocks": list(card.blocks)}


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}={v}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(str(v) for v in value)
    return "" if value is None else str(value)

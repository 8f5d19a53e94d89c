"""``models``: what there is to choose from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from napari_attnseg.cli.common import json_option, report

if TYPE_CHECKING:
    from napari_attnseg.records import ModelCard


@click.group("models")
def models_command() -> None:
    """List models and show their cards."""


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
    card = stored.card.to_json()
    size = stored.weights.stat().st_size if stored.weights.exists() else 0
    result = {**card, "weights": str(stored.weights), "bytes": size}
    report(result, as_json, "\n".join(f"{key:15} {_text(value)}" for key, value in result.items()))


def summary(card: ModelCard) -> dict[str, Any]:
    """Return the short form of a card."""
    return {"id": card.id, "name": card.name, "diameter": card.diameter, "blocks": list(card.blocks)}


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}={v}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(str(v) for v in value)
    return "" if value is None else str(value)

"""Model cards in words, and the models there are."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from napari_attnseg._napari import settings
from napari_attnseg.store import models

if TYPE_CHECKING:
    from napari_attnseg.records import ModelCard


def available() -> list[ModelCard]:
    """Return the cards of all models, those of the folder in the preferences included."""
    models.use_folder(settings.read().models)
    return [card for card in models.list_models() if _legible(card)]


def _legible(card: ModelCard) -> bool:
    """Tell whether a card holds what it should; one with a wrong type must not stop the window."""
    try:
        return isinstance(card.name, str) and isinstance(card.id, str) and bool(html(card))
    except (TypeError, ValueError, AttributeError):
        return False


def rows(card: ModelCard) -> list[tuple[str, str]]:
    """Return a card as lines of (what, value)."""
    parts = [
        ("About", card.description),
        ("Works best at", f"objects of {card.diameter:.0f} px (others are resized)"),
        ("Classes", ", ".join(card.classes)),
        ("Attention blocks", ", ".join(card.blocks)),
        ("Learnt from", _text(card.training.get("data", ""))),
        ("Scores", _text(card.metrics)),
        ("Tuned from", card.parent or ""),
        ("Licence", card.licence),
    ]
    return [(what, value) for what, value in parts if value]


def html(card: ModelCard) -> str:
    """Return a card as a small table, for a tooltip or a page."""
    lines = "".join(
        f"<tr><td style='padding-right:8px'><b>{escape(what)}</b></td><td>{escape(value)}</td></tr>"
        for what, value in rows(card)
    )
    return f"<p><b>{escape(card.name)}</b> ({escape(card.id)})</p><table>{lines}</table>"


def _text(value: Any) -> str:
    """Return a JSON-able value in a few words; deep or long ones are cut."""
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_text(entry)}" for key, entry in list(value.items())[:6])
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(entry) for entry in value[:8])
    return f"{value:.3g}" if isinstance(value, float) else str(value)[:160]

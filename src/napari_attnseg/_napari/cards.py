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
        ("Learnt from", _data(card.training.get("data", ""))),
        ("Scores (AP@.5)", _scores(card.metrics)),
        ("Tuned from", card.parent or ""),
        ("Licence", card.licence),
    ]
    return [(what, value) for what, value in parts if value]


def html(card: ModelCard) -> str:
    """Return a card as a small table, for a tooltip or a page."""
    cells = [(escape(what), escape(value).replace("\n", "<br>")) for what, value in rows(card)]
    lines = "".join(
        f"<tr><td style='padding-right:8px'><b>{what}</b></td><td>{value}</td></tr>" for what, value in cells
    )
    return f"<p><b>{escape(card.name)}</b> ({escape(card.id)})</p><table>{lines}</table>"


def _data(value: Any) -> str:
    """Return one line per data set that states a name and a licence; anything else in a few words."""
    if isinstance(value, (list, tuple)) and all(isinstance(v, dict) and "name" in v for v in value):
        return "\n".join(f"{v['name']} ({v.get('licence', 'licence not stated')})" for v in value)
    return _text(value)


def _scores(metrics: Any) -> str:
    """Return one line per measured set; anything but a table of them in a few words."""
    table = metrics.get("val") if isinstance(metrics, dict) else None
    wanted = {"dataset", "kind", "ap50", "n"}
    if isinstance(table, (list, tuple)) and all(isinstance(r, dict) and wanted <= r.keys() for r in table):
        return "\n".join(f"{r['ap50']:.2f}  {r['dataset']}, {r['kind']} ({r['n']} images)" for r in table)
    return _text(metrics) if metrics else ""


def _text(value: Any) -> str:
    """Return a JSON-able value in a few words; deep or long ones are cut."""
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_text(entry)}" for key, entry in list(value.items())[:6])
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(entry) for entry in value[:8])
    return f"{value:.3g}" if isinstance(value, float) else str(value)[:160]

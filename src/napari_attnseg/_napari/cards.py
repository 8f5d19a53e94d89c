"""Model cards in words, and the models there are."""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING, Any

from napari_attnseg._napari import settings
from napari_attnseg.core.classes import class_names
from napari_attnseg.errors import AttnSegError
from napari_attnseg.store import models

if TYPE_CHECKING:
    from napari_attnseg.records import ModelCard

_LONGEST = 16  # letters that surely fit half the dock


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


def title(card: ModelCard) -> str:
    """Return what a model is called in lists: its name as in messages, and what its card calls it."""
    if card.name == card.id:
        return card.id
    before, colon, after = card.name.partition(":")
    said = after.strip() if colon and before.lower() == card.id.lower() else card.name
    return f"{card.id}: {said}"


def rows(card: ModelCard) -> list[tuple[str, str]]:
    """Return a card as lines of (what, value)."""
    parts = [
        ("About", card.description),
        ("Works best at", f"objects of {card.diameter:.0f} px (others are resized)"),
        ("Classes", ", ".join(card.classes)),
        ("Attention blocks", ", ".join(card.blocks)),
        ("Learnt from", _data(card.training.get("data", ""))),
        ("Scores" if class_names(card) else "Scores (AP@.5)", _scores(card.metrics)),
        ("Tuned from", card.parent or ""),
        ("Tuned on", f"objects of about {card.usual_diameter:.0f} px" if card.usual_diameter else ""),
        ("Licence", card.licence),
    ]
    return [(what, value) for what, value in parts if value]


def page(card: ModelCard, other: ModelCard | None = None) -> str:
    """Return a card with date and size as a page, or two of them side by side.

    Of two, what a row is about is a line of its own: beside it there is no room for both.
    """
    first = dict(_facts(card) + rows(card))
    if other is None:
        lines = [
            f"<tr><td style='padding-right:8px'><b>{escape(what)}</b></td><td>{_cell(value)}</td></tr>"
            for what, value in first.items()
        ]
        return f"<p><b>{escape(card.name)}</b></p><table cellspacing='4'>{''.join(lines)}</table>"
    second = dict(_facts(other) + rows(other))
    lines = [_pair(f"<b>{_cell(card.id, _LONGEST)}</b>", f"<b>{_cell(other.id, _LONGEST)}</b>")]
    for what in dict.fromkeys([*first, *second]):
        if what != "Name":  # said at the top
            cells = (_cell(column.get(what, "–"), _LONGEST) for column in (first, second))
            lines.append(f"<tr><td colspan='2'><i>{escape(what)}</i></td></tr>{_pair(*cells)}")
    return f"<table width='100%' cellspacing='4'>{''.join(lines)}</table>"


def _pair(left: str, right: str) -> str:
    """Return a row of two cells as wide as each other."""
    return f"<tr><td width='50%'>{left}</td><td width='50%'>{right}</td></tr>"


def _facts(card: ModelCard) -> list[tuple[str, str]]:
    """Return where a model comes from, when it was made and how large it is."""
    try:
        stored = models.find(card.id)
        facts = [("Made", stored.date), ("Size", f"{stored.size / 1e6:.1f} MB" if stored.size else "gone")]
    except (AttnSegError, OSError):
        return []
    home = "came with the installation" if stored.shipped else "your models folder"
    return [("Name", card.id), ("Kept in", home), *((what, value) for what, value in facts if value)]


def command(card: ModelCard) -> str:
    """Return the command that segments files with a model."""
    return f"napari-attnseg segment IMAGE.tif --model {card.id} --out results"


def html(card: ModelCard) -> str:
    """Return a card as a small table, for a tooltip or a page."""
    cells = [(escape(what), _cell(value)) for what, value in rows(card)]
    lines = "".join(
        f"<tr><td style='padding-right:8px'><b>{what}</b></td><td>{value}</td></tr>" for what, value in cells
    )
    return f"<p><b>{escape(card.name)}</b> ({escape(card.id)})</p><table>{lines}</table>"


def _cell(value: str, longest: int = 0) -> str:
    """Return a value for a cell; words of more than ``longest`` letters may be broken, if that is not 0.

    They are broken behind a dot, a dash or an underscore where they have one.
    """
    if longest:
        part = re.compile(rf"[^._/-]{{1,{longest}}}[._/-]*|[._/-]+")
        value = re.sub(rf"\S{{{longest + 1},}}", lambda word: "\u200b".join(part.findall(word[0])), value)
    return escape(value).replace("\n", "<br>")


def _data(value: Any) -> str:
    """Return one line per data set that states a name and a licence; anything else in a few words."""
    if isinstance(value, (list, tuple)) and all(isinstance(v, dict) and "name" in v for v in value):
        return "\n".join(f"{v['name']} ({v.get('licence', 'licence not stated')})" for v in value)
    return _text(value)


def _scores(metrics: Any) -> str:
    """Return one line per measured set; anything but a table of them in a few words."""
    held = metrics.get("held_out") if isinstance(metrics, dict) else None
    if isinstance(held, dict) and isinstance(held.get("after"), dict) and "per_class" in held["after"]:
        mean = held["after"].get("dice")
        return f"{_text(mean)}  mean Dice of classes, held-out areas{_each(held['after'])}"
    if isinstance(held, dict) and all(_has_ap(held.get(when)) for when in ("before", "after")):
        return f"{held['before']['ap50']:.2f} → {held['after']['ap50']:.2f}  held-out corrections"
    table = metrics.get("val") if isinstance(metrics, dict) else None
    wanted = {"dataset", "kind", "ap50", "n"}
    if isinstance(table, (list, tuple)) and all(isinstance(r, dict) and wanted <= r.keys() for r in table):
        return "\n".join(f"{r['ap50']:.2f}  {r['dataset']}, {r['kind']} ({r['n']} images)" for r in table)
    return _text(metrics) if metrics else ""


def _each(after: dict[str, Any]) -> str:
    """Return one more line per class."""
    found = after["per_class"]
    rows = found.items() if isinstance(found, dict) else ()
    return "".join(f"\n{dice:.2f}  {name}" for name, dice in rows if isinstance(dice, (int, float)))


def _has_ap(scores: Any) -> bool:
    return isinstance(scores, dict) and isinstance(scores.get("ap50"), (int, float))


def _text(value: Any) -> str:
    """Return a JSON-able value in a few words; deep or long ones are cut."""
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_text(entry)}" for key, entry in list(value.items())[:6])
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(entry) for entry in value[:8])
    return f"{value:.3g}" if isinstance(value, float) else str(value)[:160]

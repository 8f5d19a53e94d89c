"""The folder of models: shipped ones inside the package, the user's own under :func:`home`.

A model is a folder with ``card.json`` and ``weights.safetensors``.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from napari_attnseg.errors import CheckpointError, StoreError, UnknownModelError
from napari_attnseg.records import SCHEMA_VERSION, ModelCard
from napari_attnseg.registry import did_you_mean

_AGAIN = "Copy the model folder again."
_KINDS: dict[str, Any] = {
    "name": str, "architecture": dict, "diameter": (int, float), "classes": tuple, "blocks": tuple,
    "sha256": str, "training": dict, "metrics": dict,
}  # fmt: skip
_SHIPPED = Path(__file__).parents[1] / "nn" / "weights"


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A card and where its weights lie."""

    card: ModelCard
    weights: Path
    shipped: bool = False


def home() -> Path:
    """Return the folder of models, runs and caches: ``$NAPARI_ATTNSEG_HOME``, else the user's data folder."""
    if named := os.environ.get("NAPARI_ATTNSEG_HOME"):
        return Path(named)
    from platformdirs import user_data_path

    return user_data_path("napari-attnseg", appauthor=False)


_chosen: Path | None = None


def use_folder(folder: Path | None) -> None:
    """Take the user's models from ``folder`` in this process; None goes back to the standard one."""
    global _chosen
    _chosen = folder


def models_folder() -> Path:
    """Return the folder of the user's models (it may not exist yet)."""
    return _chosen if _chosen is not None else home() / "models"


def read_card(path: Path) -> ModelCard:
    """Read a ``card.json``.

    Raises
    ------
    CheckpointError
        Not JSON, not a card, or of a newer schema.
    """
    name = path.parent.name
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        version = int(raw["schema_version"])
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise CheckpointError(f"The model card of '{name}' cannot be read.", _AGAIN) from err
    if version > SCHEMA_VERSION:
        raise CheckpointError(
            f"The model '{name}' was made by a newer version of napari-attnseg.", "Update it."
        )
    known = {f.name for f in fields(ModelCard)}
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items() if k in known}
    try:
        card = ModelCard(**values)
    except TypeError as err:
        raise CheckpointError(f"The model card of '{name}' is not complete.", _AGAIN) from err
    if odd := [key for key, kind in _KINDS.items() if not isinstance(getattr(card, key), kind)]:
        raise CheckpointError(f"The model card of '{name}' has an odd value for '{odd[0]}'.", _AGAIN)
    if not 0 < card.diameter < float("inf"):
        raise CheckpointError(f"The model card of '{name}' has an odd value for 'diameter'.", _AGAIN)
    return replace(card, id=name)  # a copied or renamed folder is found by its own name


def _folders() -> dict[str, tuple[Path, bool]]:
    found: dict[str, tuple[Path, bool]] = {}
    for root, shipped in ((models_folder(), False), (_SHIPPED, True)):  # shipped names win
        if root.is_dir():
            for card in sorted(root.glob("[!.]*/card.json")):
                found[card.parent.name] = (card.parent, shipped)
    return found


def find(name: str) -> StoredModel:
    """Return the model of a name.

    Raises
    ------
    UnknownModelError
        There is none; the hint says what was probably meant.
    CheckpointError
        Its card cannot be read.
    """
    known = _folders()
    if name not in known:
        raise UnknownModelError(f"There is no model '{name}'.", did_you_mean(name, known))
    folder, shipped = known[name]
    return StoredModel(read_card(folder / "card.json"), folder / "weights.safetensors", shipped)


def list_models() -> list[ModelCard]:
    """Return the cards of all models that can be read, shipped ones first, then by name."""
    cards = []
    for name, (folder, shipped) in _folders().items():
        try:
            cards.append((not shipped, name, read_card(folder / "card.json")))
        except CheckpointError:
            continue  # one bad folder must not hide the others; find() says what is wrong
    return [card for _, _, card in sorted(cards, key=lambda c: c[:2])]


def check_home() -> None:
    """Raise ``StoreError`` where no model or run can be stored, before time is spent on one."""
    for folder in (models_folder(), home()):
        place = folder
        while not place.exists() and place != place.parent:
            place = place.parent
        if not place.is_dir() or not os.access(place, os.W_OK):
            raise StoreError(
                f"Nothing can be stored in '{folder}'.",
                "Set NAPARI_ATTNSEG_HOME to a folder that can be written.",
            )

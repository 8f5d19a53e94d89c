"""The folder of models: shipped ones inside the package, the user's own under :func:`home`.

A model is a folder with ``card.json`` and ``weights.safetensors``.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from napari_attnseg.errors import CheckpointError, UnknownModelError
from napari_attnseg.records import SCHEMA_VERSION, ModelCard
from napari_attnseg.registry import did_you_mean

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
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        version = raw["schema_version"]
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise CheckpointError(
            f"The model card of '{path.parent.name}' cannot be read.", "Copy the model folder again."
        ) from err
    if version > SCHEMA_VERSION:
        raise CheckpointError(
            f"The model '{path.parent.name}' was made by a newer version of napari-attnseg.", "Update it."
        )
    known = {f.name for f in fields(ModelCard)}
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items() if k in known}
    try:
        return ModelCard(**values)
    except TypeError as err:
        raise CheckpointError(f"The model card of '{path.parent.name}' is not complete.") from err


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

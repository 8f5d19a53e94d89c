"""The folder of models: shipped ones inside the package, the user's own under :func:`home`.

A model is a folder with ``card.json`` and ``weights.safetensors``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from napari_attnseg.errors import CheckpointError, InputError, StoreError, UnknownModelError
from napari_attnseg.records import SCHEMA_VERSION, ModelCard
from napari_attnseg.registry import did_you_mean
from napari_attnseg.store.files import write_atomic
from napari_attnseg.store.images import check_folder

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

    @property
    def size(self) -> int:
        """Size of the weights, bytes; 0 where they are gone."""
        return self.weights.stat().st_size if self.weights.exists() else 0

    @property
    def date(self) -> str:
        """The day it was finished, "2026-11-23": as its card says, else that of its files; "" for neither."""
        said = self.card.training.get("finished")
        if isinstance(said, str) and said:
            return said[:10]
        if self.shipped or not self.weights.exists():
            return ""
        return time.strftime("%Y-%m-%d", time.localtime(self.weights.stat().st_mtime))


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
        data = path.read_bytes()
    except OSError as err:
        raise CheckpointError(f"The model card of '{name}' cannot be read.", _AGAIN) from err
    return replace(parse_card(data, name), id=name)  # a copied or renamed folder is found by its own name


def parse_card(data: bytes, name: str) -> ModelCard:
    """Return the card in the bytes of a ``card.json``; ``name`` is for messages, raised as by `read_card`."""
    try:
        raw = json.loads(data.decode("utf-8"))
        version = int(raw["schema_version"])
    except (ValueError, KeyError, TypeError) as err:
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
    for key, size in (("diameter", card.diameter), ("usual_diameter", card.usual_diameter)):
        if size is not None and not _is_size(size):
            raise CheckpointError(f"The model card of '{name}' has an odd value for '{key}'.", _AGAIN)
    return card


def _is_size(value: object) -> bool:
    """Tell whether a value of a card is a number of pixels."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")


def _folders() -> dict[str, tuple[Path, bool]]:
    found: dict[str, tuple[Path, bool]] = {}
    for root, shipped in ((models_folder(), False), (_SHIPPED, True)):  # shipped names win
        for card in _inside(root, "[!.]*/card.json"):
            found[card.parent.name] = (card.parent, shipped)
    return found


def _inside(root: Path, pattern: str) -> list[Path]:
    """Return what lies in a folder, sorted; nothing where the folder is not there yet."""
    try:
        root.stat()
        return sorted(root.glob(pattern))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as err:
        raise StoreError(
            f"The folder '{root}' cannot be opened ({err.strerror or err}).",
            "Set NAPARI_ATTNSEG_HOME to a folder that can be read.",
        ) from err


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


def check_name(name: str) -> None:
    """Raise ``InputError`` unless ``name`` can be the name of a model and its folder on every system."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name) or name.endswith(".") or name == "scratch":
        raise InputError(
            f"A model cannot be named '{name}'.",
            "Use up to 64 letters, digits, dots, dashes and underscores, beginning with a letter or digit.",
        )


def exists(name: str) -> bool:
    """Tell whether a name is taken, by a model or by any other file of the models folder.

    Names that differ in capitals only count as one: on some systems they are.
    """
    own = [path.name for path in _inside(models_folder(), "*")]
    return name.lower() in {taken.lower() for taken in (*own, *_folders())}


def check_new(name: str, hint: str = "Choose another name.") -> None:
    """Raise ``StoreError`` with this hint where :func:`exists` says that a name is taken."""
    if exists(name):
        raise StoreError(f"A model named '{name}' exists already.", hint)


def remove(name: str) -> None:
    """Delete a model of the user.

    Raises
    ------
    UnknownModelError
        There is none.
    StoreError
        It came with the installation, or cannot be deleted.
    """
    folder = _own(name, "deleted")
    gone = folder.with_name(f".{name}.{os.getpid()}.gone")  # never seen half deleted
    try:
        os.rename(folder, gone)
        shutil.rmtree(gone)
    except OSError as err:
        raise StoreError(
            f"The model '{name}' could not be deleted: {err.strerror or err}.",
            "Close what uses it, and check the rights of the models folder.",
        ) from err


def rename(name: str, new: str) -> ModelCard:
    """Give a model of the user another name; models that were tuned from it follow.

    Raises
    ------
    UnknownModelError
        There is none.
    InputError
        The new name cannot be a folder's.
    StoreError
        It came with the installation, the new name is taken, or nothing can be written.
    """
    folder = _own(name, "renamed")
    check_name(new)
    if new.lower() != name.lower():
        check_new(new)
    try:
        os.rename(folder, folder.with_name(new))
    except OSError as err:
        raise StoreError(
            f"The model '{name}' could not be renamed: {err.strerror or err}.",
            "Close what uses it, and check the rights of the models folder.",
        ) from err
    card = read_card(folder.with_name(new) / "card.json")
    _write_card(replace(card, name=new if card.name == name else card.name))
    for child in list_models():
        if child.parent == name and not find(child.id).shipped:
            _write_card(replace(child, parent=new))
    return find(new).card


def _own(name: str, what: str) -> Path:
    """Return the folder of a model of the user; ``what`` is the verb for the refusal."""
    known = _folders()
    if name in known and known[name][1]:
        raise StoreError(f"'{name}' came with the installation and cannot be {what}.", "Choose one of yours.")
    if name not in known:
        raise UnknownModelError(f"There is no model '{name}'.", did_you_mean(name, known))
    return known[name][0]


def _write_card(card: ModelCard) -> None:
    data = json.dumps(card.to_json(), indent=1).encode()
    write_atomic(models_folder() / card.id / "card.json", data)


def check_home() -> None:
    """Raise ``StoreError`` where no model or run can be stored, before time is spent on one."""
    for folder in (models_folder(), home()):
        try:
            check_folder(folder, "")
        except StoreError as err:
            raise StoreError(
                f"Nothing can be stored in '{folder}'.",
                "Set NAPARI_ATTNSEG_HOME to a folder that can be written.",
            ) from err

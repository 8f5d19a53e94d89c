"""Weights as safetensors, cards as JSON; pickle is never loaded.  Files appear whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as dump_safetensors
from torch import Tensor, nn

from napari_attnseg.errors import CheckpointError, StoreError
from napari_attnseg.store.files import not_written, write_atomic

if TYPE_CHECKING:
    from pathlib import Path

    from napari_attnseg.records import ModelCard


def write_tensors(path: Path, tensors: dict[str, Tensor], meta: dict[str, Any] | None = None) -> str:
    """Write tensors (and JSON-able ``meta``) atomically; return the sha256 of the file."""
    plain = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    data = dump_safetensors(plain, {"attnseg": json.dumps(meta or {})})
    write_atomic(path, data)
    return hashlib.sha256(data).hexdigest()


def read_tensors(path: Path, sha256: str = "") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors and meta.

    Raises
    ------
    CheckpointError
        Unreadable, not safetensors, or another content than ``sha256`` says.
    """
    try:
        data = path.read_bytes()
    except OSError as err:
        raise CheckpointError(
            f"The weights '{path.name}' cannot be read: {err.strerror}.", "Copy the model folder again."
        ) from err
    if sha256 and hashlib.sha256(data).hexdigest() != sha256:
        raise CheckpointError(
            f"The weights '{path.name}' are damaged or not those of their model card.",
            "Copy the model folder again, or train it anew.",
        )
    try:
        tensors = load_safetensors(data)
        size = int.from_bytes(data[:8], "little")
        meta = json.loads(json.loads(data[8 : 8 + size]).get("__metadata__", {}).get("attnseg", "{}"))
    except (SafetensorError, ValueError, KeyError) as err:
        raise CheckpointError(
            f"'{path.name}' is not a readable safetensors file.", "Weights of other programs cannot be used."
        ) from err
    return tensors, meta


def load_weights(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put tensors into a model; ``CheckpointError`` names the first that is missing, foreign or misshapen."""
    own = model.state_dict()
    missing, foreign = own.keys() - tensors.keys(), tensors.keys() - own.keys()
    wrong = [k for k in own.keys() & tensors.keys() if own[k].shape != tensors[k].shape]
    for kind, names in (("missing", missing), ("foreign", foreign), ("misshapen", wrong)):
        if names:
            raise CheckpointError(
                f"The weights do not fit the model card: '{min(names)}' is {kind}.",
                "The file belongs to another architecture.",
            )
    if any(not torch.isfinite(t).all() for t in tensors.values() if t.is_floating_point()):
        raise CheckpointError("The weights hold numbers that are not finite.", "Train the model anew.")
    model.load_state_dict(tensors)


def save_model(folder: Path, model: nn.Module, card: ModelCard) -> ModelCard:
    """Write ``weights.safetensors`` and ``card.json`` into a new folder, whole or not at all.

    Returns the card with the hash of the weights.

    Raises
    ------
    StoreError
        The folder exists already, or cannot be written.
    """
    if folder.exists():
        raise StoreError(f"The model folder '{folder.name}' exists already.", "Models are never overwritten.")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        digest = write_tensors(temporary / "weights.safetensors", model.state_dict())
        blocks = (*getattr(model, "blocks", ()), "readout")
        card = replace(card, sha256=digest, blocks=blocks)
        write_atomic(temporary / "card.json", json.dumps(card.to_json(), indent=1).encode())
        os.replace(temporary, folder)
    except OSError as err:
        raise not_written(f"The model '{card.id}' could not be saved", err) from err
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return card

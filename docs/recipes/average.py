"""Average the weights of models of one line: the last step of the recipe behind ``base``.

    python docs/recipes/average.py WORKDIR1/model WORKDIR2/model --shares 0.75 0.25 --out WORKDIR3/model

Weights of segments of one training often lie in the same valley, where their average can do better than
each of them (Izmailov et al. 2018, arXiv 1803.05407; Wortsman et al. 2022, arXiv 2109.01903).  The card is
that of the last one with ``averaged``: the checksums and shares.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path

from napari_attnseg.nn.checkpoint import read_tensors, save_model
from napari_attnseg.nn.model import build_model
from napari_attnseg.store.models import read_card


def main() -> None:
    """Read, average, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", type=Path, nargs="+", help="their folders, the newest last")
    parser.add_argument("--shares", type=float, nargs="+", required=True, help="one for each; their sum is 1")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if len(args.shares) != len(args.models) or not math.isclose(sum(args.shares), 1.0):
        raise SystemExit("Give one share for each model, 1 in all.")
    cards = [read_card(folder / "card.json") for folder in args.models]
    if any(card.architecture != cards[-1].architecture for card in cards):
        raise SystemExit("Models of different architectures cannot be averaged.")
    weights = [
        read_tensors(folder / "weights.safetensors", card.sha256)[0]
        for folder, card in zip(args.models, cards, strict=True)
    ]
    mean = dict(weights[-1])
    for name, last in weights[-1].items():
        if last.is_floating_point():
            parts = [share * w[name].double() for share, w in zip(args.shares, weights, strict=True)]
            mean[name] = sum(parts[1:], parts[0]).to(last.dtype)
    model = build_model(**cards[-1].architecture)
    model.load_state_dict(mean)
    shares = dict(zip((card.sha256 for card in cards), args.shares, strict=True))
    training = {**cards[-1].training, "averaged": shares}
    save_model(args.out, model, replace(cards[-1], id="base", training=training))


if __name__ == "__main__":
    main()

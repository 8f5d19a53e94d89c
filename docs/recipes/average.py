"""Average the weights of two models of one line: the last step of the recipe behind ``base``.

    python docs/recipes/average.py WORKDIR1/model WORKDIR2/model --share 0.25 --out WORKDIR3/model

``--share`` is the part of the second model, which went on from the first.  Weights between two segments of
one training often lie in the same valley, where their average can do better than either (Izmailov et al.
2018, arXiv 1803.05407; Wortsman et al. 2022, arXiv 2109.01903).  The card is that of the second with
``averaged``: the checksums and shares.
"""

from __future__ import annotations

import argparse
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
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--share", type=float, default=0.5, help="of the second, 0..1")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    cards = [read_card(folder / "card.json") for folder in (args.first, args.second)]
    if cards[0].architecture != cards[1].architecture:
        raise SystemExit(f"{cards[0].architecture} and {cards[1].architecture} cannot be averaged.")
    first, second = (
        read_tensors(folder / "weights.safetensors", card.sha256)[0]
        for folder, card in zip((args.first, args.second), cards, strict=True)
    )
    mean = {
        k: v.lerp(second[k], args.share).to(v.dtype) if v.is_floating_point() else second[k]
        for k, v in first.items()
    }
    model = build_model(**cards[1].architecture)
    model.load_state_dict(mean)
    shares = {cards[0].sha256: round(1 - args.share, 3), cards[1].sha256: args.share}
    training = {**cards[1].training, "averaged": shares}
    save_model(args.out, model, replace(cards[1], id="base", training=training))


if __name__ == "__main__":
    main()

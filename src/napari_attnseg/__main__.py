"""``python -m napari_attnseg`` is the console script ``napari-attnseg``."""

from __future__ import annotations

from napari_attnseg.cli import main

if __name__ == "__main__":
    main()

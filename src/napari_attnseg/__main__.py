"""``python -m napari_attnseg`` is the console script ``napari-attnseg``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; Ctrl+C says so and ends with 130 also while it is still being imported."""
    try:
        from napari_attnseg.cli import main as run
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()

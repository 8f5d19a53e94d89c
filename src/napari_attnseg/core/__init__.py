"""numpy only: no torch, Qt or napari here; scipy and scikit-image are imported inside functions."""

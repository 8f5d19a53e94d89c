"""The layers of attention are seen while the tab that says what they show is in front."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from napari_attnseg._napari.layers import META

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_attnseg._napari.session import Session

_KINDS = ("attention", "beside", "pins", "outline")


class Curtain:
    """Hides layers of attention and brings back those it hid; what the user hid stays hidden.

    Attributes
    ----------
    is_open : bool
        Whether the tab is in front.  Also then an overlay whose run has no tape stays hidden, and so do
        those of images that are not chosen: the tab speaks of one image.
    """

    def __init__(self, viewer: ViewerModel, session: Session) -> None:
        self._viewer, self._session = viewer, session
        self._hidden: WeakSet[Any] = WeakSet()
        self.is_open = False

    def draw(self, is_open: bool) -> None:
        """Open the curtain or close it."""
        if is_open != self.is_open:
            self.is_open = is_open
            self.arrange()

    def arrange(self) -> None:
        """Show or hide every layer of attention."""
        for layer in list(self._viewer.layers):
            self.settle(layer)

    def settle(self, layer: Any) -> None:
        """Show or hide one layer; not one whose image is gone: it goes as well."""
        about = layer.metadata.get(META, {})
        if about.get("kind") not in _KINDS:
            return
        runs = self._session.state.runs
        run = next((run for run in runs if str(run.image.unique_id) == about.get("of")), None)
        if run is None:
            return
        wanted = self.is_open and run.tape is not None and run is self._session.state.run
        if layer.visible and not wanted:
            self._hidden.add(layer)
            layer.visible = False
        elif wanted and layer in self._hidden:
            self._hidden.discard(layer)
            layer.visible = True

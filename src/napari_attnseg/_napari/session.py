"""What one viewer's panel knows: one frozen record, replaced as a whole, and a signal that says so."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

from psygnal import Signal

from napari_attnseg._napari.kept import Kept
from napari_attnseg._napari.layers import unwrap

if TYPE_CHECKING:
    from napari.layers import Image, Labels

    from napari_attnseg._napari.shown import Shown
    from napari_attnseg.core.attention import AttentionTape
    from napari_attnseg.engine import Engine
    from napari_attnseg.params import SegmentParams
    from napari_attnseg.records import Encoded, ImageSource, PlaneKey, Segmentation


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run on one image layer, and what is kept of it.

    Attributes
    ----------
    image : Image
        The layer that was segmented.
    encoded : Encoded or None
        What the network left, for live changes; None for classic methods or when given back.
    shown, replaced : Shown
        The Labels layer, and the one it took the place of.
    plane : PlaneKey
        The plane the tape belongs to.
    tape : AttentionTape or None
        Queries and keys for the overlay.
    before : Run or None
        The run whose layer was replaced, without its maps.
    """

    image: Image
    source: ImageSource
    params: SegmentParams
    segmentation: Segmentation
    encoded: Encoded | None
    shown: Shown
    replaced: Shown | None
    plane: PlaneKey
    tape: AttentionTape | None = None
    before: Run | None = None

    @property
    def nbytes(self) -> int:
        """Memory of the kept maps, bytes."""
        if self.encoded is None:
            return 0
        arrays = (
            getattr(maps, name)
            for maps in self.encoded.maps.values()
            for name in ("foreground", "distance", "size", "offset", "classes")
        )
        return sum(int(a.nbytes) for a in arrays if a is not None)


@dataclass(frozen=True, slots=True)
class State:
    """The whole state; see :class:`Session`.

    Attributes
    ----------
    image : Image or None
        The layer chosen in the panel.
    engine : Engine or None
        The loaded network, for ``engine_key`` = (model, device).
    loading : str
        What is said while the network is loading or could not be; "" when it is there.
    busy : str
        Title of the running job; "" when idle.
    runs : tuple of Run
        The last run of every image layer, oldest first.
    """

    image: Image | None = None
    engine: Engine | None = None
    engine_key: tuple[str, str] | None = None
    loading: str = ""
    busy: str = ""
    runs: tuple[Run, ...] = ()

    def run_of(self, image: Image | None) -> Run | None:
        """Return the last run on an image layer."""
        return next((run for run in self.runs if run.image is image), None)

    @property
    def run(self) -> Run | None:
        """The last run on the chosen image."""
        return self.run_of(self.image)


class Session:
    """Holds the state of one viewer and tells who listens when it is replaced.

    ``changed`` carries the new state and the one before.  All of it happens on the main thread.
    What was predicted is kept for every Labels layer of ours for as long as the layer lives, also when
    its image is run again into another layer: corrections are found by comparing with it.
    """

    changed = Signal(object, object)
    _of_viewer: ClassVar[WeakKeyDictionary[Any, Session]] = WeakKeyDictionary()

    def __init__(self) -> None:
        self._state = State()
        self._kept: WeakKeyDictionary[Labels, Kept] = WeakKeyDictionary()

    @classmethod
    def of(cls, viewer: Any) -> Session:
        """Return the session of a viewer; the same one for as long as the viewer lives."""
        return cls._of_viewer.setdefault(unwrap(viewer), cls())

    @property
    def state(self) -> State:
        """The current state."""
        return self._state

    def update(self, **changes: Any) -> None:
        """Replace some fields of the state and tell, unless nothing changed."""
        old, new = self._state, replace(self._state, **changes)
        if any(getattr(old, name) is not getattr(new, name) for name in changes):
            self._state = new
            self.changed.emit(new, old)

    def put_run(self, run: Run, limit: int) -> None:
        """Keep a run as the newest of its image, and forget the maps of old ones beyond ``limit`` bytes."""
        old = self._state.run_of(run.image)
        if old is not None and old.shown is run.replaced:
            run = replace(run, before=replace(old, encoded=None, replaced=None, before=None))
        runs = [other for other in self._state.runs if other.image is not run.image]
        room, kept = limit - run.nbytes, []
        for other in reversed(runs):
            room -= other.nbytes
            kept.append(other if room >= 0 else replace(other, encoded=None))
        self._keep(run)
        self.update(runs=(*reversed(kept), run))

    def change_run(self, run: Run, **changes: Any) -> Run:
        """Replace some fields of a kept run and return the new one."""
        new = replace(run, **changes)
        self._keep(new)
        self.update(runs=tuple(new if other is run else other for other in self._state.runs))
        return new

    def forget(self, image: Image) -> None:
        """Drop what belongs to an image layer that is gone."""
        kept = tuple(run for run in self._state.runs if run.image is not image)
        chosen = None if self._state.image is image else self._state.image
        self.update(runs=kept, image=chosen)

    def kept(self, labels: Labels) -> Kept | None:
        """Return what was predicted for a Labels layer; None for labels that are not ours."""
        return self._kept.get(labels)

    def keep(self, labels: Labels, kept: Kept) -> None:
        """Compare a Labels layer with something else from now on."""
        self._kept[labels] = kept

    def _keep(self, run: Run) -> None:
        before = self._kept.get(run.shown.layer)
        if before is None or before.origin is not run.shown.written:
            self._kept[run.shown.layer] = Kept.of_run(run)

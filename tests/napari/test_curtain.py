"""Overlays are seen with the tab that explains them, and never over what has no attention."""

from __future__ import annotations

import pytest
from napari.components import ViewerModel

from napari_attnseg._napari.curtain import Curtain
from napari_attnseg._napari.explorer import Explorer
from tests.fakes import blobs
from tests.napari.asked import finished


@pytest.fixture
def stage():
    """A viewer with overlay, pin and outline of a finished run, its session and a curtain."""
    viewer = ViewerModel()
    image = viewer.add_image(blobs()[0], name="im")
    session, _ = finished(viewer, image)
    explorer = Explorer(viewer, session)
    explorer.change(block="local1", pixel=(40, 70))
    explorer.show()
    explorer.pin((80, 20))
    return viewer, session, Curtain(viewer, session)


def seen(viewer):
    return {layer.name for layer in viewer.layers if layer.visible}


def test_it_hides_and_brings_back_what_the_user_did_not_hide(stage):
    viewer, _, curtain = stage
    everything = seen(viewer)
    assert len(everything) == 6
    curtain.arrange()
    assert seen(viewer) == {"im", "labels"}
    curtain.draw(True)
    assert seen(viewer) == everything
    viewer.layers["im · attention"].visible = False  # by the user
    curtain.draw(False)
    curtain.draw(True)
    assert seen(viewer) == everything - {"im · attention"}
    curtain.draw(False)
    viewer.layers["im · attention"].visible = True
    curtain.draw(False)  # no other tab came to the front
    assert seen(viewer) == {"im", "labels", "im · attention"}


def test_what_belongs_to_no_tape_stays_hidden(stage):
    viewer, session, curtain = stage
    everything = seen(viewer)
    curtain.draw(True)
    tape = session.state.run.tape
    session.change_run(session.state.run, tape=None)  # as after a classic run
    curtain.arrange()
    assert seen(viewer) == {"im", "labels"}
    curtain.draw(False)
    curtain.draw(True)
    assert seen(viewer) == {"im", "labels"}
    session.change_run(session.state.run, tape=tape)
    curtain.arrange()
    assert seen(viewer) == everything


def test_only_the_chosen_image_shows_its_attention(stage):
    viewer, session, curtain = stage
    everything = seen(viewer)
    curtain.draw(True)
    first = session.state.image
    other = viewer.add_image(blobs()[0], name="other")
    session.update(image=other)
    curtain.arrange()
    assert seen(viewer) == {"im", "labels", "other"}
    session.update(image=first)
    curtain.arrange()
    assert seen(viewer) == everything | {"other"}

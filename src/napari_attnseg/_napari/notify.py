"""Words to the user, through napari's notifications."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_attnseg.errors import AttnSegError


def error(err: AttnSegError) -> None:
    """Show one of our errors: one sentence and its hint, without a traceback."""
    from napari.utils.notifications import show_error

    show_error(str(err))


def info(text: str) -> None:
    """Show a short message that goes away by itself."""
    from napari.utils.notifications import show_info

    show_info(text)


def bug(err: BaseException) -> None:
    """Hand anything that is not ours to napari, with its traceback."""
    from napari.utils.notifications import notification_manager

    notification_manager.receive_error(type(err), err, err.__traceback__)

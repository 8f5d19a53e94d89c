"""What the commands share: options made from parameters, progress on stderr, JSON on stdout."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import types
import typing
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import click

from napari_attnseg.errors import AttnSegError, InputError, StoreError
from napari_attnseg.params import SegmentParams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pydantic.fields import FieldInfo

    Command = Callable[..., Any]

FILE = click.Path(path_type=Path)
FILES = click.Path(path_type=Path, readable=False)  # one that cannot be read fails when its turn comes


def params_options(names: Iterable[str] | None = None) -> Callable[[Command], Command]:
    """Return a decorator that adds an option for every field of ``SegmentParams`` (or those named)."""
    fields = SegmentParams.model_fields
    chosen = list(fields) if names is None else list(names)

    def add(command: Command) -> Command:
        for name in reversed(chosen):
            command = _option(name, fields[name])(command)
        return command

    return add


def _option(name: str, field: FieldInfo) -> Callable[[Command], Command]:
    flag = "--" + name.replace("_", "-")
    kind = _plain(field.annotation)
    shown: dict[str, Any] = {"help": field.description, "default": field.default}
    if kind is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", name, show_default=True, **shown)
    if get_origin(kind) is Literal:
        return click.option(flag, name, type=click.Choice(get_args(kind)), show_default=True, **shown)
    return click.option(flag, name, type=kind, show_default=field.default is not None, **shown)


def _plain(annotation: Any) -> Any:
    """Return T of ``T | None``."""
    if get_origin(annotation) in (types.UnionType, typing.Union):
        return next(part for part in get_args(annotation) if part is not type(None))
    return annotation


def json_option(command: Command) -> Command:
    """Add ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")(command)


def say(text: str) -> None:
    """Write a line for people to stderr."""
    click.echo(text, err=True)


def report(result: Any, as_json: bool, text: str = "") -> None:
    """Write the result to stdout: one JSON object, or ``text``."""
    if as_json:
        click.echo(json.dumps(result, default=str))
    elif text:
        click.echo(text)


@contextmanager
def progress_bar() -> Iterator[Callable[[Any], None]]:
    """Give a function that shows ``Progress`` records as a bar on stderr; silent unless it is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)

        def show(step: Any) -> None:
            bar.update(task, completed=step.done, total=step.total or None, description=step.note)

        yield show


def check_files(files: Sequence[Path]) -> list[Path]:
    """Return the files; ``InputError`` when two have one stem, or the only one cannot be an image.

    Upper and lower case count as the same: many disks do not tell them apart, and one result would be lost.
    One of several that is missing or of an unknown type fails when its turn comes: the rest is written.
    """
    from napari_attnseg.store.images import check_path, stem_of

    if len(files) == 1:
        check_path(files[0])
    seen: dict[str, Path] = {}
    for path in files:
        stem = stem_of(path).casefold()
        if stem in seen:
            raise InputError(
                f"'{seen[stem]}' and '{path}' would be written to files of the same name.",
                "Give files of different names, or run them one by one into different folders.",
            )
        seen[stem] = path
    return list(seen.values())


def check_out(out: Path, inputs: Iterable[Path] = (), outputs: Iterable[Path] = ()) -> None:
    """Raise ``StoreError`` where ``out`` cannot be a folder, or an output would replace an input."""
    from napari_attnseg.store.images import check_folder

    check_folder(out, "Choose another --out.")
    taken = {os.path.realpath(path) for path in inputs}
    for path in outputs:
        if os.path.realpath(path) in taken:
            raise StoreError(f"'{path}' is an input and would be replaced.", "Choose another --out.")


@contextmanager
def stop_asked() -> Iterator[threading.Event]:
    """Note the first Ctrl+C, for a job that saves what it has before it stops; the second one interrupts."""
    asked = threading.Event()

    def note(_number: int, _frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        say("Stopping after this step. Ctrl+C again stops at once.")

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def has_screen() -> bool:
    """Tell whether a window can be shown."""
    if not sys.platform.startswith("linux"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def window_module(name: str) -> Any:
    """Import a module of the window; an ``AttnSegError`` says how to get Qt and napari."""
    try:
        return import_module(f"napari_attnseg._qt.{name}")
    except ImportError as err:
        raise AttnSegError(
            f"The window cannot be opened ({str(err).splitlines()[0].rstrip('.')}).",
            "Install napari with Qt: pip install 'napari-attnseg[all]'.",
        ) from err

"""The command line: thin commands over the jobs.  Qt and napari are imported only by launch and demo."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from napari_attnseg import __version__
from napari_attnseg.cli.attention import attention_command
from napari_attnseg.cli.demo import demo_command
from napari_attnseg.cli.doctor import doctor_command
from napari_attnseg.cli.evaluate import evaluate_command
from napari_attnseg.cli.launch import launch_command
from napari_attnseg.cli.models import models_command
from napari_attnseg.cli.segment import segment_command
from napari_attnseg.cli.train import train_command
from napari_attnseg.errors import AttnSegError

if TYPE_CHECKING:
    from collections.abc import Sequence

DONE, REFUSED, INTERRUPTED = 0, 2, 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="napari-attnseg")
def cli() -> None:
    """Segment images with attention, see what the network attends to, correct, fine-tune.

    Nothing leaves this computer.
    """


for _command in (
    launch_command,
    demo_command,
    segment_command,
    attention_command,
    train_command,
    evaluate_command,
    models_command,
    doctor_command,
):
    cli.add_command(_command)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 done, 2 refused or failed with one sentence and a hint, 3 some of several files failed, 130
    interrupted.  Anything else is a bug and raises.
    """
    try:
        result = cli.main(
            args=None if arguments is None else list(arguments),
            prog_name="napari-attnseg",
            standalone_mode=False,
        )
    except click.exceptions.NoArgsIsHelpError as err:
        click.echo(err.format_message(), err=True)
        return REFUSED
    except click.ClickException as err:
        return _refuse(err.format_message(), _help_hint(err))
    except AttnSegError as err:
        return _refuse(err.message, err.hint)
    except OSError as err:
        if err.filename is None:  # no path that somebody gave
            raise
        return _refuse(f"'{err.filename}' cannot be used ({err.strerror}).", "Check the path and its rights.")
    except MemoryError:
        return _refuse("There is not enough memory for this.", "Take a smaller --tile, or close programs.")
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        return INTERRUPTED
    return result if isinstance(result, int) else DONE


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run())


def _refuse(message: str, hint: str) -> int:
    click.echo(f"Error: {message}", err=True)
    if hint:
        click.echo(f"Hint: {hint}", err=True)
    return REFUSED


def _help_hint(err: click.ClickException) -> str:
    context = getattr(err, "ctx", None)
    path = context.command_path if context is not None else "napari-attnseg"
    return f"'{path} --help' lists what is possible."

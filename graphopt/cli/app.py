"""The `graphopt` command: finds its subcommands lazily, and turns every error into one line and an exit code.

Exit codes: 0 the job is done; 1 the job ran and the answer is no (or graphopt itself failed); 2 bad input.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click

from graphopt.errors import GraphoptError
from graphopt.report.text import plain
from graphopt.version import __version__

GC_THRESHOLD = 200_000
"""Allocations between two collections. Start-up makes many objects and no garbage; the default of 700 looks through
them again and again, a tenth of the time that a whole `optimize` takes."""

EXIT_NO = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130

COMMANDS = {
    "optimize": "Search the best plan for a model, apply it and prove the result.",
    "scan": "List every change on offer, and write a plan to edit.",
    "apply": "Apply a plan to its model.",
    "finetune": "Train the weights of a rewritten model, with the original as teacher or with labels.",
    "explain": "Show where each rule fired, and why it did not elsewhere.",
    "estimate": "Estimate latency, memory and traffic of a model on a target.",
    "landscape": "Show which numbers of channels are cheap on a target.",
    "measure": "Learn a target's latencies from measurements, and judge estimates.",
    "verify": "Compare two models on the same inputs.",
    "zoo": "Optimise every model of a folder.",
    "rules": "List, show and check rule cards.",
    "targets": "List and show targets.",
}
"""Subcommands in the order of `--help`, with their short help: listing them imports none of them."""


class LazyGroup(click.Group):
    """A group whose commands are modules of :mod:`graphopt.cli.commands`, imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; ``None`` when there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"graphopt.cli.commands.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; name the nearest ones where there is none."""
        from graphopt.errors import did_you_mean

        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            near = did_you_mean(args[0], COMMANDS) or f" (commands: {', '.join(COMMANDS)})"
            raise click.UsageError(f"no command '{args[0]}'{near}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table, importing none."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(self, args: Sequence[str] | None = None, *_: Any, **__: Any) -> Any:
        """Run, and leave with an exit code. ``--debug`` anywhere before ``--`` lets tracebacks through."""
        arguments = list(sys.argv[1:] if args is None else args)
        options = arguments[: arguments.index("--")] if "--" in arguments else arguments
        sys.exit(self._run(arguments, debug="--debug" in options))

    def _run(self, arguments: list[str], *, debug: bool) -> int:
        try:
            code = super().main(arguments, prog_name="graphopt", standalone_mode=False)
            sys.stdout.flush()
            return code if isinstance(code, int) else 0
        except click.exceptions.Exit as stop:
            return stop.exit_code
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            return EXIT_BAD_INPUT
        except click.ClickException as error:
            return _fail(error, _usage(error), debug)
        except GraphoptError as error:
            return _fail(error, str(error), debug)
        except BrokenPipeError:  # the reader went away (`graphopt ... | head`): nothing is left to say
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return EXIT_NO
        except OSError as error:
            if _while_interrupted(error):
                return _interrupted()
            where = f"{error.filename}: " if error.filename is not None else ""
            return _fail(error, f"{where}{error.strerror or error}", debug)
        except (KeyboardInterrupt, click.Abort):
            return _interrupted()
        except Exception as error:
            if _while_interrupted(error):
                return _interrupted()
            cause = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            _fail(error, f"internal error: {cause} (this is a bug in graphopt; --debug shows where)", debug)
            return EXIT_NO


def _interrupted() -> int:
    """Say that the user stopped it."""
    click.echo("graphopt: interrupted", err=True)
    return EXIT_INTERRUPTED


def _while_interrupted(error: BaseException) -> bool:
    """Whether the error is only what an interrupt left behind: Python's own clean-up of a process that was just being
    started can fail with `Bad file descriptor`, and then hides the interrupt."""
    context = error.__context__
    while context is not None:
        if isinstance(context, KeyboardInterrupt):
            return True
        context = context.__context__
    return False


def _usage(error: click.ClickException) -> str:
    """A usage error as one line that says where the help is."""
    message = error.format_message().rstrip(".")
    context = getattr(error, "ctx", None)
    return f"{message}; try '{context.command_path} --help'" if context is not None else message


def _fail(error: BaseException, message: str, debug: bool) -> int:
    """Print one line (after the traceback, when that is wanted) and return the exit code of bad input."""
    if debug:
        traceback.print_exception(error, file=sys.stderr)
    click.echo(f"graphopt: error: {plain(message)}", err=True)
    return EXIT_BAD_INPUT


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Start with:  graphopt optimize MODEL.onnx      Help on a command:  graphopt COMMAND --help",
)
@click.version_option(__version__, "-V", "--version", prog_name="graphopt", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
def app() -> None:
    """Reshape an ONNX model for the chip that it will run on, and say for every change what it gains and what it costs.

    Exit codes: 0 done; 1 the job ran and the answer is no; 2 bad input (one line on stderr says what).
    """


def main() -> None:
    """Run the command line with the process' arguments, and exit."""
    gc.set_threshold(GC_THRESHOLD)
    app()

"""`kbit` as its user runs it, in this process: a new one would spend its time importing torch."""

import contextlib
import io

from kbit.cli import main


def kbit(*arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:  # argparse
            code = int(end.code or 0)
    return code, out.getvalue(), err.getvalue()

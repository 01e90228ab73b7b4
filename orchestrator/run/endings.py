"""How a command ends: its exit code, and what ended it in one line on standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from orchestrator.errors import InputError, SweepStopped
from orchestrator.run.interrupt import say_interrupted
from quantizers.checkpoint import UnusableModel
from quantizers.plain import plain


def ending(run: Callable[[], int]) -> int:
    """The exit code of `run`: its own; 2 for bad input and for a file, folder or disk that does not
    do; 3 for a database or cluster that is gone; 130 for Ctrl-C."""
    try:
        return run()
    except (InputError, UnusableModel) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except SweepStopped as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt as error:
        return say_interrupted(error)
    except BrokenPipeError:  # e.g. `kbit results | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"error: {plain(error)}", file=sys.stderr)
        return 2

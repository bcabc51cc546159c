"""The parser of every command: the options for scripts, and the exit codes below the help."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from nnunet_difflung import __version__
from nnunet_difflung.runtime.messages import failed, named

_EXIT_CODES = "exit codes: 0 done, 1 failed or problems, 2 refused, {}130 or 143 interrupted (docs/scripting.md)"
JSON, QUIET = "--json", "--quiet"
_OUTPUT = "output"


class CommandParser(argparse.ArgumentParser):
    """The parser of a running command, with ``--json`` and ``--quiet``, in a group that stays the last one.

    Args:
        epilog: text below the options; the exit codes come after it.
        suspicion: when the command ends with exit code 3, for the list of exit codes; empty: never.
        options: further arguments of ``argparse.ArgumentParser``.
    """

    def __init__(self, *, epilog: str | None = None, suspicion: str = "", **options: Any) -> None:
        codes = _EXIT_CODES.format(f"3 {suspicion}, " if suspicion else "")
        super().__init__(epilog="\n\n".join(filter(None, (epilog, codes))), **options)
        named(self.prog.rpartition(" ")[2].rpartition(".")[2])
        group = self.add_argument_group(_OUTPUT)
        group.add_argument(
            JSON,
            action="store_true",
            help="print one JSON object on stdout, and everything else on stderr (default: text)",
        )
        group.add_argument(QUIET, action="store_true", help="show nothing but warnings and errors (default: show all)")
        group.add_argument(
            "--version",
            action="version",
            version=f"%(prog)s (nnunet_difflung {__version__})",
            help="show the version of this package and exit",
        )

    def add_argument_group(self, *args: Any, **options: Any) -> argparse._ArgumentGroup:
        """A new group, above that of the output."""
        group = super().add_argument_group(*args, **options)
        self._action_groups.sort(key=lambda each: each.title == _OUTPUT)
        return group

    def error(self, message: str) -> NoReturn:
        """Prints the message and where the options are listed, and ends the command with exit code 2."""
        failed(message)
        needed = [a for a in self._actions if a.required and a.option_strings]
        usage = " ".join([self.prog, *(f"{a.option_strings[0]} {a.metavar or a.dest.upper()}" for a in needed)])
        self.exit(2, f"usage: {usage} [options]; {self.prog} -h lists them\n{self.prog}: error: {message}\n")


def asks_for(option: str, words: Sequence[str]) -> bool:
    """Whether a command line has a flag, also if it is abbreviated as argparse allows; so before it is parsed."""
    return any(len(word) > 2 and option.startswith(word) for word in words)

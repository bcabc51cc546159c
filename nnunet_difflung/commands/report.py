"""``difflung_report``: writes the report on a method's synthetic cases as one HTML file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_difflung.commands import options as shared
from nnunet_difflung.dataset.raw_dataset import check_dataset
from nnunet_difflung.runtime.console import command
from nnunet_difflung.runtime.messages import report, say, stage, warn
from nnunet_difflung.runtime.wording import quoted

if TYPE_CHECKING:
    from nnunet_difflung.pipeline.request import Request

_DESCRIPTION = """
Writes what difflung_augment did to a dataset as one HTML file that opens in any browser, without a network, and can be
sent by mail: verdicts on what to look at, class shares, real next to synthetic lesions, intensities, texture, dropped
cases with their reasons, the audit, the next commands and a methods paragraph. difflung_augment writes it too; this
command writes it again, elsewhere, or without the ids of real cases.
"""
_EXAMPLE = """
difflung_report -d 801
difflung_report -d 801 --anonymous -o report.html
"""


def parser() -> argparse.ArgumentParser:
    """The command's parser."""
    p = shared.command_parser("difflung_report", _DESCRIPTION, _EXAMPLE)
    group = p.add_argument_group("run")
    shared.add_dataset(group)
    shared.add_method_on_record(group, "cases")
    shared.add_configuration(
        group, "for the next commands in the report", otherwise="as difflung_augment recorded it, else 2d"
    )
    group.add_argument(
        "-device",
        choices=shared.DEVICES,
        help="device for the next commands in the report (default: as difflung_augment recorded it, else cuda)",
    )
    group.add_argument(
        "-o",
        dest="out",
        type=Path,
        metavar="FILE",
        help="HTML file to write (default: report.html in the method's folder in $nnUNet_results)",
    )
    group.add_argument(
        "--anonymous",
        action="store_true",
        help="replace the names of real cases and patients by numbers (default: show the ids of real cases)",
    )
    shared.add_labels_and_patients(p)
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the command line."""
    options = parser().parse_args(arguments)
    check_dataset(options.dataset, options.normal_label, options.structure_label)

    from nnunet_difflung.report.page import write_report
    from nnunet_difflung.report.request import method_on_record

    raw = shared.opened(options)
    method = method_on_record(raw.name, options.method)
    path = write_report(
        raw, method, options.out, options.configuration, options.device, options.anonymous, progress=True
    )
    report(dataset=raw.name, html=path)
    say(f"Report: {path}")
    return 0


def report_on(request: Request) -> None:
    """Writes the report of what a request has added; a report that cannot be written spoils nothing."""
    from nnunet_difflung.pipeline.augment import raw_of
    from nnunet_difflung.report.page import write_report

    method = request.settings.method
    try:
        with stage("writing the report"):
            raw = raw_of(request)
            path = write_report(raw, method, None, request.configuration, request.device, progress=True)
    except Exception as error:  # the work is done, or its own error counts; this is only a look at it
        again = quoted("difflung_report", "-d", request.dataset, "--method", method)
        warn(f"no report was written ({type(error).__name__}: {error}); try '{again}'")
        return
    report(html=path)
    say(f"Report: {path}; look at it before you train")
    if raw.reading.warning:  # what is far above may have scrolled away
        say(raw.reading.lines()[0], log=False)


entry = command(main)

if __name__ == "__main__":
    entry()

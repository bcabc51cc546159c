"""``difflung_report``: writes the report on a method's synthetic cases as one HTML file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_difflung.commands import options as shared
from nnunet_difflung.config import METHOD
from nnunet_difflung.dataset.raw_dataset import check_dataset, open_raw_dataset
from nnunet_difflung.methods import METHODS
from nnunet_difflung.runtime.console import command
from nnunet_difflung.runtime.messages import report, say, warn
from nnunet_difflung.runtime.wording import quoted

if TYPE_CHECKING:
    from nnunet_difflung.pipeline.request import Request

_DESCRIPTION = """
Writes what difflung_augment did to a dataset as one HTML file that opens in any browser, without a network, and can be
sent by mail: verdicts on what to look at, class shares, real beside synthetic lesions, intensities, texture, dropped
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
    group.add_argument(
        "--method",
        choices=METHODS,
        metavar="METHOD",
        help=f"method whose cases are shown, of {', '.join(METHODS)} (default: {METHOD}, or the only one with cases)",
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
        help="call real cases and patients by numbers (default: show the ids of real cases)",
    )
    labels = p.add_argument_group("labels and patients, as for difflung_augment")
    shared.add_labels(labels)
    shared.add_patients(labels)
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the command line."""
    options = parser().parse_args(arguments)
    check_dataset(options.dataset, options.normal_label, options.structure_label)

    from nnunet_difflung.report.page import write_report
    from nnunet_difflung.report.request import method_on_record

    raw = shared.opened(options)
    method = method_on_record(raw.name, options.method)
    path = write_report(raw, method, options.out, anonymous=options.anonymous, progress=True)
    report(dataset=raw.name, html=path)
    say(f"Report: {path}")
    return 0


def report_on(request: Request) -> None:
    """Writes the report of what a request has added; a report that cannot be written spoils nothing."""
    from nnunet_difflung.report.page import write_report

    raw = open_raw_dataset(
        request.dataset,
        request.normal_labels,
        request.structure_labels,
        request.patient_pattern,
        request.patients_file,
    )
    method = request.settings.method
    try:
        path = write_report(raw, method, None, request.configuration, request.device, progress=True)
    except Exception as error:  # the cases are in the dataset, and this is only a look at them
        again = quoted("difflung_report", "-d", raw.name, "--method", method)
        warn(f"no report was written ({type(error).__name__}: {error}); try '{again}'")
        return
    report(html=path)
    say(f"Report: {path}")
    if raw.reading.warning:  # what is far above may have scrolled away
        say(raw.reading.lines()[0], log=False)


entry = command(main)

if __name__ == "__main__":
    entry()

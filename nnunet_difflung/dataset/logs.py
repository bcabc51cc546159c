"""Where the commands on a dataset keep their logs."""

from __future__ import annotations

import os
from pathlib import Path

from nnunet_difflung.dataset.privacy import as_private_as
from nnunet_difflung.paths import NNUNET_RESULTS, dataset_folders, logs_folder
from nnunet_difflung.runtime.messages import no_log, open_log
from nnunet_difflung.runtime.modes import make_folder


def keep_log(name: str) -> None:
    """Begins the command's log in the dataset's folder in ``$nnUNet_results``, where that folder exists.

    The log is readable by nobody who cannot read the dataset.

    Args:
        name: ``DatasetXXX_NAME``.
    """
    results = Path(os.environ.get(NNUNET_RESULTS) or os.devnull, name)
    if not results.is_dir():
        return
    with as_private_as(dataset_folders(name)[0]):
        folder = logs_folder(name)
        try:
            if not folder.is_dir():
                make_folder(folder, results)
        except FileExistsError:  # another command has just made it, or it is no folder, which the next line says
            pass
        except OSError as error:
            no_log(error, folder)
            return
        open_log(folder)

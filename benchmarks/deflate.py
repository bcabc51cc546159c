"""How long does SimpleITK take to write a compressed NIfTI file, against a faster deflate of the same bytes?

The volume is noise in HU with air and tissue beside it, --size² × 60. The reference writes the file uncompressed and
deflates it with ``isal`` (Intel's library), which this package does not need: ``pip install isal`` for this script.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import SimpleITK as sitk

from benchmarks.timing import alternating, parser, row, write_rows


def main() -> None:
    """Entry of the command line."""
    o = parser(__doc__, 512).parse_args()
    try:
        from isal import igzip
    except ImportError:
        raise SystemExit("isal is missing: pip install isal") from None
    rng, n = np.random.default_rng(0), o.size
    values = rng.normal(-850, 40, (60, n, n))
    values[:, : n // 5] = -1000
    values[:, -n // 5 :] = rng.normal(40, 10, values[:, -n // 5 :].shape)
    image = sitk.GetImageFromArray(values.astype(np.int16))
    with TemporaryDirectory() as folder:
        ours, plain, deflated = (Path(folder) / name for name in ("ours.nii.gz", "plain.nii", "other.nii.gz"))

        def other() -> None:
            sitk.WriteImage(image, str(plain), False)
            deflated.write_bytes(igzip.compress(plain.read_bytes(), 1))

        times = alternating(lambda: sitk.WriteImage(image, str(ours), True), other, o.repeats)
        sizes = [file.stat().st_size for file in (ours, deflated)]
        voxels = values.size
    rates = [[voxels / 1e6 / t for t in of] for of in times]
    name, quality = f"compressed NIfTI, {n}² × 60, SimpleITK against isal", {"bytes": sizes}
    write_rows(o.output, [row(name, *rates, "million voxels/s", o.device, quality)])


if __name__ == "__main__":
    main()

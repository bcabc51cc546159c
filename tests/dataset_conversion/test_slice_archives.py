"""Archives of slices: stored values and spacing."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_difflung.dataset_conversion.archive.options import ArchiveOptions
from nnunet_difflung.dataset_conversion.archive.slices import find_sources
from nnunet_difflung.errors import BadInput
from tests.support.archives import write_slices


@pytest.mark.parametrize(("ending", "dtype"), [("png", np.uint16), ("tif", np.uint16), ("tif", np.float32)])
def test_stored_values_are_kept_beyond_int16_and_between_whole_numbers(tmp_path, ending, dtype):
    from skimage import io

    pixels = np.linspace(0, 60000, 16 * 12).reshape(16, 12).astype(dtype) + dtype(0.25)
    for part, array in (("images", pixels), ("masks", (pixels > 30000).astype(np.uint8))):
        (tmp_path / part).mkdir()
        for z in range(2):
            io.imsave(tmp_path / part / f"p1_s{z}.{ending}", array, check_contrast=False)
    ((source,), _) = find_sources(tmp_path, ArchiveOptions(pixel_spacing=0.7))
    image = source.load().image
    assert (sitk.GetArrayFromImage(image) == pixels).all()
    assert image.GetSpacing() == (0.7, 0.7, 1.0)


def test_an_image_of_1_bit_among_grey_ones_is_refused(tmp_path):
    from PIL import Image

    write_slices(tmp_path, patients=1, slices=3)
    path = tmp_path / "images" / "p1_s01.png"
    Image.open(path).convert("1").save(path)
    ((source,), _) = find_sources(tmp_path, ArchiveOptions(pixel_spacing=0.7))
    with pytest.raises(BadInput, match=r"p1_s01\.png: a picture of 1 bit.*grey values"):
        source.load()

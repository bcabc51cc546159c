"""The mapping that ``--list`` writes: how normal lung is to be found."""

from __future__ import annotations

import pytest
import yaml

from nnunet_difflung.dataset_conversion.pipeline.listing import first_mapping, listing_table
from nnunet_difflung.dataset_conversion.pipeline.mapping import parse_mapping
from nnunet_difflung.dataset_conversion.sources import Listing

HU, WINDOW = (-1024.0, 900.0), (0.0, 255.0)


@pytest.mark.parametrize(
    ("structures", "intensities", "lung"),
    [
        (("GTV",), [HU], "threshold"),
        (("GTV",), [HU, WINDOW], "threshold"),
        (("GTV",), [WINDOW], "none"),
        (("GTV", "Left Lung"), [HU], "none"),
        (("GTV", "healthy"), [HU], "none"),
        (("GTV", "Lungs"), [WINDOW], "none"),
    ],
)
def test_lung_is_searched_in_hu_where_nobody_drew_it(structures, intensities, lung):
    listings = [
        Listing(f"p{k}", (), (1, 1, 1), (1.0, 1.0, 1.0), "", intensity, structures)
        for k, intensity in enumerate(intensities)
    ]
    content = yaml.safe_load(first_mapping(listings))
    mapping = parse_mapping(content)
    assert content["lung"] == lung
    assert ("normal_lung" in mapping.labels) == (lung != "none" or len(structures) > 1)
    assert mapping.rule_of("GTV").label == "tumour"


def test_a_patient_who_cannot_be_read_has_no_size_in_the_table():
    table = listing_table("1 patient", [Listing("p1", (), (0, 0, 0), (0.0, 0.0, 0.0), "", (0.0, 0.0), (), ("broken",))])
    assert "0×0×0" not in table
    assert "problem: broken" in table

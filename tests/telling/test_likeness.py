"""What is said of how like real masks the planned ones are."""

from __future__ import annotations

from nnunet_difflung.telling.likeness import describe_likeness, differing


def row(auc: float, alike: bool | None) -> dict:
    return {"auc": auc, "limit": 0.1, "alike": alike, "planned": 0.3512, "real": 0.05}


def test_figures_outside_the_limit_are_a_warning_each_and_one_after_painting():
    likeness = {
        "ILD": {"depth": row(0.52, True), "share_of_lung": row(0.93, False)},
        "emphysema": {"count": row(0.8, None)},
    }
    alike, warning, unjudged, advice = describe_likeness(likeness)
    assert "masks of ILD are like real ones in depth below the pleura 0.52 (AUC" in alike
    assert "Warning: masks of ILD differ from real ones in share of a slice's lung: 0.351" in warning
    assert "in training cases 0.05" in warning
    assert "AUC 0.93, expected 0.40 to 0.60" in warning
    assert "number in a slice 0.80 (not judged: too few cases)" in unjudged
    assert "could learn the difference" in advice
    (after,) = differing(likeness)
    assert after.startswith("  Warning: masks of ILD differ from real ones in share of a slice's lung")
    likeness["ILD"].pop("share_of_lung")
    assert len(describe_likeness(likeness)) == 2, "without a warning there is nothing to advise"

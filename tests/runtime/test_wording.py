"""Numbers with their nouns."""

from nnunet_difflung.runtime.wording import counted


def test_one_is_singular():
    assert [counted(n, "case") for n in range(3)] == ["0 cases", "1 case", "2 cases"]

"""Well names and plate formats."""

import pytest

from deepnoise.wells import all_wells, normalize_well, parse_well, plate_format_of


@pytest.mark.parametrize(
    ("given", "canonical"), [("A1", "A01"), ("a01", "A01"), ("r02c03", "B03"), ("AF48", "AF48"), ("R1C12", "A12")]
)
def test_well_names_are_normalized(given, canonical):
    assert normalize_well(given) == canonical


def test_every_well_of_a_plate_parses_to_its_row_and_column():
    names = all_wells(384)
    assert len(names) == 384
    assert [parse_well(name) for name in names] == [(r, c) for r in range(16) for c in range(24)]


@pytest.mark.parametrize("bad", ["Z99", "", "A0", "AG01", "A49", "B3x", "BA01"])
def test_an_invalid_well_name_is_refused(bad):
    with pytest.raises(ValueError, match=f"'{bad}' is not a well: expected A01 to AF48"):
        normalize_well(bad)


def test_plate_format_is_the_smallest_that_fits():
    assert plate_format_of(["A01", "H12"]) == 96
    assert plate_format_of(["P24"]) == 384
    assert plate_format_of(["AF48"]) == 1536

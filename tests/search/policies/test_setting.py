"""Settings: what they check, how they are written, which combinations there are."""

import pytest

from jaxcompress.search.policies import Channels, Setting, settings
from jaxcompress.search.policies.setting import setting_of


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"bits": 9}, "bits must be an integer from 1 to 8, got 9"),
        ({"bits": True}, "bits must be an integer"),
        ({"bits": 4, "levels": 16}, "exclude each other"),
        ({"levels": 1}, "levels must be an integer from 2"),
        ({"sparsity": 1.0}, r"sparsity must be in \[0, 1\), got 1.0"),
        ({"sparsity": float("nan")}, "sparsity must be"),
        ({"rank": 0}, "rank must be"),
        ({"rank": 1.5}, "rank must be"),
        ({"rank": "4"}, "rank must be .*got '4'"),
        ({"sparsity": "0.5"}, "sparsity must be .*got '0.5'"),
        ({"granularity": "row"}, "granularity must be one of"),
    ],
)
def test_settings_out_of_range_are_refused(fields, told):
    with pytest.raises(ValueError, match=told):
        Setting(**fields)


@pytest.mark.parametrize("kept", [0.0, 1.5, True, float("nan")])
def test_channels_out_of_range_are_refused(kept):
    with pytest.raises(ValueError, match="kept must be a fraction"):
        Channels(kept)


def test_counts_of_channels_are_multiples_and_never_none():
    assert [Channels(kept, round_to=8).count(20) for kept in (1.0, 0.5, 0.01)] == [20, 16, 8]
    assert Channels(0.01).count(20) == 1


def test_combinations_leave_out_what_excludes_each_other():
    found = settings(bits=(None, 4), levels=(None, 16), sparsity=(0.0, 0.5))
    assert Setting(bits=4, sparsity=0.5) in found
    assert Setting(levels=16) in found
    assert len(found) == 6
    assert Setting().nothing
    assert found[0] == Setting()


def test_dicts_are_settings():
    assert setting_of({"bits": 3, "sparsity": 0.5}) == Setting(bits=3, sparsity=0.5)
    assert setting_of({"kept": 0.5}) == Channels(0.5)
    with pytest.raises(TypeError, match=r"\['bit'\] are no fields of a Setting"):
        setting_of({"bit": 3})
    with pytest.raises(TypeError, match="a setting is a Setting"):
        setting_of(4)

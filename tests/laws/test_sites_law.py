"""`sites` reads every weight of every model of the zoo as the zoo says it is used."""

import pytest

from jaxcompress.core.sites import sites
from tests.zoo import ENTRIES


def letters(site):
    """The roles of a site's axes as the zoo writes them."""
    roles = {"s": site.stack, "i": site.contracting, "o": site.output, "l": site.lookup}
    return "".join(
        next((letter for letter, axes in roles.items() if axis in axes), "?") for axis in range(len(site.shape))
    )


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_axes_mean_what_the_model_does(entry, request):
    if "data" in entry.tags:
        request.getfixturevalue("data_folder")
    model = entry.model
    with entry.context():
        found = sites(model.fn, model.params, *model.inputs, **model.kwargs)
    assert set(found.weights()) == set(model.weights)
    for path, readings in model.weights.items():
        seen = {letters(site) for site in found.at(path) if site.contracting or site.lookup}
        assert seen == set(readings.split("/")), (path, found)
        product = next((reading for reading in readings.split("/") if "i" in reading), readings)
        assert found.axes(path)[0] == tuple(axis for axis, letter in enumerate(product) if letter == "s")

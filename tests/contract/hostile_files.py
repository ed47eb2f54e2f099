"""Files that mean harm, or look as if: made here, so that everybody can read what is in them."""

from __future__ import annotations

from tests.contract.hostile.bombs import bombs, strange_sizes
from tests.contract.hostile.cuts import cut_films, cut_pictures
from tests.contract.hostile.disguises import disguises
from tests.contract.hostile.files import HostileFile
from tests.contract.hostile.metadata import bad_metadata
from tests.contract.hostile.motion import animations, bad_films


def hostile_files() -> dict[str, HostileFile]:
    """The whole set, by readable names."""
    return {
        **cut_pictures(),
        **cut_films(),
        **bombs(),
        **strange_sizes(),
        **bad_metadata(),
        **disguises(),
        **animations(),
        **bad_films(),
    }

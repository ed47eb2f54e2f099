"""The type faces of the drawings: pinned PyPI font packages plus the face built into Pillow."""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

BUILT_IN = "Aileron"
FACES: dict[str, tuple[str, str]] = {
    "SourceSans": ("font_source_sans_pro", "SourceSansPro-Semibold.ttf"),
    "HankenGrotesk": ("font_hanken_grotesk", "HankenGrotesk-Bold.otf"),
    "Fredoka": ("font_fredoka_one", "FredokaOne-Regular.ttf"),
    "Caladea": ("font_caladea", "Caladea-Bold.ttf"),
    "SourceSerif": ("font_source_serif_pro", "SourceSerifPro-Semibold.ttf"),
}
FONT_NAMES = ("SourceSans", "HankenGrotesk", BUILT_IN, "Fredoka", "Caladea", "SourceSerif")


@lru_cache(maxsize=512)
def load_font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """The face `name` at `size` pixels; raises ModuleNotFoundError when its font package is not installed."""
    if name == BUILT_IN:
        font = ImageFont.load_default(size)
        if not isinstance(font, ImageFont.FreeTypeFont):
            raise ModuleNotFoundError("Pillow was built without FreeType; its own face cannot be scaled")
        return font
    package, file = FACES[name]
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"font package {package} is not installed; install the 'nano' extra")
    return ImageFont.truetype(str(Path(spec.origin).parent / "files" / file), size)

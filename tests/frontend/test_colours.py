"""Every colour of text on every ground it stands on, by WCAG 2.2's contrast ratio."""

import re
from pathlib import Path

import pytest

STYLE = Path(__file__).parents[2] / "scoreboardd" / "frontend" / "style.css"
GROUNDS = ("ground", "panel", "raised")
TEXTS = ("text", "dim", "accent", "blood", "gold", "silver", "bronze", "warn")
GRAPHICS = ("mark", "blood", *(f"s{number}" for number in range(10)))
TEXT, GRAPHIC = 4.5, 3.0


def palette() -> dict[str, tuple[str, str]]:
    """Each colour in light and in dark."""
    found = re.findall(r"--([a-z0-9]+): light-dark\((#[0-9a-f]+), (#[0-9a-f]+)\);", STYLE.read_text())
    return {name: (light, dark) for name, light, dark in found}


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4))
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_contrast_is_measured_as_it_should_be() -> None:
    assert contrast("#000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#fff") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("ground", GROUNDS)
def test_text_and_graphics_stand_out(scheme: int, ground: str) -> None:
    colours = {name: pair[scheme] for name, pair in palette().items()}
    for names, least in ((TEXTS, TEXT), (GRAPHICS, GRAPHIC)):
        for name in names:
            assert contrast(colours[name], colours[ground]) >= least, f"{name} on {ground}"

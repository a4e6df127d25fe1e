"""A colour for every class."""

from __future__ import annotations

import colorsys

_GOLDEN = 0.618034  # turns between hues: any number of classes stays apart


def palette(num_classes: int) -> list[tuple[int, int, int]]:
    """Returns a colour for every class, red, green and blue from 0 to 255; ignored pixels are black everywhere."""
    colours = []
    for k in range(num_classes):
        rgb = colorsys.hsv_to_rgb(k * _GOLDEN % 1.0, (0.55, 0.85)[k % 2], (0.95, 0.7)[k // 2 % 2])
        colours.append((round(255 * rgb[0]), round(255 * rgb[1]), round(255 * rgb[2])))
    return colours

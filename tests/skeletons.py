"""OpenPose skeletons as their editors paint them."""

import colorsys

from PIL import Image, ImageDraw

from seal_ext.core.skeleton import BONES

# A person from the front, arms and legs a little spread: x and y in shares of a canvas.
STANDING = {0: (0.5, 0.2), 1: (0.5, 0.32), 2: (0.42, 0.33), 3: (0.34, 0.44), 4: (0.28, 0.55), 5: (0.58, 0.33), 6: (0.66, 0.44),
            7: (0.72, 0.55), 8: (0.45, 0.6), 9: (0.43, 0.75), 10: (0.42, 0.9), 11: (0.55, 0.6),
            12: (0.57, 0.75), 13: (0.58, 0.9)}  # fmt: skip


def colour(number, brightness):
    return tuple(round(255 * level) for level in colorsys.hsv_to_rgb(number / 18, 1.0, brightness))


def painted(joints=STANDING, size=(128, 128), scale=1.0, shift=(0.0, 0.0), mode="RGB"):
    """Joints in shares of the canvas, scaled and moved, on black; with an alpha channel on nothing."""
    places = {joint: tuple((at * scale + by) * side for at, by, side in zip(place, shift, size, strict=True))
              for joint, place in joints.items()}  # fmt: skip
    image = Image.new(mode, size)
    draw, opaque, thick = ImageDraw.Draw(image), (255,) * (mode == "RGBA"), max(2, round(min(size) / 40))
    for number, (a, b) in enumerate(BONES):
        if a in places and b in places:
            draw.line([places[a], places[b]], colour(number, 0.6) + opaque, thick)
    for joint, (x, y) in places.items():
        draw.ellipse([x - thick, y - thick, x + thick, y + thick], colour(joint, 1.0) + opaque)
    return image

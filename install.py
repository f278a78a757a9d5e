"""Looks whether the packages that SeAl runs on are there. It installs nothing: a WebUI brings them all, in the versions it wants."""

from importlib.util import find_spec

# What is imported, and the package it comes from.
NEEDED = {"torch": "torch", "numpy": "numpy", "cv2": "opencv-python", "einops": "einops", "PIL": "Pillow"}


def missing() -> list[str]:
    return [package for module, package in NEEDED.items() if find_spec(module) is None]


if __name__ == "__main__" and (packages := missing()):
    print(f"SeAl needs {' and '.join(packages)}, which a WebUI usually brings. Install it in the WebUI's Python, and SeAl will run. "
          "SeAl does not install it by itself, because that could change the versions of other packages.")  # fmt: skip

"""Looks whether the packages that SeAl runs on are there. It installs nothing: a WebUI brings them all, in the versions it wants."""

from importlib.util import find_spec

# What is imported, and the package it comes from.
NEEDED = {"torch": "torch", "numpy": "numpy", "cv2": "opencv-python", "einops": "einops", "PIL": "Pillow"}


def missing() -> list[str]:
    return [package for module, package in NEEDED.items() if find_spec(module) is None]


if __name__ == "__main__" and (packages := missing()):
    print(f"SeAl needs {' and '.join(packages)}, which a WebUI usually brings, and will not run before that is installed there. "
          "SeAl does not install it, because that could change the version of other packages.")  # fmt: skip

"""A model's trunk with its heads as a picture: SVG, PNG, or an HTML page to look around in."""

from classy_vision.cost.picture.write import SUFFIXES, check_picture, draw

__all__ = ["SUFFIXES", "check_picture", "draw"]

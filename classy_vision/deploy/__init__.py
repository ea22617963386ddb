"""Shipping a model: quicker, and in the forms that others run."""

from classy_vision.deploy.optimize import Optimized, optimize

__all__ = ["Optimized", "optimize"]

"""Layers that more than one family of backbones is made of."""

"""Models as folders and repositories of the Hugging Face hub: config, weights and a card."""

from typing import TYPE_CHECKING

from classy_vision.hub.load import from_pretrained
from classy_vision.hub.save import push_to_hub, save_pretrained
from classy_vision.removed import names_gone

__all__ = ["from_pretrained", "push_to_hub", "save_pretrained"]

if not TYPE_CHECKING:
    __getattr__ = names_gone(__name__)

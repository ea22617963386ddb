"""Models as folders and repositories of the Hugging Face hub: config, weights and a card."""

from classy_vision.hub.load import from_pretrained
from classy_vision.hub.save import push_to_hub, save_pretrained

__all__ = ["from_pretrained", "push_to_hub", "save_pretrained"]

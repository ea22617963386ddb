"""Weights in and out of a model, in our layout and the original's."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor
from torch.nn.modules.module import _IncompatibleKeys

from classy_vision.config import ConfigError
from classy_vision.trunk.headed_trunk import HeadedTrunk
from classy_vision.trunk.undo import all_or_nothing
from classy_vision.weights.classy_vision import to_native
from classy_vision.weights.fitting import Fitting
from classy_vision.weights.key_map import KeyMap
from classy_vision.weights.layout import Layouts
from classy_vision.weights.shapes import FamilyShapes
from classy_vision.weights.state import check_fit, head_of


class LoadableTrunk(HeadedTrunk):
    """A trunk with heads that gives and takes its weights, whole or not at all."""

    layouts: ClassVar[Layouts] = {}
    """How other libraries name the family's weights, by library."""

    shapes: ClassVar[FamilyShapes | None] = None
    """How the family's configs are read from the shapes of tensors; None where they cannot be."""

    optional_keys: ClassVar[frozenset[str]] = frozenset()
    """Keys that some models of the family have and others do not."""

    def key_map(self) -> KeyMap | None:
        """The trunk's names in the original's layout; None where they are ours."""
        layout = self.layouts.get("classy_vision")
        return layout.key_map("ClassyVision", self.config, ()) if layout else None

    def foreign_key_maps(self) -> dict[str, KeyMap]:
        """The names of other libraries, by library; those of the head at the end begin with ``head``."""
        blocks = list(self.blocks) if "blocks" in self._modules else []
        layouts = {name: layout for name, layout in self.layouts.items() if name != "classy_vision"}
        return {name: layout.key_map(name, self.config, blocks) for name, layout in layouts.items()}

    def get_classy_state(self, deep_copy: bool = False) -> dict[str, Any]:
        """The state in the original's layout: {"model": {"trunk": ..., "heads": ...}}.

        Tensors are the model's own unless ``deep_copy`` is set.
        """
        key_map = self.key_map()
        trunk: dict[str, Tensor] = {}
        heads: dict[str, dict[str, dict[str, Tensor]]] = {
            block: {head.unique_id: {} for head in entries} for block, entries in self.get_heads().items()
        }
        for key, value in sorted(self.state_dict().items(), key=lambda entry: head_of(entry[0]) or ""):
            if head_of(key) and not (key_map and key_map.to_theirs(key)):
                _, block, head, rest = key.split(".", 3)
                heads[block][head][rest] = value
            else:
                trunk[key] = value
        classy = {"model": {"trunk": key_map.save(trunk) if key_map else trunk, "heads": heads}}
        return copy.deepcopy(classy) if deep_copy else classy

    def set_classy_state(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Loads a classy state, or raises and changes nothing.

        Heads that the state does not hold keep their weights.

        Args:
            state: a classy state or a checkpoint of the original, in any of its layouts.
            strict: False lets trunk keys be missing or left over.

        Raises:
            ConfigError: keys or shapes are not the model's.
        """
        native = self._to_native(state, strict)
        given = {head_of(key) for key in native}
        own = {k: v for k, v in self.state_dict().items() if head_of(k) and head_of(k) not in given}
        self.load_state_dict({**own, **native}, strict)

    def load_head_states(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Loads the heads of a classy state, and nothing else, or raises and changes nothing.

        Raises:
            ConfigError: heads, keys or shapes that are not the model's.
        """
        heads = {key: value for key, value in self._to_native(state).items() if head_of(key)}
        if not heads:
            raise ConfigError("the state holds no heads")
        trunk = {key: value for key, value in self.state_dict().items() if not head_of(key)}
        self.set_classy_state({**trunk, **heads}, strict)

    def load_trunk_state(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Loads the trunk of a state, whatever heads it holds, or raises and changes nothing.

        Raises:
            ConfigError: keys or shapes that are not the trunk's.
        """
        trunk = {key: value for key, value in self._to_native(state, strict).items() if not head_of(key)}
        heads = {key: value for key, value in self.state_dict().items() if head_of(key)}
        self.load_state_dict({**trunk, **heads}, strict)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> _IncompatibleKeys:
        """As in torch, but all or nothing, and with the original's layouts understood.

        Also where the memory does not suffice or an interrupt comes while numbers are copied: all are put
        back then. For that a copy of the model's numbers is held meanwhile, on the CPU where its device
        has no room for it. Parameters stay the same objects in the same memory, unless ``assign`` is set.

        Raises:
            ConfigError: keys or shapes are not the model's; the message names the first few.
        """
        native = self._to_native(state_dict, strict)
        check_fit(self.state_dict(), native, strict, assign, type(self).__name__)
        with all_or_nothing(self, values=not assign):
            return super().load_state_dict(native, strict, assign)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Understands the original's layouts also where the model is part of another module."""
        mine = {k: v for k, v in state_dict.items() if k.startswith(prefix)} if prefix else {}
        if mine:
            native = self._to_native({k[len(prefix) :]: v for k, v in mine.items()}, strict=False)
            for key in mine:
                del state_dict[key]
            state_dict.update({prefix + key: value for key, value in native.items()})
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _to_native(self, state: Mapping[str, Any], strict: bool = True) -> dict[str, Any]:
        return self.fit(self._rename(state, strict), Fitting())

    def _rename(self, state: Mapping[str, Any], strict: bool = True) -> dict[str, Any]:
        return to_native(state, self.key_map(), {k for k in self.state_dict() if not head_of(k)}, strict)

    def fit(self, native: dict[str, Any], fitting: Fitting) -> dict[str, Any]:
        """Makes weights by our names fit this model, where the family knows how: positions, kernels.

        Args:
            native: by our names.
            fitting: how, where the caller has a choice; what was done is noted there.
        """
        return native

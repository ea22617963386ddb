"""The models of all libraries with the same weights, and what is timed of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

NATIVE_BF16 = any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16"))
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16} if NATIVE_BF16 else {"fp32": torch.float32}
"""The types that this processor has instructions for; nothing is timed in others."""
LEFT_OUT = [] if NATIVE_BF16 else ["bf16 is left out: this processor has no instructions for it"]
"""What the output says of it."""


class Names(NamedTuple):
    """What our model is called elsewhere."""

    torchvision: str | None = None
    timm: str | None = None
    pytorchvideo: str | None = None


NAMES = {
    **{name: Names(name, name) for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")},
    **{name: Names(name, name) for name in ("resnext50_32x4d", "resnext101_32x8d")},
    "regnet_y_1.6gf": Names("regnet_y_1_6gf", "regnety_016"),
    "regnet_y_32gf": Names("regnet_y_32gf", "regnety_320"),
    **{name: Names(name, name) for name in ("densenet121", "densenet169", "densenet201")},
    **{name: Names(name, name) for name in (f"efficientnet_b{i}" for i in (0, 2, 4, 7))},
    "vit_b_16": Names("vit_b_16", "vit_base_patch16_224"),
    "vit_b_32": Names("vit_b_32", "vit_base_patch32_224"),
    "vit_l_16": Names("vit_l_16", "vit_large_patch16_224"),
    "vit_l_32": Names("vit_l_32", "vit_large_patch32_224"),
    "timm/vit_small_patch16_dinov3.lvd1689m": Names(None, "vit_small_patch16_dinov3"),
    "timm/vit_base_patch16_siglip_224.v2_webli": Names(None, "vit_base_patch16_siglip_224"),
    "slow_r50": Names(None, None, "slow_r50"),
}
MODELS = (
    "resnet50",
    "resnext50_32x4d",
    "regnet_y_1.6gf",
    "densenet121",
    "efficientnet_b0",
    "vit_b_16",
    "slow_r50",
)
"""Those of most tables."""
LOGITS = {
    "name": "fully_convolutional_linear",
    "unique_id": "action",
    "num_classes": 400,
    "fork_block": "trunk_output",
    "activation_func": "identity",
}
CLIP = (3, 8, 224, 224)


def builders(name: str, size: int = 224) -> dict[str, Callable[[], nn.Module]]:
    """Each library's call that makes the model, for images of ``size`` pixels; ours comes first."""
    from benchmarks.peers import timm, torchvision
    from classy_vision.models import build_model

    names = NAMES[name]
    options: dict[str, Any] = {"heads": [LOGITS]} if names.pytorchvideo else {"num_classes": 1000}
    if name.startswith("efficientnet"):
        options["bn_epsilon"] = 1e-5  # as the peers
    of_torchvision: dict[str, Any] = {}
    of_timm: dict[str, Any] = {"num_classes": 1000}  # some of its models have no classifier otherwise
    if name.startswith("vit") and size != 224:
        options["image_size"] = of_torchvision["image_size"] = of_timm["img_size"] = size
    calls: dict[str, Callable[[], nn.Module]] = {"ours": partial(build_model, name, **options)}
    if names.torchvision:
        calls["torchvision"] = partial(torchvision.models.get_model, names.torchvision, **of_torchvision)
    if names.timm:
        calls["timm"] = partial(timm.create_model, names.timm, **of_timm)
    if names.pytorchvideo:
        calls["pytorchvideo"] = partial(_of_pytorchvideo, names.pytorchvideo)
    return calls


def _of_pytorchvideo(name: str) -> nn.Module:
    import pytorchvideo.models.hub

    model = getattr(pytorchvideo.models.hub, name)(pretrained=False, model_num_class=400)
    model.blocks[-1].pool, model.blocks[-1].activation = nn.AdaptiveAvgPool3d(1), None
    return model


def models(name: str, size: int = 224) -> Iterator[tuple[str, nn.Module]]:
    """(library, model) in evaluation, all with the same weights; ours comes first."""
    from classy_vision.trunk.saving import to_layout

    calls = builders(name, size)
    ours = calls.pop("ours")().eval()
    _wear(ours)
    yield "ours", ours
    for library, build in calls.items():
        theirs = build()
        theirs.load_state_dict(to_layout(ours, library))
        yield library, theirs.eval()


def _wear(model: nn.Module) -> None:
    """Weights of all sizes, such that a network does not magnify rounding, as trained ones do not."""
    torch.manual_seed(0)
    for key, value in model.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.7, 1.3)
        elif key.endswith("running_mean"):
            value.normal_(0, 0.1)
        elif key.endswith("norm.weight"):
            value.normal_(1, 0.3)
        elif key.endswith("norm.bias"):
            value.normal_(0, 0.3)
        elif key.startswith("heads.") and value.dim() == 2:
            value.normal_(0, 0.02)


def images(name: str, batch: int, size: int = 224) -> Tensor:
    """Random images, or clips."""
    return torch.randn(batch, *(CLIP if name == "slow_r50" else (3, size, size)))


def channels_last(x: Tensor) -> torch.memory_format:
    return torch.channels_last_3d if x.dim() == 5 else torch.channels_last


def training_step(model: nn.Module, mode: str, x: Tensor, target: Tensor) -> Callable[[], None]:
    """Forward, cross entropy, backward and fused SGD with momentum; nothing is dropped at random, since
    libraries differ in how much they drop.

    Args:
        model: trained in place.
        mode: "plain", or "channels last" and "compiled" (which is with channels last), both also
            with ", bf16" behind them, for mixed precision.
        x: the inputs.
        target: their classes.
    """
    layout = torch.contiguous_format if mode == "plain" else channels_last(x)
    model, x = model.train().to(memory_format=layout), x.to(memory_format=layout)
    for part in model.modules():
        if type(part).__name__ in ("Dropout", "DropPath", "StochasticDepth"):
            part.eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, fused=True)
    call = torch.compile(model) if mode.startswith("compiled") else model

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=mode.endswith("bf16")):
            loss = F.cross_entropy(call(x).float(), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    return step

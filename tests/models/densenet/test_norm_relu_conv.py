"""The function gives what its modules give, and keeps less."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from classy_vision.models.densenet import norm_relu_conv as tested
from classy_vision.models.densenet.norm_relu_conv import norm_relu_conv
from tests.models.densenet.test_storage import LAYOUTS

POINTWISE = {"kernel_size": 1}
WIDE = {"kernel_size": 3, "padding": 1}
Parts = tuple[nn.BatchNorm2d, nn.Module, nn.Conv2d]


def parts(training: bool = True, **conv: int) -> Parts:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        nn.init.uniform_(tensor, 0.5, 1.5)
    modules = norm, nn.ReLU(inplace=True), nn.Conv2d(4, 3, bias=False, **(conv or POINTWISE))
    return tuple(module.double().train(training) for module in modules)  # type: ignore[return-value]


def batch(n: int = 3, layout: str = "contiguous") -> Tensor:
    x = torch.randn(n, 4, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return LAYOUTS[layout](x)


def results(function: Callable[..., Tensor], x: Tensor, modules: Parts) -> dict[str, Tensor | None]:
    """Output, gradients and statistics after a step."""
    modules = copy.deepcopy(modules)
    x = x.detach().requires_grad_(x.requires_grad)
    out = function(x, *modules)
    if out.requires_grad:
        (out.square().sum() + out.sum()).backward()
    named = {f"{i}.{name}": p for i, m in enumerate(modules) for name, p in m.named_parameters()}
    state = {f"{i}.{name}": b for i, m in enumerate(modules) for name, b in m.named_buffers()}
    return {"out": out.detach(), "x": x.grad, **{k: p.grad for k, p in named.items()}, **state}


def one_by_one(x: Tensor, norm: nn.Module, act: nn.Module, conv: nn.Module) -> Tensor:
    return conv(act(norm(x)))


def agree(x: Tensor, modules: Parts) -> None:
    given, wanted = (results(f, x, modules) for f in (norm_relu_conv, one_by_one))
    torch.testing.assert_close(given, wanted, rtol=1e-11, atol=1e-12)


@contextmanager
def called(module: nn.Module) -> Iterator[list[None]]:
    """Counts calls of ``module.forward`` without a hook."""
    calls: list[None] = []
    original = type(module).forward

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        calls.extend([None] * (self is module))
        return original(self, x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(module), "forward", forward)
        yield calls


@pytest.mark.parametrize("conv", [POINTWISE, WIDE], ids=str)
@pytest.mark.parametrize(("layout", "n"), [("contiguous", 1), *((layout, 3) for layout in LAYOUTS)])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("devices", [{"cpu"}, set()], ids=["here", "elsewhere"])
def test_results_are_those_of_the_modules(
    conv: dict[str, int],
    layout: str,
    n: int,
    training: bool,
    devices: set[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tested, "MEASURED", devices)
    modules = parts(training, **conv)
    with called(modules[0]) as calls:
        norm_relu_conv(batch(n, layout), *modules)
    assert calls == []
    agree(batch(n, layout).detach().requires_grad_(), modules)
    with torch.no_grad():
        agree(batch(n, layout), modules)


def test_padding_around_a_pointwise_convolution() -> None:
    agree(batch(layout="channel-major").detach().requires_grad_(), parts(kernel_size=1, padding=1))


@pytest.mark.parametrize("wanted", range(1, 16))
@pytest.mark.parametrize("conv", [POINTWISE, WIDE], ids=str)
def test_only_wanted_gradients(wanted: int, conv: dict[str, int]) -> None:
    modules, x = parts(**conv), batch(layout="channel-major").detach()
    for bit, tensor in enumerate((x, modules[0].weight, modules[0].bias, modules[2].weight)):
        tensor.requires_grad_(bool(wanted >> bit & 1))
    agree(x, modules)


@pytest.mark.parametrize("conv", [POINTWISE, WIDE], ids=str)
@pytest.mark.parametrize("training", [False, True])
def test_gradients_of_gradients(conv: dict[str, int], training: bool) -> None:
    norm, act, layer = parts(training, **conv)
    x = batch(2, "channel-major")[:, :, :2, :2].detach().requires_grad_()

    def run(x: Tensor, *_: Tensor) -> Tensor:
        return norm_relu_conv(x, norm, act, layer)

    values = (x, norm.weight, norm.bias, layer.weight)
    assert torch.autograd.gradcheck(run, values)
    assert torch.autograd.gradgradcheck(run, values)


def test_backward_twice() -> None:
    modules, x = parts(), batch(layout="channel-major").detach().requires_grad_()
    out = norm_relu_conv(x, *modules).square().sum()
    first = torch.autograd.grad(out, x, retain_graph=True)
    assert torch.equal(*first, *torch.autograd.grad(out, x))


def test_only_the_input_is_kept() -> None:
    x = torch.randn(8, 4, 32, 32, requires_grad=True)
    modules = parts()
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        norm_relu_conv(x, *(module.float() for module in modules))  # type: ignore[arg-type]
    assert x.nbytes <= sum(kept.values()) < x.nbytes + 1000


def test_activations_kept_elsewhere() -> None:
    x = batch(layout="channel-major").detach().requires_grad_()
    with torch.autograd.graph.save_on_cpu():
        agree(x, parts())


def test_autocast() -> None:
    modules = tuple(module.float() for module in parts(**WIDE))
    given, wanted = [], []
    for function, found in ((norm_relu_conv, given), (one_by_one, wanted)):
        for kind in (torch.float32, torch.bfloat16):
            x = batch(layout="channel-major").detach().to(kind).requires_grad_()
            with torch.autocast("cpu", torch.bfloat16):
                out = function(x, *modules)
                out.square().sum().backward()  # inside, which is not the usual way
            assert out.dtype == torch.bfloat16
            assert x.grad is not None
            found += [out.detach().float(), x.grad.float(), modules[2].weight.grad.clone()]
            modules[2].zero_grad()
    for a, b in zip(given, wanted):
        assert (a - b).norm() < 0.02 * b.norm()


@pytest.mark.parametrize("conv", [POINTWISE, WIDE], ids=str)
def test_autocast_around_the_backward_pass_alone(conv: dict[str, int]) -> None:
    gradients = []
    for function in (norm_relu_conv, one_by_one):
        x = batch(layout="channel-major").detach().float().requires_grad_()
        out = function(x, *(module.float() for module in parts(**conv)))  # type: ignore[arg-type]
        with torch.autocast("cpu", torch.bfloat16):
            gradients += torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(*gradients)


# -- what the function leaves to the modules


def with_hook(kind: str) -> Callable[[Parts], Parts]:
    def hooked(modules: Parts) -> Parts:
        getattr(modules[2], kind)(lambda *args: None)
        return modules

    return hooked


class Norm(nn.BatchNorm2d):
    """A norm of a user's own."""


def replaced(index: int, module: nn.Module) -> Callable[[Parts], Parts]:
    return lambda modules: (*modules[:index], module.double(), *modules[index + 1 :])  # type: ignore[return-value]


def overridden(modules: Parts) -> Parts:
    original = modules[2].forward
    modules[2].forward = lambda x: 2 * original(x)  # type: ignore[method-assign]
    return modules


OTHERS: dict[str, Callable[[Parts], Parts]] = {
    "forward hook": with_hook("register_forward_hook"),
    "forward pre-hook": with_hook("register_forward_pre_hook"),
    "backward hook": with_hook("register_full_backward_hook"),
    "backward pre-hook": with_hook("register_full_backward_pre_hook"),
    "overridden forward": overridden,
    "own norm": replaced(0, Norm(4)),
    "no affine": replaced(0, nn.BatchNorm2d(4, affine=False)),
    "no statistics": replaced(0, nn.BatchNorm2d(4, track_running_stats=False)),
    "cumulative": replaced(0, nn.BatchNorm2d(4, momentum=None)),
    "own activation": replaced(1, nn.SiLU()),
    "bias": replaced(2, nn.Conv2d(4, 3, 1)),
    "stride": replaced(2, nn.Conv2d(4, 3, 1, 2, bias=False)),
    "dilation": replaced(2, nn.Conv2d(4, 3, 3, dilation=2, bias=False)),
    "groups": replaced(2, nn.Conv2d(4, 4, 1, groups=2, bias=False)),
    "same": replaced(2, nn.Conv2d(4, 3, 3, padding="same", bias=False)),
    "reflect": replaced(2, nn.Conv2d(4, 3, 3, padding=1, padding_mode="reflect", bias=False)),
    "sequence": replaced(2, nn.Sequential(nn.Conv2d(4, 3, 1))),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_modules_are_called(case: str) -> None:
    x = batch(layout="channel-major").detach().requires_grad_()
    modules = OTHERS[case](parts())
    with called(modules[1]) as calls:
        given = norm_relu_conv(x, *modules)
    assert calls
    modules = OTHERS[case](parts())
    torch.testing.assert_close(given, one_by_one(x, *modules), rtol=0, atol=0)


def test_global_hooks_are_called() -> None:
    seen: list[str] = []
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, args, output: seen.append(type(module).__name__)
    )
    try:
        norm_relu_conv(batch(), *parts())
    finally:
        handle.remove()
    assert seen == ["BatchNorm2d", "ReLU", "Conv2d"]


def test_the_norm_complains() -> None:
    norm, act, conv = parts()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        norm_relu_conv(batch(1)[:, :, :1, :1], norm, act, conv)
    with pytest.raises(ValueError, match="expected 4D input"):
        norm_relu_conv(batch()[0], norm, act, conv)
    with pytest.raises((RuntimeError, ValueError)):
        norm_relu_conv(batch()[:, :3], norm, act, conv)

"""Appending gives what concatenation gives, and copies only where it must."""

from __future__ import annotations

import copy
import io
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

from classy_vision.models.densenet import storage as dense_storage
from classy_vision.models.densenet.storage import append, as_batch, as_image, is_shared, moments


@pytest.fixture(autouse=True)
def _small_tensors_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_storage, "WORTH_SHARING", 0)


def tensor(n: int = 3, c: int = 2, seed: int = 0, requires_grad: bool = False) -> Tensor:
    x = torch.randn(n, c, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x.requires_grad_(requires_grad)


def memory(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "channel-major": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "every other row": lambda x: x.repeat_interleave(2, 2)[:, :, ::2],
    "the last channels": lambda x: torch.cat([x, x], 1)[:, x.shape[1] :],
    "expanded": lambda x: x[:1].expand_as(x),
}


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_values_are_those_of_a_concatenation(n: int, layout: str, requires_grad: bool) -> None:
    parts = [LAYOUTS[layout](tensor(n, c, seed=c)).requires_grad_(requires_grad) for c in (2, 3, 1, 4)]
    x, outputs = parts[0], []
    for new in parts[1:]:
        x = append(x, new, 10)
        outputs.append(x)
    for i, output in enumerate(outputs):  # none of them was changed by those behind it
        torch.testing.assert_close(output, torch.cat(parts[: i + 2], 1), rtol=0, atol=0)
    assert len({memory(output) for output in outputs}) == 1
    assert outputs[0].untyped_storage().nbytes() == outputs[-1].nbytes


def test_two_tensors_appended_to_one() -> None:
    x = append(tensor(), tensor(seed=1), 9)
    first, second = append(x, tensor(seed=2), 9), append(x, tensor(seed=3), 9)
    third = append(first, tensor(seed=4), 9)
    parts = [tensor(), tensor(seed=1)]
    assert torch.equal(first, torch.cat([*parts, tensor(seed=2)], 1))
    assert torch.equal(second, torch.cat([*parts, tensor(seed=3)], 1))
    assert torch.equal(third, torch.cat([*parts, tensor(seed=2), tensor(seed=4)], 1))
    assert memory(first) == memory(third) == memory(x) != memory(second)


@pytest.mark.parametrize(
    "other",
    [
        lambda x: x[:, 1:],
        lambda x: x[1:],
        lambda x: x[:, :, :2],
        lambda x: x[:, :3],
        lambda x: x.transpose(2, 3),
        lambda x: x.float(),
        lambda x: x.view(torch.float32),
        lambda x: x.clone(),
        copy.deepcopy,
    ],
)
def test_what_is_no_end_of_a_storage_is_copied(other: Callable[[Tensor], Tensor]) -> None:
    x = append(tensor(), tensor(seed=1), 9)
    part = other(x)
    new = torch.ones_like(part)
    longer = append(part, new, 9)
    assert memory(longer) != memory(x)
    again = append(x, tensor(seed=2), 9)
    assert torch.equal(again, torch.cat([tensor(), tensor(seed=1), tensor(seed=2)], 1))
    torch.testing.assert_close(longer, torch.cat([part, new], 1), rtol=0, atol=0, equal_nan=True)
    assert memory(again) == memory(x)


def test_a_full_storage_is_left() -> None:
    x = append(tensor(), tensor(seed=1), 4)
    longer = append(x, tensor(seed=2), 6)
    assert torch.equal(longer, torch.cat([tensor(), tensor(seed=1), tensor(seed=2)], 1))
    assert memory(longer) != memory(x)


def test_a_wider_type_is_kept() -> None:
    x, new = tensor(), tensor(seed=1)
    assert torch.equal(append(x, new.float(), 9), torch.cat([x, new.float()], 1))
    given = append(x.float(), new, 9)
    assert given.dtype == torch.float64
    assert torch.equal(given, torch.cat([x.float(), new], 1))


def test_one_of_many_threads_gets_the_room() -> None:
    x = append(tensor(), tensor(seed=1), 100)
    results: dict[int, Tensor] = {}
    barrier = threading.Barrier(8)

    def work(seed: int) -> None:
        barrier.wait()
        results[seed] = append(x, tensor(seed=seed), 100)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(2, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, given in results.items():
        assert torch.equal(given, torch.cat([tensor(), tensor(seed=1), tensor(seed=seed)], 1))
    assert sum(memory(given) == memory(x) for given in results.values()) == 1


def test_modes_can_change() -> None:
    with torch.inference_mode():
        inside = append(tensor(), tensor(seed=1), 9)
    outside = append(inside, tensor(seed=2), 9)
    with torch.inference_mode():
        again = append(outside, tensor(seed=3), 9)
    wanted = torch.cat([tensor(seed=seed) for seed in range(4)], 1)
    assert torch.equal(again, wanted)
    assert torch.equal(outside, wanted[:, :6])


def test_copies_and_files_of_results() -> None:
    x = append(tensor(), tensor(seed=1), 9)
    twin = copy.deepcopy(x)
    file = io.BytesIO()
    torch.save(x, file)
    file.seek(0)
    for other in (twin, torch.load(file, weights_only=True)):
        assert torch.equal(append(other, tensor(seed=2), 9), append(x, tensor(seed=2), 9))


# -- gradients


@pytest.mark.parametrize("wanted", [(True, True), (True, False), (False, True)])
def test_gradients(wanted: tuple[bool, bool]) -> None:
    x, new = (tensor(c=c, requires_grad=want) for c, want in zip((2, 1), wanted))
    assert torch.autograd.gradcheck(lambda a, b: append(append(a, b, 5), b * a[:, :1], 5), (x, new))
    assert torch.autograd.gradgradcheck(lambda a, b: append(append(a, b, 5), b * a[:, :1], 5), (x, new))


@pytest.mark.parametrize(
    "change", [lambda x: x.mul_(2), lambda x: x[:, 2:].relu_(), lambda x: x.detach().mul_(2)]
)
def test_changing_what_the_backward_pass_needs_is_an_error(change: Callable[[Tensor], Tensor]) -> None:
    x = append(tensor(requires_grad=True), tensor(seed=1), 9)
    longer = append(x, tensor(seed=2), 9)
    needs_x = x.square().sum()
    change(longer)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        needs_x.backward()


def test_results_are_no_views() -> None:
    x = append(append(tensor(requires_grad=True), tensor(seed=1), 9), tensor(seed=2), 9)
    assert not x._is_view()  # fully_shard warns of modules that give views
    assert not x.detach_().requires_grad


# -- moments


def agree_with_torch(x: Tensor) -> None:
    var, mean = torch.var_mean(x.double(), (0, 2, 3), correction=0)
    torch.testing.assert_close(moments(x), (mean, var), check_dtype=False)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_moments(layout: str) -> None:
    agree_with_torch(LAYOUTS[layout](tensor()))
    half = moments(tensor().bfloat16())
    assert {value.dtype for value in half} == {torch.float32}


def test_moments_of_a_channel_are_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[int] = []
    original = dense_storage._moments
    monkeypatch.setattr(dense_storage, "_moments", lambda x: (found.append(x.shape[1]), original(x))[1])
    x = append(tensor(), tensor(seed=1), 9)
    agree_with_torch(x)
    longer = append(x, tensor(seed=2), 9)
    agree_with_torch(longer)
    agree_with_torch(x)
    agree_with_torch(append(longer, tensor(c=1, seed=2), 9)[:, :5])
    agree_with_torch(longer[:, 1:])  # begins elsewhere
    assert found == [4, 2, 5]


def test_moments_of_the_same_memory_read_otherwise() -> None:
    x = append(tensor(), tensor(seed=1), 9)
    agree_with_torch(x)
    agree_with_torch(x.as_strided((3, 2, 8, 5), (40, 120, 5, 1)))
    x = append(tensor().bfloat16(), tensor(seed=1).bfloat16(), 9)
    agree_with_torch(x)
    agree_with_torch(x.view(torch.float16))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_moments_after_a_change_in_place(mode: Callable[[], torch.no_grad]) -> None:
    with mode():
        x = append(tensor(), tensor(seed=1), 9)
        agree_with_torch(x)
        x.mul_(2)
        agree_with_torch(x)
        longer = append(x, tensor(seed=2), 9)
        agree_with_torch(longer)
        longer.add_(1)
        agree_with_torch(append(longer, tensor(seed=3), 9))


# -- layouts


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("n", [1, 3])
def test_images_become_batches_again(n: int, layout: str) -> None:
    x = LAYOUTS[layout](tensor(n))
    image = as_image(x)
    torch.testing.assert_close(as_batch(image, n), x, rtol=0, atol=0)
    if layout == "channel-major":
        assert image.shape == (1, 2, n * 4, 5)
        assert image.is_contiguous()
        assert torch.equal(as_image(tensor(n), like=x), image)


def test_elsewhere_only_gradients_are_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_storage, "MEASURED", frozenset())
    x = tensor(requires_grad=True)
    first = append(x, x, 9)
    assert memory(append(first, x, 9)) == memory(first)
    assert append(x.detach(), x.detach(), 9).is_contiguous()
    last = LAYOUTS["channels last"](tensor()).requires_grad_()
    assert append(last, last, 9).is_contiguous(memory_format=torch.channels_last)


def test_small_tensors_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    x = tensor()
    monkeypatch.setattr(dense_storage, "WORTH_SHARING", x.numel() + 1)
    assert not is_shared(append(x, x, 9))
    assert is_shared(append(tensor(c=3), x, 9))


# -- tracers and transforms


def chain(x: Tensor, new: Tensor) -> Tensor:
    return append(append(x, new, 9), 2 * new, 9)


def concatenated(x: Tensor, new: Tensor) -> Tensor:
    return torch.cat([x, new, 2 * new], 1)


EXAMPLE = (tensor(seed=5), tensor(seed=6))
TRACERS: dict[str, Callable[[], Callable[[Tensor, Tensor], Tensor]]] = {
    "compile": lambda: torch.compile(chain, fullgraph=True, backend="aot_eager"),
    "fx": lambda: torch.fx.symbolic_trace(chain),
    "make_fx": lambda: make_fx(chain)(*EXAMPLE),
    "functionalize": lambda: make_fx(torch.func.functionalize(chain))(*EXAMPLE),
    "trace": lambda: torch.jit.trace(chain, EXAMPLE),
}


@pytest.mark.filterwarnings("ignore:.torch.jit.trace:DeprecationWarning")
@pytest.mark.parametrize("tracer", TRACERS)
def test_tracers(tracer: str) -> None:
    traced = TRACERS[tracer]()
    for seed in (7, 8):
        x, new = tensor(seed=seed), tensor(seed=seed + 1)
        assert torch.equal(traced(x, new), concatenated(x, new))


def test_transforms_of_functions() -> None:
    batch = (torch.stack([tensor(), tensor(seed=1)]), torch.stack([tensor(seed=2), tensor(seed=3)]))
    assert torch.equal(torch.func.vmap(chain)(*batch), torch.func.vmap(concatenated)(*batch))
    tangents = (tensor(seed=8), tensor(seed=9))
    given, wanted = (torch.func.jvp(f, EXAMPLE, tangents) for f in (chain, concatenated))
    assert all(torch.equal(a, b) for a, b in zip(given, wanted))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(EXAMPLE[0], tangents[0])
        assert forward_ad.unpack_dual(chain(dual, EXAMPLE[1])).tangent is not None


def test_shapes_without_data() -> None:
    x = torch.empty(3, 2, 4, 5, device="meta")
    assert append(x, x, 9).shape == (3, 4, 4, 5)
    assert append(torch.empty(0, 2, 4, 5), torch.empty(0, 1, 4, 5), 9).shape == (0, 3, 4, 5)
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        append(tensor(), tensor()[:, :, 1:], 9)

"""Parameters: what is tuned, how it moves, anchors, versions, half precision."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from blackbox.direction import CoordinateTerms, Direction, SeedTerms, dense
from blackbox.errors import UserError
from blackbox.layout import TensorSpec
from blackbox.noise import Gaussian, Law, Rademacher, Sphere, rounding
from blackbox.noise.rounding import round_stochastically
from blackbox.parameters import Parameters, Update, canonical
from blackbox.testing.generators import seeded


def along(seed: int, weight: float, law: Law | None = None) -> Direction:
    return Direction((SeedTerms(law or Rademacher(), np.array([seed]), np.array([weight])),))


def two(dtype: torch.dtype = torch.float32) -> Parameters:
    a, b = (
        torch.linspace(-1, 1, 3000, dtype=torch.float64).to(dtype),
        torch.linspace(0, 1, 7, dtype=torch.float64),
    )
    return Parameters({"a": a.view(100, 30), "b": b.to(dtype)})


def same(first: Parameters, second: Parameters) -> bool:
    return all(torch.equal(t, second.tensors[n]) for n, t in first.tensors.items())


class Tied(nn.Module):
    """An embedding whose weight is the output's, a norm and a bias."""

    def __init__(self) -> None:
        super().__init__()
        with seeded(0):
            self.embed = nn.Embedding(11, 4)
            self.layer = nn.Linear(4, 4)
            self.norm = nn.LayerNorm(4)
            self.head = nn.Linear(4, 11, bias=False)
        self.head.weight = self.embed.weight


# What is tuned


def test_vector_of_floats_is_float64() -> None:
    assert Parameters.from_vector([1.0, 2.5]).tensors["x"].dtype == torch.float64


def test_vector_of_integers_is_float64() -> None:
    assert Parameters.from_vector(np.array([1, 2])).tensors["x"].dtype == torch.float64


def test_floating_array_keeps_its_dtype() -> None:
    assert Parameters.from_vector(np.zeros(3, np.float32)).tensors["x"].dtype == torch.float32


def test_vector_is_copied() -> None:
    x = np.zeros(3)
    Parameters.from_vector(x).apply(along(1, 1.0))
    assert x.tolist() == [0.0, 0.0, 0.0]


def test_read_only_array_is_taken() -> None:
    x = np.zeros(3)
    x.flags.writeable = False
    assert Parameters.from_vector(x).dimension == 3


def test_dict_of_tensors_is_used_not_copied() -> None:
    x = torch.zeros(3)
    Parameters({"x": x}).apply(along(1, 1.0))
    assert x.abs().tolist() == [1.0, 1.0, 1.0]


def test_flat_concatenates_in_order() -> None:
    parameters = Parameters({"b": torch.arange(4.0).view(2, 2), "a": torch.tensor([9.0])})
    assert parameters.flat().tolist() == [0.0, 1.0, 2.0, 3.0, 9.0]


def test_nothing_to_tune_is_refused() -> None:
    with pytest.raises(UserError, match="nothing to tune"):
        Parameters({})


@pytest.mark.parametrize("dtype", [torch.int64, torch.float16])
def test_unsupported_dtype_is_refused_by_name(dtype: torch.dtype) -> None:
    with pytest.raises(UserError, match=r"'w' is torch\."):
        Parameters({"w": torch.zeros(2, dtype=dtype)})


def test_module_tunes_all_its_parameters() -> None:
    names = ["embed.weight", "layer.weight", "layer.bias", "norm.weight", "norm.bias"]
    assert list(Parameters.from_module(Tied()).tensors) == names


def test_patterns_choose_what_is_tuned() -> None:
    chosen = Parameters.from_module(Tied(), [r"^layer", r"norm\.bias"])
    assert list(chosen.tensors) == ["layer.weight", "layer.bias", "norm.bias"]


def test_pattern_without_a_match_is_refused_with_names() -> None:
    with pytest.raises(UserError, match=r"lyer.*embed\.weight"):
        Parameters.from_module(Tied(), "lyer")


def test_untuned_and_frozen_parameters_are_never_touched() -> None:
    module = Tied()
    module.layer.bias.requires_grad_(False)
    before = copy.deepcopy(module.state_dict())
    Parameters.from_module(module, "layer").apply(Update(along(1, 0.5), {"layer.weight": 0.9}))
    changed = [n for n, t in module.state_dict().items() if not torch.equal(t, before[n])]
    assert changed == ["layer.weight"]


def test_tied_weight_is_moved_once() -> None:
    module = Tied()
    before = module.embed.weight.detach().clone()
    Parameters.from_module(module).apply(along(1, 0.5))
    torch.testing.assert_close((module.head.weight - before).abs(), torch.full((11, 4), 0.5))


def test_module_and_dict_of_the_same_names_move_alike() -> None:
    module = Tied()
    copies = Parameters({n: p.detach().clone() for n, p in module.named_parameters()})
    tuned = Parameters.from_module(module)
    for parameters in (copies, tuned):
        parameters.apply(along(1, 0.5, Gaussian()))
    assert same(tuned, copies)


@pytest.mark.parametrize(
    "name",
    [
        "module.a.weight",
        "_orig_mod.a.weight",
        "a._fsdp_wrapped_module.weight",
        "module._orig_mod.module.a.weight",
    ],
)
def test_wrapper_prefixes_are_stripped(name: str) -> None:
    assert canonical(name) == "a.weight"


@pytest.mark.parametrize("name", ["a.weight", "modules.a.weight", "my_module.weight", "submodule.0.bias"])
def test_other_names_are_kept(name: str) -> None:
    assert canonical(name) == name


def test_names_that_would_be_one_when_stripped_are_both_tuned() -> None:
    outer = nn.Module()
    outer.module = Tied()
    outer.layer = Tied().layer
    assert {"module.layer.bias", "layer.bias"} <= set(Parameters.from_module(outer).tensors)


def test_wrapped_module_has_the_noise_of_the_bare_one() -> None:
    bare, wrapped = Tied(), nn.Module()
    wrapped.module = Tied()
    first, second = Parameters.from_module(bare), Parameters.from_module(wrapped)
    for parameters in (first, second):
        parameters.apply(along(1, 0.5))
    assert same(first, second)


# How it moves


def test_decay_comes_before_the_direction() -> None:
    parameters = Parameters({"x": torch.tensor([4.0])})
    parameters.apply(Update(dense("x", torch.tensor([1.0])), {"x": 0.5}))
    assert parameters.tensors["x"].item() == 3.0


@pytest.mark.parametrize(
    "direction",
    [
        along(1, 0.0),
        Direction(),
        Direction((CoordinateTerms("x", np.array([0]), np.array([0.0])),)),
        along(1, 0.0) + dense("x", torch.zeros(2)) + along(2, 0.0),
    ],
    ids=["zero seed", "empty", "coordinate", "mixed"],
)
def test_decay_is_applied_once_whatever_the_direction(direction: Direction) -> None:
    parameters = Parameters({"x": torch.tensor([4.0, 8.0])})
    parameters.apply(Update(direction, {"x": 0.5}))
    assert parameters.tensors["x"].tolist() == [2.0, 4.0]


def test_tensors_without_a_decay_are_not_decayed() -> None:
    parameters = two()
    b = parameters.tensors["b"].clone()
    parameters.apply(Update(Direction(), {"a": 0.5}))
    assert torch.equal(parameters.tensors["b"], b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_deferred_and_flushed_equals_eager_bit_for_bit(dtype: torch.dtype) -> None:
    eager, deferred = two(dtype), two(dtype)
    update = Update(along(5, 0.3), {"a": 0.9}, seed=4)
    eager.apply(update)
    deferred.apply(update, defer=True)
    assert deferred.pending is not None
    assert same(eager, deferred)
    assert deferred.pending is None


def test_deferred_updates_are_carried_out_in_order() -> None:
    eager, deferred = two(), two()
    for update in (Update(along(5, 0.3), {"a": 0.9}), Update(along(6, 0.1), {"a": 0.8})):
        eager.apply(update)
        deferred.apply(update, defer=True)
    assert same(eager, deferred)


def test_way_back_and_step_along_one_seed_merge_into_one_pass() -> None:
    """theta + c z, owed -c z, step b z: the tensors end at theta + b z."""
    displaced, expected = two(torch.float64), two(torch.float64)
    displaced.apply(along(5, 1e-3))
    displaced.leave_displaced(Rademacher(), 5, 1e-3)
    displaced.apply(along(5, -0.25), defer=True)
    assert displaced.pending is not None
    assert displaced.pending.single == (Rademacher(), (5, -0.251))
    expected.apply(along(5, -0.25))
    torch.testing.assert_close(displaced.flat(), expected.flat(), rtol=0, atol=1e-15)


def test_updates_of_other_seeds_do_not_merge() -> None:
    parameters = two()
    parameters.leave_displaced(Rademacher(), 5, 1e-3)
    parameters.apply(along(6, 0.5), defer=True)
    assert parameters.pending is not None
    assert parameters.pending.single == (Rademacher(), (6, 0.5))


def test_decaying_step_does_not_merge_with_the_way_back() -> None:
    displaced, expected = two(torch.float64), two(torch.float64)
    displaced.apply(along(5, 0.5))
    displaced.leave_displaced(Rademacher(), 5, 0.5)
    for parameters in (displaced, expected):
        parameters.apply(Update(along(5, -0.25), {"a": 0.5}), defer=True)
    torch.testing.assert_close(displaced.flat(), expected.flat(), rtol=0, atol=1e-15)


def test_raw_does_not_flush() -> None:
    parameters = two()
    parameters.apply(along(1, 0.5), defer=True)
    assert torch.equal(parameters.raw["b"], two().tensors["b"])
    assert parameters.pending is not None


def test_pending_update_is_handed_over_once() -> None:
    parameters = two()
    parameters.apply(along(1, 0.5), defer=True)
    assert parameters.take_pending() is not None
    assert parameters.take_pending() is None


def test_sphere_moves_by_weight_times_sqrt_d() -> None:
    parameters = two(torch.float64)
    before = parameters.flat()
    parameters.apply(along(1, 0.25, Sphere()))
    moved = float((parameters.flat() - before).norm())
    assert moved == pytest.approx(0.25 * 3007**0.5, rel=1e-12)


def test_non_contiguous_tensor_moves_like_its_contiguous_copy() -> None:
    base = torch.arange(12.0).view(3, 4)
    turned, straight = Parameters({"x": base.clone().t()}), Parameters({"x": base.t().contiguous()})
    for parameters in (turned, straight):
        parameters.apply(Update(along(1, 0.5), {"x": 0.9}))
    assert same(turned, straight)


# Versions, anchors, assignment


def test_every_apply_is_a_version() -> None:
    parameters = two()
    parameters.apply(along(1, 0.5))
    parameters.apply(along(1, 0.5), defer=True)
    assert parameters.version == 2


def test_anchor_keeps_the_point_it_was_taken_at() -> None:
    parameters = two()
    there = parameters.flat()
    parameters.take_anchor("start")
    parameters.apply(along(1, 0.5))
    assert torch.equal(torch.cat([t.reshape(-1) for t in parameters.anchor("start").values()]), there)


def test_anchor_includes_the_pending_update() -> None:
    parameters, expected = two(), two()
    expected.apply(along(1, 0.5))
    parameters.apply(along(1, 0.5), defer=True)
    parameters.take_anchor("here")
    assert torch.equal(parameters.anchor("here")["a"], expected.tensors["a"])


def test_tensors_hold_the_anchor_for_a_while() -> None:
    parameters = two()
    parameters.take_anchor("start")
    there = parameters.flat()
    parameters.apply(along(1, 0.5))
    with parameters.at_anchor("start"):
        assert torch.equal(parameters.flat(), there)


@pytest.mark.parametrize("fails", [False, True])
def test_point_comes_back_from_an_anchor_bit_for_bit(fails: bool) -> None:
    parameters = two(torch.bfloat16)
    parameters.take_anchor("start")
    parameters.apply(along(1, 0.1))
    here = parameters.flat()
    try:
        with parameters.at_anchor("start"):
            if fails:
                raise RuntimeError("the objective failed")
    except RuntimeError:
        pass
    assert torch.equal(parameters.flat(), here)


def test_anchor_records_its_version() -> None:
    parameters = two()
    parameters.apply(along(1, 0.5))
    parameters.take_anchor("one")
    assert parameters.anchors["one"][1] == 1


def test_unknown_anchor_is_refused_with_the_known_ones() -> None:
    parameters = two()
    parameters.take_anchor("start")
    with pytest.raises(UserError, match=r"'stat'.*start"):
        parameters.anchor("stat")


def test_dropped_anchor_is_gone() -> None:
    parameters = two()
    parameters.take_anchor("start")
    parameters.drop_anchor("start")
    assert parameters.anchors == {}


def test_assign_overwrites_in_place() -> None:
    x = torch.zeros(3)
    Parameters({"x": x}).assign({"x": torch.tensor([1.0, 2.0, 3.0])})
    assert x.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("wrong", [{"c": torch.zeros(7)}, {"b": torch.zeros(8)}], ids=["name", "shape"])
def test_wrong_assignment_is_refused_and_changes_nothing(wrong: dict[str, Tensor]) -> None:
    parameters, expected = two(), two()
    expected.apply(along(1, 0.5))
    parameters.apply(along(1, 0.5), defer=True)
    with pytest.raises(UserError, match="Cannot assign"):
        parameters.assign({"a": torch.zeros(100, 30)} | wrong)
    assert same(parameters, expected)


def test_assigning_one_tensor_leaves_the_others_their_pending_update() -> None:
    parameters, expected = two(), two()
    expected.apply(along(1, 0.5))
    parameters.apply(along(1, 0.5), defer=True)
    parameters.assign({"a": torch.zeros(100, 30)})
    assert torch.equal(parameters.tensors["b"], expected.tensors["b"])


# Half precision


SPEC = TensorSpec("w", (100_000,), 0, 100_000)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("share", [0.01, 0.25, 0.5, 0.9])
def test_stochastic_rounding_is_unbiased(share: float, sign: float) -> None:
    """Between 1 and its neighbour 1 + 2**-7, the upper is taken with probability equal to the distance."""
    x = torch.full((SPEC.numel,), sign * (1 + share * 2.0**-7))
    up = float((round_stochastically(x, 3, SPEC).float().abs() > 1).float().mean())
    assert abs(up - share) < 4.5 * (share * (1 - share) / SPEC.numel) ** 0.5


def test_rounding_gives_one_of_the_two_neighbours() -> None:
    x = torch.logspace(-30, 30, SPEC.numel)
    rounded = round_stochastically(x, 3, SPEC).float()
    assert ((rounded - x).abs() < x * 2.0**-7).all()


def test_representable_numbers_are_kept() -> None:
    x = torch.linspace(-3, 3, SPEC.numel).bfloat16()
    assert torch.equal(round_stochastically(x.float(), 3, SPEC), x)


def test_rounding_is_reproducible_and_seeded() -> None:
    x = torch.full((SPEC.numel,), 1 + 2.0**-8)
    first, again, other = (round_stochastically(x, seed, SPEC) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert abs(float((first == other).float().mean()) - 0.5) < 4.5 * 0.5 / SPEC.numel**0.5


@pytest.mark.parametrize("numel", [1 << 14, 50_001, 50_004])
def test_the_kernel_rounds_as_the_plain_path_does(numel: int, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, x = TensorSpec("w", (numel,), 0, numel), torch.linspace(-3, 3, numel)
    fused = round_stochastically(x, 3, spec)
    monkeypatch.setattr(rounding, "compiler_works", lambda device_type: False)
    assert torch.equal(fused, round_stochastically(x, 3, spec))


def test_elements_that_share_a_hash_are_rounded_independently() -> None:
    x = torch.full((SPEC.numel,), 1 + 2.0**-8)
    up = (round_stochastically(x, 3, SPEC).float() > 1).view(4, -1).double()
    correlation = torch.corrcoef(up) - torch.eye(4)
    assert correlation.abs().max() < 4.5 / up.shape[1] ** 0.5


def test_tiny_updates_survive_in_bfloat16_on_average() -> None:
    """100 steps of 2**-15 against a spacing of 2**-7: nearest rounding would stay at 1 for ever."""
    parameters = Parameters({"w": torch.ones(10_000, dtype=torch.bfloat16)})
    step = Direction((CoordinateTerms("w", np.arange(10_000), np.full(10_000, 2.0**-15)),))
    for _ in range(100):
        parameters.apply(step)
    moved = (parameters.tensors["w"].float() - 1).double()
    expected, variance = 100 * 2.0**-15, 100 * 2.0**-15 * 2.0**-7
    assert abs(float(moved.mean()) - expected) < 4.5 * (variance / 10_000) ** 0.5


def test_rounding_of_one_step_is_independent_of_the_next() -> None:
    """Elements that a first step rounded up are no more likely to be rounded up by a second."""
    parameters = Parameters({"w": torch.ones(100_000, dtype=torch.bfloat16)})
    step = Direction((CoordinateTerms("w", np.arange(100_000), np.full(100_000, 2.0**-9)),))
    parameters.apply(step)
    first = parameters.tensors["w"] > 1
    parameters.assign({"w": torch.ones(100_000)})
    parameters.apply(step)
    both = float((first & (parameters.tensors["w"] > 1)).float().mean())
    assert abs(both - 1 / 16) < 4.5 * (1 / 16 * 15 / 16 / 100_000) ** 0.5

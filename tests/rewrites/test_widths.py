"""Rounding and scaling offer the right widths, and say why where they offer none."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.ir.channels import ChannelGroup
from graphopt.rewrites.rewrite import Refusal, WidthOffer
from graphopt.rewrites.round_channels import RoundChannels, RoundParams
from graphopt.rewrites.scale_depth import ScaleDepth, ScaleParams, scaled_width

GROUP = ChannelGroup("stage3/conv", 100, (), (), ())


def reason(answer: WidthOffer | Refusal) -> str:
    assert isinstance(answer, Refusal)
    return answer.reason


def widths(answer: WidthOffer | Refusal) -> tuple[int, ...]:
    assert isinstance(answer, WidthOffer), answer
    return answer.widths


@given(st.integers(1, 3000), st.integers(1, 128))
def test_rounding_goes_to_the_neighbours(size: int, multiple: int) -> None:
    group = replace(GROUP, size=size)
    up = RoundChannels().offer(group, RoundParams(multiple, "up"))
    down = RoundChannels().offer(group, RoundParams(multiple, "down"))
    if size % multiple == 0:
        assert isinstance(up, Refusal)
        assert isinstance(down, Refusal)
        return
    assert widths(up) == (-(-size // multiple) * multiple,)
    if size < multiple:
        assert reason(down) == f"{size} channels are less than one multiple of {multiple}"
    else:
        assert widths(down) == (size // multiple * multiple,)


def test_rounding_refuses() -> None:
    up, down = RoundParams(32, "up"), RoundParams(32, "down")
    stem = replace(GROUP, is_stem=True)
    assert widths(RoundChannels().offer(stem, up)) == (128,)
    assert reason(RoundChannels().offer(stem, down)) == "the first convolution is never cut"
    frozen = replace(GROUP, frozen="Softmax")
    assert widths(RoundChannels().offer(frozen, up)) == (128,)
    assert reason(RoundChannels().offer(frozen, down)) == "Softmax"
    full = replace(GROUP, unpaddable="an output")
    assert reason(RoundChannels().offer(full, up)) == "an output"
    assert widths(RoundChannels().offer(full, down)) == (96,)


@given(st.integers(1, 3000), st.floats(0.01, 16.0), st.integers(1, 128))
def test_scaled_width_is_the_nearest_multiple(size: int, multiplier: float, multiple: int) -> None:
    width = scaled_width(size, multiplier, multiple)
    assert width % multiple == 0
    assert width >= multiple
    assert abs(width - size * multiplier) <= multiple / 2 + 1e-6 or width == multiple


def test_ties_go_up() -> None:
    assert scaled_width(48, 1.0, 32) == 64
    assert scaled_width(64, 0.75, 32) == 64
    assert scaled_width(63, 0.75, 32) == 32
    assert scaled_width(8, 0.25, 32) == 32


def test_scaling_acts_when_asked() -> None:
    says = "no depth multiplier was asked for: --depth-multiplier 0.75"
    assert reason(ScaleDepth().offer(GROUP, ScaleParams(8))) == says
    assert widths(ScaleDepth().offer(GROUP, ScaleParams(8, (0.5, 0.75, 1.5)))) == (48, 72, 152)
    assert widths(ScaleDepth().offer(GROUP, ScaleParams(8, (0.5, 0.49)))) == (48,)
    assert isinstance(ScaleDepth().offer(GROUP, ScaleParams(8, (1.0,))), WidthOffer)  # 100 -> 104 pads


def test_scaling_below_one_never_grows() -> None:
    small = replace(GROUP, size=16)
    assert reason(ScaleDepth().offer(small, ScaleParams(32, (0.75,)))) == "no multiplier leads to another width"


def test_scaling_refuses() -> None:
    stem = replace(GROUP, is_stem=True)
    assert reason(ScaleDepth().offer(stem, ScaleParams(8, (0.5,)))) == "the first convolution is never cut"
    assert widths(ScaleDepth().offer(stem, ScaleParams(8, (0.5, 2.0)))) == (200,)
    frozen = replace(GROUP, frozen="Softmax", unpaddable="Softmax too")
    assert reason(ScaleDepth().offer(frozen, ScaleParams(8, (0.5,)))) == "Softmax"
    assert reason(ScaleDepth().offer(frozen, ScaleParams(8, (2.0,)))) == "Softmax too"


def test_scaling_can_be_limited_to_a_stage() -> None:
    params = ScaleParams(8, (0.5,), only=("stage2/*", "stage3/*"))
    assert widths(ScaleDepth().offer(GROUP, params)) == (48,)
    other = replace(GROUP, id="stage4/conv")
    assert reason(ScaleDepth().offer(other, params)) == "the group is none of those that the rule is limited to"


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), 17.0])
def test_impossible_multipliers(bad: float) -> None:
    with pytest.raises(ValueError, match="multipliers"):
        ScaleParams(8, (bad,))


def test_impossible_multiple() -> None:
    with pytest.raises(ValueError, match="multiple"):
        RoundParams(0)

"""Mechanisms: how to find a place and what to put there. Policy is in the rule cards."""

from typing import TypeGuard

from graphopt.rewrites.curate_widths import CurateWidths
from graphopt.rewrites.fold_space_to_depth_stem import FoldSpaceToDepthStem
from graphopt.rewrites.fuse_inverted_bottleneck import FuseInvertedBottleneck
from graphopt.rewrites.merge_linear_convs import MergeLinearConvs
from graphopt.rewrites.rewrite import Rewrite, SiteRewrite, WidthRewrite
from graphopt.rewrites.round_channels import RoundChannels
from graphopt.rewrites.scale_depth import ScaleDepth
from graphopt.rewrites.swap_depthwise_for_dense import SwapDepthwiseForDense
from graphopt.rewrites.swap_depthwise_for_grouped import SwapDepthwiseForGrouped

REWRITES: tuple[Rewrite, ...] = (
    CurateWidths(),
    FoldSpaceToDepthStem(),
    FuseInvertedBottleneck(),
    MergeLinearConvs(),
    RoundChannels(),
    ScaleDepth(),
    SwapDepthwiseForDense(),
    SwapDepthwiseForGrouped(),
)


def is_site_rewrite(rewrite: Rewrite) -> TypeGuard[SiteRewrite]:
    """Whether ``rewrite`` replaces ops at a place."""
    return hasattr(rewrite, "match")


def is_width_rewrite(rewrite: Rewrite) -> TypeGuard[WidthRewrite]:
    """Whether ``rewrite`` offers widths for channel groups."""
    return hasattr(rewrite, "offer")

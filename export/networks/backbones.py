"""Backbones by name: each makes the networks of every role a family may ask for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from torch import nn

from export.networks import balle, edge, paper
from runtime.errors import ConfigurationError
from runtime.settings import settings_from_dict


class HyperpriorBackbone(Protocol):
    """Makes a hyperprior's networks; the shapes of inputs and outputs are stated on each network's class."""

    y_channels: int
    z_channels: int

    def g_a(self) -> nn.Module: ...
    def g_s(self, *, deviation_input: bool) -> nn.Module: ...
    def h_a(self) -> nn.Module: ...
    def h_s(self, *, mean: bool = True) -> nn.Module: ...
    def post(self) -> nn.Module: ...
    def preview(self) -> nn.Module: ...


class Backbone(HyperpriorBackbone, Protocol):
    """Makes the networks of every role."""

    hyper_width: int  # of what lies between z and y

    def with_latents(self, *parts: int) -> Backbone:
        """Return the same backbone with another y: *parts* channels of one latent or of several that are joined."""
        ...

    def g_a_scalable(self) -> nn.Module: ...
    def crr(self, *, features: int) -> nn.Module: ...
    def cdr(self) -> nn.Module: ...


class EdgeBackbone:
    """Networks of `export.networks.edge`."""

    def __init__(self, shape: edge.EdgeShape, parts: tuple[int, ...] = ()) -> None:
        self._shape, self._parts = shape, parts
        self.y_channels, self.z_channels, self.hyper_width = shape.y_channels, shape.z_channels, shape.hyper_width

    def with_latents(self, *parts: int) -> Backbone:
        if self._shape.direct_channels:
            raise ConfigurationError("backbone edge: direct_channels are for families with one latent of y_channels")
        return EdgeBackbone(replace(self._shape, y_channels=sum(parts)), parts)

    def g_a(self) -> nn.Module:
        return edge.Analysis(self._shape)

    def g_a_scalable(self) -> nn.Module:
        return edge.ScalableAnalysis(self._shape)

    def g_s(self, *, deviation_input: bool) -> nn.Module:
        return edge.Synthesis(self._shape, deviation_input=deviation_input, parts=self._parts)

    def h_a(self) -> nn.Module:
        return edge.HyperAnalysis(self._shape)

    def h_s(self, *, mean: bool = True) -> nn.Module:
        return edge.HyperSynthesis(self._shape, mean=mean)

    def post(self) -> nn.Module:
        return edge.Post(self._shape)

    def preview(self) -> nn.Module:
        return edge.Preview(self._shape, self._parts)

    def crr(self, *, features: int) -> nn.Module:
        return edge.ContextRate(self._shape, features)

    def cdr(self) -> nn.Module:
        return edge.ContextRefinement(self._shape)


class PaperBackbone:
    """Networks of `export.networks.paper`."""

    def __init__(self, shape: paper.PaperShape) -> None:
        self._shape = shape
        self.y_channels, self.z_channels, self.hyper_width = shape.y_channels or shape.n, shape.n, shape.n

    def with_latents(self, *parts: int) -> Backbone:
        return PaperBackbone(replace(self._shape, y_channels=sum(parts)))

    def g_a(self) -> nn.Module:
        return paper.Analysis(self._shape)

    def g_a_scalable(self) -> nn.Module:
        return paper.ScalableAnalysis(self._shape)

    def g_s(self, *, deviation_input: bool) -> nn.Module:
        return paper.Synthesis(self._shape, deviation_input=deviation_input)

    def h_a(self) -> nn.Module:
        return paper.HyperAnalysis(self._shape)

    def h_s(self, *, mean: bool = True) -> nn.Module:
        return paper.HyperSynthesis(self._shape, mean=mean)

    def post(self) -> nn.Module:
        return paper.Post(self._shape)

    def preview(self) -> nn.Module:
        return paper.Preview(self._shape)

    def crr(self, *, features: int) -> nn.Module:
        return paper.ContextRate(self._shape, features)

    def cdr(self) -> nn.Module:
        return paper.ContextRefinement(self._shape)


class BalleBackbone:
    """Networks of `export.networks.balle`."""

    def __init__(self, shape: balle.BalleShape) -> None:
        self._shape = shape
        self.y_channels, self.z_channels, self.hyper_width = shape.m, shape.n, shape.n

    def with_latents(self, *parts: int) -> Backbone:
        return BalleBackbone(replace(self._shape, m=sum(parts)))

    def g_a_scalable(self) -> nn.Module:
        raise ConfigurationError("backbone balle has no g_a_scalable")

    def g_a(self) -> nn.Module:
        return balle.Analysis(self._shape)

    def g_s(self, *, deviation_input: bool) -> nn.Module:
        return balle.Synthesis(self._shape, deviation_input=deviation_input)

    def h_a(self) -> nn.Module:
        return balle.HyperAnalysis(self._shape)

    def h_s(self, *, mean: bool = True) -> nn.Module:
        return edge.HyperSynthesis(balle.edge_shape(self._shape), mean=mean)

    def post(self) -> nn.Module:
        return paper.Post(balle.paper_shape(self._shape))

    def preview(self) -> nn.Module:
        return edge.Preview(balle.edge_shape(self._shape))

    def crr(self, *, features: int) -> nn.Module:
        return edge.ContextRate(balle.edge_shape(self._shape), features)

    def cdr(self) -> nn.Module:
        return edge.ContextRefinement(balle.edge_shape(self._shape))


_BACKBONES: dict[str, Callable[[dict[str, Any]], Backbone]] = {
    "balle": lambda shape: BalleBackbone(settings_from_dict(balle.BalleShape, shape, "network")),
    "edge": lambda shape: EdgeBackbone(settings_from_dict(edge.EdgeShape, shape, "network")),
    "paper": lambda shape: PaperBackbone(settings_from_dict(paper.PaperShape, shape, "network")),
}


def make_backbone(name: str, shape: dict[str, Any]) -> Backbone:
    """Return backbone *name* with the widths and depths of *shape*.

    Raises:
        ConfigurationError: there is no such backbone, or it has no such dimension, or none of that size.
    """
    if name not in _BACKBONES:
        raise ConfigurationError(f"backbone {name!r} is unknown; there are {', '.join(sorted(_BACKBONES))}")
    try:
        return _BACKBONES[name](shape)
    except ConfigurationError as fault:
        raise ConfigurationError(f"backbone {name}: {fault}") from fault

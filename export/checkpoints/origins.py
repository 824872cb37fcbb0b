"""Where a checkpoint comes from, and its tensors in our networks.

    bmshj2018-hyperprior   CompressAI: scale hyperprior, GDN and 5x5 convolutions
    mbt2018-mean           CompressAI: mean and scale hyperprior
    dpict                  DPICT's networks, under the names of its authors, or under CompressAI's as the authors of CTC
                           have them; keys of CRR and CDR, and of a context model that is never run, are left out
    progdtd                the authors of ProgDTD: the scale hyperprior, CompressAI's layers, trained with tail drop

A tensor is either renamed, or turned into what our layer of another form needs (divisive normalisation, the dense
layers of h_s, the prior), or bookkeeping that is not needed. Whatever is missing or left over is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from export.networks import balle, paper
from export.networks.dense import BLOCK, DenseHyperSynthesis, DenseLayer, convolution_of_transposed, joined
from export.networks.entropy import FactorizedPrior
from runtime.errors import UsageError

State = dict[str, Tensor]

_LEAKY = 0.01  # torch's default, as in all of these
_PEDESTAL = 2.0**-36  # of CompressAI's parameters that cannot be negative
_BETA_LEAST = 1e-6
ORIGINS = ("bmshj2018-hyperprior", "mbt2018-mean", "dpict", "progdtd")
_BOOKKEEPING = re.compile(
    r"(.*\.)?(_offset|_quantized_cdf|_cdf_length|target|scale_table|scale_bound|pedestal|bound)|gaussian_conditional\..*"
)


@dataclass
class Imported:
    """Networks of a checkpoint.

    Attributes:
        origin: see the module text.
        family: whose plan its streams follow.
        networks: g_a, g_s, h_a.
        h_s: takes symbols of z.
        prior: of symbols of z.
        left_out: names of tensors that have no place here.
    """

    origin: str
    family: str
    networks: nn.ModuleDict
    h_s: DenseHyperSynthesis
    prior: FactorizedPrior
    left_out: list[str]


def networks_of(state: State) -> Imported:
    """Recognise a checkpoint and return its networks.

    Raises:
        UsageError: it is of no known origin, or tensors are missing, left over or of another shape; all are listed.
    """
    source = _Source(state)
    if "g_a.0.conv1.weight" in state:
        return _dpict(source)
    if "g_a.res1.conv1.weight" in state:
        return _dpict(_Source(state, _as_dpict_spells))
    if "image_analysis.model.0.weight" in state:
        return _progdtd(source)
    if "g_a.0.weight" in state and "h_s.4.weight" in state:
        return _hyperprior(source, mean=len(state["h_s.4.weight"]) == 2 * source.outputs("g_a.6"))
    begin = ", ".join(sorted(state)[:5])
    raise UsageError(f"no checkpoint of {', '.join(ORIGINS)}; the names of its tensors begin with {begin}")


class _Source:
    """Tensors of a checkpoint; notes which are taken, and what is wrong with them.

    Whoever spells CompressAI's names otherwise says so by *spelled*.
    """

    def __init__(self, state: State, spelled: Callable[[str], str] = str) -> None:
        self._state, self._spelled = dict(state), spelled
        self._faults: list[str] = []

    def has(self, name: str) -> bool:
        """True if there is such a tensor that was not taken."""
        return self._spelled(name) in self._state

    def outputs(self, layer: str) -> int:
        """Return how many channels a convolution gives."""
        bias = self._state.get(self._spelled(f"{layer}.bias"))
        return 1 if bias is None else bias.numel()

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Return a tensor of *shape* and note that it was taken, or note that there is none and return zeros."""
        name = self._spelled(name)
        found = self._state.pop(name, None)
        if found is not None and found.shape == shape:
            return found
        self._faults.append(f"{name} is missing" if found is None else f"{name} is {tuple(found.shape)}, not {shape}")
        return torch.zeros(shape)

    def arrays(self, layer: str, *weight: int, transposed: bool = False) -> tuple[Tensor, Tensor]:
        """Return a convolution's weight, of shape *weight*, and bias."""
        return self.take(f"{layer}.weight", weight), self.take(f"{layer}.bias", (weight[1 if transposed else 0],))

    def fill(self, module: nn.Module, rename: Callable[[str], str]) -> None:
        """Give *module* its parameters: those called *rename* of our names."""
        mine = {
            name: _converted(name, self.take(rename(name), tuple(parameter.shape)))
            for name, parameter in module.state_dict().items()
        }
        module.load_state_dict(mine)

    def finish(self, left_out: str = "(?!)") -> list[str]:
        """Return the names of tensors that were not taken and match *left_out*.

        Raises:
            UsageError: a tensor is missing, of another shape, or unknown.
        """
        rest = [name for name in self._state if not _BOOKKEEPING.fullmatch(name)]
        known = [name for name in rest if re.match(left_out, name)]
        faults = [*self._faults, *(f"{name} is unknown" for name in rest if name not in known)]
        if faults:
            raise UsageError(f"the checkpoint is not what its names promise: {'; '.join(faults)}")
        return known


# CompressAI's hyperpriors, and ProgDTD's.


def _hyperprior(source: _Source, *, mean: bool) -> Imported:
    n, m = source.outputs("g_a.0"), source.outputs("g_a.6")
    shape = balle.BalleShape(n=n, m=m, latent_gain=1.0, absolute=not mean)
    networks = _filled(source, shape, {"g_a": "g_a", "g_s": "g_s", "h_a": "h_a"}, first=0)
    wide = 3 * m // 2
    last = (2 * m, wide, 3, 3) if mean else (m, n, 3, 3)
    arrays = (
        source.arrays("h_s.0", n, m if mean else n, 5, 5, transposed=True),
        source.arrays("h_s.2", *((m, wide) if mean else (n, n)), 5, 5, transposed=True),
        source.arrays("h_s.4", *last),
    )
    prior, median = _prior(source, "entropy_bottleneck", n)
    source.finish()
    slope = _LEAKY if mean else 0.0
    # A ReLU behind the last layer of a scale hyperprior changes nothing: deviations are bounded from below anyway.
    layers = [_transposed(arrays[0], slope), _transposed(arrays[1], slope), DenseLayer(*arrays[2])]
    return _imported(
        "mbt2018-mean" if mean else "bmshj2018-hyperprior", "dpict", networks, layers, prior, median, mean=mean
    )


def _progdtd(source: _Source) -> Imported:
    n, m = source.outputs("image_analysis.model.0"), source.outputs("image_analysis.model.6")
    names = {"g_a": "image_analysis.model", "g_s": "image_synthesis.model", "h_a": "hyper_analysis.model"}
    # The absolute value that h_a begins with is a layer of its own there.
    networks = _filled(source, balle.BalleShape(n=n, m=m, latent_gain=1.0, sigmoid=True), names, first=1)
    arrays = (
        source.arrays("hyper_synthesis.model.0", n, n, 5, 5, transposed=True),
        source.arrays("hyper_synthesis.model.2", n, n, 5, 5, transposed=True),
        source.arrays("hyper_synthesis.model.4", n, m, 3, 3, transposed=True),
    )
    prior, median = _prior(source, "hyper_bottleneck", n)
    source.finish(r"image_bottleneck\.")
    layers = [_transposed(arrays[0], 0.0), _transposed(arrays[1], 0.0), _transposed(arrays[2], None, stride=1)]
    return _imported("progdtd", "progdtd", networks, layers, prior, median, mean=False)


def _filled(source: _Source, shape: balle.BalleShape, names: dict[str, str], first: int) -> nn.ModuleDict:
    """Return networks with the parameters that *names* gives for each role; h_a's begin with layer *first*."""
    networks = nn.ModuleDict(
        {
            "g_a": balle.Analysis(shape),
            "g_s": balle.Synthesis(shape, deviation_input=False),
            "h_a": balle.HyperAnalysis(shape),
        }
    )
    for role, network in networks.items():

        def rename(name: str, role: str = role) -> str:
            _, index, leaf = name.split(".")
            place = int(index) + (first if role == "h_a" else 0)
            return f"{names[role]}.{place}.{_GDN.get(leaf, leaf)}"

        source.fill(network, rename)
    return networks


# DPICT's networks under CompressAI's names.

_BLOCKS = (
    # ours -> theirs
    (r"branch\.0\.0\.", "subpel_conv.0."),  # enlarging blocks
    (r"shortcut\.0\.", "upsample.0."),
    (r"shortcut\.", "skip."),
    (r"features\.(\d)\.0\.branch\.", r"conv_a.\1.conv."),  # attention
    (r"mask\.(\d)\.0\.branch\.", r"conv_b.\1.conv."),
    (r"mask\.3\.", "conv_b.3."),
)
_ENLARGING = ("2", "4", "7")  # blocks of g_s


def _dpict(source: _Source) -> Imported:
    n = source.outputs("g_a.0.conv1")
    shape = paper.PaperShape(n=n, latent_gain=1.0)
    g_a, g_s = paper.Analysis(shape), paper.Synthesis(shape, deviation_input=False)
    networks = nn.ModuleDict({"g_a": g_a, "g_s": g_s, "h_a": paper.HyperAnalysis(shape)})
    for role, network in networks.items():

        def rename(name: str, role: str = role) -> str:
            if name.startswith("leave.0."):
                return name.replace("leave", "g_s.9")
            _, index, rest = name.split(".", 2)
            return f"{role}.{index}.{_of_block(rest, enlarges=role == 'g_s' and index in _ENLARGING)}"

        source.fill(network, rename)
    wide = 3 * n // 2
    first, second, third, fourth, fifth = (
        source.arrays(f"h_s.{name}", *channels, 3, 3)
        for name, channels in (
            ("0", (n, n)),
            ("2.0", (4 * n, n)),
            ("4", (wide, n)),
            ("6.0", (4 * wide, wide)),
            ("8", (2 * n, wide)),
        )
    )
    parameters = [source.arrays(f"entropy_parameters.{index}", 2 * n, 2 * n, 1, 1) for index in (0, 2, 4)]
    prior, median = _prior(source, "entropy_bottleneck", n)
    left_out = source.finish(r"C[RD]R\d\.|context_prediction\.")
    layers = [
        DenseLayer(*first, slope=_LEAKY),
        DenseLayer(*second, enlarges=True, slope=_LEAKY),
        DenseLayer(*third, slope=_LEAKY),
        DenseLayer(*fourth, enlarges=True, slope=_LEAKY),
        # No activation stands between the last layer of h_s and the first that follows it, which is 1x1.
        DenseLayer(*joined(fifth, parameters[0]), slope=_LEAKY),
        DenseLayer(*parameters[1], slope=_LEAKY),
        DenseLayer(*parameters[2]),
    ]
    return _imported("dpict", "dpict", networks, layers, prior, median, mean=True, left_out=left_out)


def _of_block(name: str, *, enlarges: bool) -> str:
    """Return CompressAI's name of a parameter inside a residual block or attention."""
    for ours, theirs in _BLOCKS:
        renamed, changes = re.subn(f"^{ours}", theirs, name)
        if changes:
            return renamed
    if not name.startswith("branch."):
        return name  # a convolution by itself
    place, leaf = name.removeprefix("branch.").split(".")
    if leaf in _GDN:
        return f"{'igdn' if enlarges else 'gdn'}.{_GDN[leaf]}"
    second = "conv" if enlarges else "conv2"
    return f"{'conv1' if place == '0' else second}.{leaf}"


# DPICT's networks under its authors' names: layers are counted from 1 and say what they are, and what is one part of
# several (channels that modes share; normalisations, priors) is part 0.

_SPELLED = (
    (r"^(g_a|g_s)\.(\d)\.(?=conv_[ab]\.)", r"\1.att\2."),
    (r"^(g_a)\.7\.(?=weight|bias)", r"\1.conv7."),
    (r"^(g_s)\.9\.0\.", r"\1.conv9.conv."),
    (r"^(g_a|g_s)\.(\d)\.", r"\1.res\2."),
    (r"\.conv_([ab])\.(\d)\.conv\.(\d)\.", lambda m: f".res_{m[1]}{int(m[2]) + 1}.conv{int(m[3]) // 2 + 1}."),
    (r"\.conv_b\.3\.", ".conv_b4."),
    (r"\.subpel_conv\.0\.", ".subpel_conv.conv."),
    (r"\.upsample\.0\.", ".subpel.conv."),
    (r"\.(i?gdn)\.", r".\1.gdn.0."),
    (r"^(h_a|h_s|entropy_parameters)\.(\d)\.", lambda m: f"{m[1]}.conv{int(m[2]) // 2 + 1}."),
    (r"^(h_s\.conv[24])\.0\.", r"\1.conv."),
    (r"^entropy_bottleneck\.", "entropy_bottleneck.0."),
    (r"^(g_a|g_s)\.(res|att|conv)(\d)\.", lambda m: f"{m[1]}.{m[2]}{int(m[3]) + 1}."),
)  # in this order; the last one counts from 1


def _as_dpict_spells(name: str) -> str:
    """Return the name that DPICT's authors give to what CompressAI calls *name*."""
    for theirs, spelled in _SPELLED:
        name = re.sub(theirs, spelled, name)
    return name


# Layers of another form.

_GDN = {"beta_root": "beta", "gamma_root": "gamma"}


def _converted(name: str, theirs: Tensor) -> Tensor:
    """Return a parameter as our layers hold it: divisive normalisation has the roots of what is above its bounds."""
    leaf = name.rpartition(".")[2]
    if leaf not in _GDN:
        return theirs
    least = _BETA_LEAST if leaf == "beta_root" else 0.0
    effective = theirs.double().clamp_min((least + _PEDESTAL) ** 0.5).square() - _PEDESTAL
    if leaf == "beta_root":
        effective = effective - paper.BETA_MIN  # which our layer adds
    return effective.clamp_min(0.0).sqrt().float()


def _transposed(arrays: tuple[Tensor, Tensor], slope: float | None, stride: int = BLOCK) -> DenseLayer:
    weight, bias = convolution_of_transposed(arrays[0], stride), arrays[1].repeat_interleave(stride**2)
    return DenseLayer(weight, bias, enlarges=stride > 1, slope=slope)


def _prior(source: _Source, name: str, channels: int) -> tuple[FactorizedPrior, Tensor]:
    """Return the prior of symbols, which are counted from each channel's median, and the medians."""
    median = source.take(f"{name}.quantiles", (channels, 1, 3))[:, 0, 1]
    prior = FactorizedPrior(channels, widths=(1, 3, 3, 3, 3, 1))
    old = source.has(f"{name}._matrix0")  # CompressAI's names of some years

    def rename(ours: str) -> str:
        kind, index = ours.split(".")
        single = {"matrices": "_matrix", "biases": "_bias", "factors": "_factor"}[kind]
        return f"{name}.{single}{index}" if old else f"{name}.{ours}"

    source.fill(prior, rename)
    with torch.no_grad():
        prior.biases[0].add_(F.softplus(prior.matrices[0]) * median.reshape(-1, 1, 1))
    return prior, median


def _imported(
    origin: str,
    family: str,
    networks: nn.ModuleDict,
    layers: list[DenseLayer],
    prior: FactorizedPrior,
    median: Tensor,
    *,
    mean: bool,
    left_out: list[str] | None = None,
) -> Imported:
    """Put networks together, with what our g_s adds taken off its last bias, and the median off h_a's."""
    convolutions = {
        role: [one for one in network.modules() if isinstance(one, (nn.Conv2d, nn.ConvTranspose2d))]
        for role, network in networks.items()
    }
    g_s = networks["g_s"]
    centred = isinstance(g_s, balle.Synthesis) and g_s.sigmoid
    with torch.no_grad():
        for last, shift in (
            (convolutions["g_s"][-1], torch.tensor(0.0 if centred else 0.5)),
            (convolutions["h_a"][-1], median),
        ):
            assert last.bias is not None
            last.bias.sub_(shift)
    h_s = DenseHyperSynthesis(layers, median, mean=mean)
    return Imported(origin, family, networks.eval(), h_s.eval(), prior.eval(), left_out or [])

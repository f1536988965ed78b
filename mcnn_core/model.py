"""The multi-scale convolutional network, M-CNN (paper: Methods, "M-CNN"; Supplementary Table 8).

One field enters at several scales, each half the size of the one before. Every scale has three
5 x 5 convolutions of its own and ends at the size of the smallest. There the scales are joined,
mixed by a 1 x 1 convolution and summarised by 128 hidden units, the field's features. A soft-max
over the surrogate classes follows for training only.

The paper's table of layers is not public. Channels, kernels and the 1 x 1 convolution follow the
re-implementation ml-jku/hti-cnn (BSD-2); what neither states is marked [ours].
"""

import hashlib
import math
import os
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from mcnn_core.errors import InputError
from mcnn_core.machine.files import atomic


@dataclass(frozen=True)
class NetworkConfig:
    """The shape of a network."""

    #: channels at each scale; scale n sees the field pooled by 2**n
    scales: tuple[int, ...] = (16, 16, 16, 32, 32, 32, 64)
    fusion: int = 1024  #: channels of the 1 x 1 convolution that mixes the scales
    hidden: int = 128  #: hidden units of the fully connected layer: the features
    norm: bool = False  #: batch normalisation after each convolution and the fully connected layer
    #: halve after each convolution while halvings are left, rather than all at the end
    pool_between: bool = False
    #: average over positions (fields of any size); else max-pool by 2 and flatten (one size)
    average: bool = False
    #: share of hidden units silenced in training [ours: the paper gives no rate]
    dropout: float = 0.1


_DEFAULT = NetworkConfig(
    (16, 16, 16, 32, 32), fusion=512, norm=True, pool_between=True, average=True, dropout=0.0
)
CONFIGS = {
    "published": NetworkConfig(),
    "published-gap": NetworkConfig(average=True),
    "default": _DEFAULT,
    "default-no-norm": replace(_DEFAULT, norm=False),
    "default-three-scales": replace(_DEFAULT, scales=(16, 16, 16)),
}


def multiple_of(config: NetworkConfig) -> int:
    """Return what both sides of a field must be multiples of: 128 for 7 scales, 32 for 5.

    The last factor of two is for pooling before flattening, or for a crop of half the sides.
    """
    return 2 ** len(config.scales)


class MCNN(nn.Module):
    """The network for one kind of field; InputError where the field does not fit.

    Parameters
    ----------
    config : NetworkConfig
    n_classes : int
        Surrogate classes, at least two.
    channels, height, width : int
        A field: 1 to 6 channels, sides in pixels that are multiples of `multiple_of(config)`.
    """

    grey_mean: torch.Tensor
    grey_std: torch.Tensor

    def __init__(
        self, config: NetworkConfig, n_classes: int, channels: int, height: int, width: int
    ):
        super().__init__()
        self.config, self.spec = config, (config, n_classes, channels, height, width)
        _check(*self.spec)
        # Scale n is halved until it has the size of the last.
        self.scales = nn.ModuleList(
            _scale(config, channels, out, len(config.scales) - 1 - n)
            for n, out in enumerate(config.scales)
        )
        self.fusion = nn.Sequential(
            nn.Conv2d(sum(config.scales), config.fusion, 1, bias=not config.norm),
            *_activation(config, nn.BatchNorm2d(config.fusion)),
            *([] if config.average else [nn.MaxPool2d(2)]),
        )
        positions = 1 if config.average else height * width // multiple_of(config) ** 2
        self.features = nn.Sequential(
            nn.Linear(config.fusion * positions, config.hidden, bias=not config.norm),
            *_activation(config, nn.BatchNorm1d(config.hidden)),
        )
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.hidden, n_classes)
        # Grey level 0..255 to standard units, per channel; set from the training fields before
        # training.
        self.register_buffer("grey_mean", torch.full((channels, 1, 1), 127.5))
        self.register_buffer("grey_std", torch.full((channels, 1, 1), 127.5))
        # [ours] Caffe's Xavier; `scale_weights` can fit it to what each layer sees.
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        # PyTorch's stub has no such overload, its documentation has.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def standardise(self, fields: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Turn 8-bit fields into the network's input: here alone grey levels become floats.

        (n, H, W, C) uint8 array or tensor -> (n, C, H, W) float32 tensor in channels-last order on
        the model's device, with mean 0 and standard deviation 1 per channel over training fields.
        """
        if isinstance(fields, np.ndarray):
            fields = torch.as_tensor(np.ascontiguousarray(fields))
        pixels = fields.to(self.grey_mean.device, non_blocking=True)
        # channels last also where all fields were transposed
        x = pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.channels_last)
        width = pixels.shape[2]
        mean, std = (grey.flatten().repeat(width) for grey in (self.grey_mean, self.grey_std))
        by_rows(x).sub_(mean).div_(std)
        return x

    def mixed(self, x: torch.Tensor, bf16: bool = False) -> torch.Tensor:
        """Return the scales of standardised fields, joined and mixed: (n, C, H, W) -> (n, k).

        They are averaged over positions or flattened, in float32. With `bf16` convolutions run in
        bfloat16.
        """
        _, _, _, height, width = self.spec
        if not self.config.average and x.shape[2:] != (height, width):
            raise InputError(
                f"expected fields of {height} x {width} pixels, got {x.shape[2]} x {x.shape[3]}"
            )
        with torch.autocast(x.device.type, torch.bfloat16) if bf16 else nullcontext():
            outputs = []
            for n, scale in enumerate(self.scales):
                x = _halve(x) if n else x.to(torch.bfloat16 if bf16 else x.dtype)
                outputs.append(scale(x))
            x = self.fusion(torch.cat(outputs, dim=1)).float()
        return x.mean(dim=(2, 3)) if self.config.average else x.flatten(1)

    def embed(self, x: torch.Tensor, bf16: bool = False) -> torch.Tensor:
        """Return the features of standardised fields: (n, C, H, W) -> (n, hidden) float32.

        They are the activations of the fully connected layer after its ReLU [ours: before or after
        is open].
        """
        return self.features(self.mixed(x, bf16))

    def scores(self, mixed: torch.Tensor) -> torch.Tensor:
        """Return scores before soft-max from what `mixed` returns: (n, k) -> (n, n_classes)."""
        return self.classifier(self.dropout(self.features(mixed)))

    def forward(self, x: torch.Tensor, bf16: bool = False) -> torch.Tensor:
        """Return scores before soft-max: standardised (n, C, H, W) -> (n, n_classes) float32."""
        return self.scores(self.mixed(x, bf16))


def _check(config: NetworkConfig, n_classes: int, channels: int, height: int, width: int) -> None:
    """Refuse fields and classes that a network cannot take."""
    multiple = multiple_of(config)
    problems = [
        f"{key}: expected a multiple of {multiple}, got {side}"
        for key, side in (("height", height), ("width", width))
        if side < 1 or side % multiple
    ]
    if not 1 <= channels <= 6:
        problems.append(f"channels: expected 1 to 6, got {channels}")
    if n_classes < 2:
        problems.append(f"classes: expected 2 or more, got {n_classes}")
    if problems:
        raise InputError(f"A network of {len(config.scales)} scales cannot take these", problems)


def by_rows(x: torch.Tensor) -> torch.Tensor:
    """View fields (n, C, H, W) in channels-last order as (n, H, W * C).

    Whole rows are computed with four times as fast as the few values of one pixel.
    """
    return x.permute(0, 2, 3, 1).view(len(x), x.shape[2], -1)


def _scale(config: NetworkConfig, inputs: int, width: int, halvings: int) -> nn.Sequential:
    """Three 5 x 5 convolutions, and max-pooling by 2**halvings in all.

    Pooling comes before ReLU: the two commute, and the rest has fewer pixels to do. That batch
    normalisation sees pooled values is [ours].
    """
    early = min(halvings, 2) if config.pool_between else 0
    layers = []
    for k in (int(early > 0), int(early > 1), halvings - early):
        layers += [
            nn.Conv2d(inputs, width, 5, padding=2, bias=not config.norm),
            *([nn.MaxPool2d(2**k)] if k else []),
            *_activation(config, nn.BatchNorm2d(width)),
        ]
        inputs = width
    return nn.Sequential(*layers)


def _halve(x: torch.Tensor) -> torch.Tensor:
    """Max-pool by 2, for few channels in channels-last order five times as fast as F.max_pool2d."""
    x = torch.maximum(x[..., ::2, :], x[..., 1::2, :])
    return torch.maximum(x[..., ::2], x[..., 1::2])


def _activation(config: NetworkConfig, norm: nn.Module) -> list[nn.Module]:
    return [norm, nn.ReLU(inplace=True)] if config.norm else [nn.ReLU(inplace=True)]


@torch.no_grad()
def scale_weights(model: MCNN, x: torch.Tensor) -> None:
    """Scale the weights so that every unit answers some fields with mean 0 and spread 1.

    After Krähenbühl et al. 2016 and Mishkin & Matas 2016, in one pass: each layer is fitted to
    what the layers before it, fitted already, make of standardised fields (n, C, H, W). The scores
    get a spread of 0.1 [ours], so that training begins close to an even guess. A layer without
    biases, which normalisation follows, keeps its means; a unit whose answers differ by rounding
    alone keeps its weights.
    """

    def fit(layer: nn.Conv2d | nn.Linear, _: Any, y: torch.Tensor) -> torch.Tensor:
        units, goal = y.transpose(0, 1).flatten(1), 0.1 if layer is model.classifier else 1.0
        mean = units.mean(1) if layer.bias is not None else torch.zeros(len(units))
        std = units.std(1)
        std = torch.where(std > 1e-5 * units.abs().max(), std / goal, 1.0)
        each = (-1, *[1] * (y.ndim - 2))
        layer.weight.div_(std.view(*each, 1))
        if layer.bias is not None:
            layer.bias.copy_(-mean / std)
        return (y - mean.view(each)) / std.view(each)

    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(fit) for layer in layers]
    model(x)
    for hook in hooks:
        hook.remove()


def digest(model: MCNN) -> str:
    """Return the SHA-256 of all weights and buffers, which tells networks apart."""
    weights = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        weights.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return weights.hexdigest()


def parameters(model: MCNN) -> int:
    """Return the number of weights and biases that training changes."""
    return sum(weight.numel() for weight in model.parameters())


def macs(model: MCNN) -> int:
    """Return the multiply-accumulate operations of convolutions and full connections per field."""
    return sum(
        math.prod(shape[1:]) * layer.weight[0].numel()
        for _, layer, shape in _trace(model)
        if isinstance(layer, nn.Conv2d | nn.Linear)
    )


def architecture_table(model: MCNN) -> pd.DataFrame:
    """Return the table of layers (Supplementary Table 8), made by sending a field through them.

    Columns: layer, type, kernel, stride (text, "" where a layer has none), output (channels x
    height x width) and parameters. The max-pooling that makes scale n from scale n - 1 appears as
    row "scale n, input".
    """
    _, _, channels, height, width = model.spec
    rows: list[tuple[object, ...]] = []
    for name, layer, shape in _trace(model):
        stage, number, *_ = [*name.split("."), ""]
        if name == f"scales.{number}.0" and number != "0":
            size = f"{channels} x {height >> int(number)} x {width >> int(number)}"
            rows.append((f"scale {number}, input", "MaxPool2d", "2", "2", size, 0))
        label = f"scale {number}" if stage == "scales" else stage
        # all are square
        kernel, stride = (np.ravel(getattr(layer, key, ""))[0] for key in ("kernel_size", "stride"))
        size = " x ".join(map(str, shape[1:]))
        count = sum(weight.numel() for weight in layer.parameters())
        rows.append((label, type(layer).__name__, str(kernel), str(stride), size, count))
    columns = ["layer", "type", "kernel", "stride", "output", "parameters"]
    return pd.DataFrame(rows, columns=columns)


def _trace(model: MCNN) -> list[tuple[str, nn.Module, tuple[int, ...]]]:
    """Name, module and output shape of every layer in order, nothing being computed."""
    passed: list[tuple[str, nn.Module, tuple[int, ...]]] = []
    with torch.device("meta"), torch.no_grad():
        shadow = MCNN(*model.spec).eval()
        for name, layer in shadow.named_modules():
            if not list(layer.children()):
                layer.register_forward_hook(
                    lambda layer, _, y, name=name: passed.append((name, layer, tuple(y.shape)))
                )
        shadow(torch.empty(1, *model.spec[2:]))
    return passed


#: Weights of the largest network that is built from a file; the published one has 12 million.
MAX_PARAMETERS = 2**27


def write_yaml(path: str | os.PathLike, model: MCNN, solver: dict[str, Any]) -> None:
    """Write network, solver's settings and table of layers as YAML (Supplementary Software)."""
    import yaml  # only here and in `read_yaml`: training needs torch, NumPy and pandas alone

    network = {**asdict(model.config), "scales": list(model.config.scales)}
    size = dict(zip(("n_classes", "channels", "height", "width"), model.spec[1:], strict=True))
    layers = architecture_table(model).to_dict("records")
    text = yaml.safe_dump(
        {"network": network, "input": size, "solver": solver, "layers": layers}, sort_keys=False
    )
    with atomic(path) as temporary:
        temporary.write_text(
            f"# Solver and network (the paper's Supplementary Software)\n{text}", encoding="utf-8"
        )


def read_yaml(path: str | os.PathLike) -> tuple[MCNN, dict[str, Any]]:
    """Return the network that a file of `write_yaml` describes, untrained, and the settings.

    InputError if the file does not describe a network.
    """
    import yaml

    try:
        document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        network, size = document["network"], document["input"]
        described = (
            NetworkConfig(**{**network, "scales": tuple(network["scales"])}),
            *(size[key] for key in ("n_classes", "channels", "height", "width")),
        )
        with torch.device("meta"):  # takes no memory, whatever is claimed
            weights = parameters(MCNN(*described))
        if weights > MAX_PARAMETERS:
            raise ValueError(f"expected at most {MAX_PARAMETERS:,} weights, got {weights:,}")
        return MCNN(*described), document["solver"]
    # What does not describe a network can fail anywhere in building it, in whatever way.
    except Exception as error:
        raise InputError(
            f"{path} does not describe a network; train again to write it", [str(error)]
        ) from error

"""The network, its training and its features as a careful reader of tutorials would write them.

torch and NumPy alone, but for the optimiser, which is the recipe's; float32 in NCHW order, one
sample at a time in a `Dataset`, the fastest of 0, 1 and 2 workers of a `DataLoader`.
"""

import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from mcnn_core.training import optimiser_for

WORKERS = (0, 1, 2)  #: of a DataLoader; the fastest counts
CPU = torch.device("cpu")


def network(model):
    """Return the same network, with the same weights, in NCHW order.

    It has convolution, ReLU, pooling where the order is free.
    """

    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.scales = nn.ModuleList(
                nn.Sequential(*_usual_order(scale)) for scale in model.scales
            )
            self.fusion, self.features, self.classifier = (
                nn.Sequential(*_usual_order(model.fusion)),
                model.features,
                model.classifier,
            )
            self.dropout = model.dropout

        def embed(self, x):
            outputs = []
            for number, scale in enumerate(self.scales):
                x = F.max_pool2d(x, 2) if number else x
                outputs.append(scale(x))
            x = self.fusion(torch.cat(outputs, dim=1))
            return self.features(x.mean(dim=(2, 3)) if model.config.average else x.flatten(1))

        def forward(self, x):
            return self.classifier(self.dropout(self.embed(x)))

    return Plain().to(memory_format=torch.contiguous_format)


def _usual_order(layers) -> list:
    """Put pooling after ReLU where nothing stands between them."""
    layers = list(layers)
    for i in range(len(layers) - 1):
        if isinstance(layers[i], nn.MaxPool2d) and isinstance(layers[i + 1], nn.ReLU):
            layers[i], layers[i + 1] = layers[i + 1], layers[i]
    return layers


def _dataset(
    pixels: np.ndarray, labels: np.ndarray, mean: np.ndarray, std: np.ndarray, recipe=None
):
    """Return a Dataset of standardised (C, H, W) float32 tensors and labels.

    They are augmented one by one if there is a recipe.
    """

    class Fields(Dataset):
        def __len__(self) -> int:
            return len(labels)

        def __getitem__(self, index: int):
            field, rng = np.array(pixels[index]), np.random.default_rng()
            if recipe:
                height, width = (
                    int(side * recipe.crop) // 16 * 16 if recipe.crop < 1 else side
                    for side in field.shape[:2]
                )
                top, left = (
                    rng.integers(field.shape[0] - height + 1),
                    rng.integers(field.shape[1] - width + 1),
                )
                field = field[top : top + height, left : left + width]
                field = field[::-1] if rng.random() < 0.5 else field
                field = field[:, ::-1] if rng.random() < 0.5 else field
            x = (
                torch.from_numpy(np.ascontiguousarray(field.transpose(2, 0, 1))).float() - mean
            ) / std
            if recipe and (recipe.jitter_gain or recipe.jitter_offset):
                gain, offset = torch.randn(2, len(x), 1, 1)
                x = x * torch.exp(recipe.jitter_gain * gain) + recipe.jitter_offset * offset
            return x, int(labels[index])

    return Fields()


def _endless(loader) -> Iterator:
    while True:
        yield from loader


class Training:
    """The usual loop over the usual `DataLoader`; `run` takes so many steps."""

    def __init__(
        self,
        model,
        pixels: np.ndarray,
        labels: np.ndarray,
        recipe,
        steps: int,
        device: torch.device = CPU,
    ):
        self.model, self.steps, self.recipe, self.device = (
            network(model).to(device).train(),
            steps,
            recipe,
            device,
        )
        self.optimiser = optimiser_for(self.model, recipe)
        self.optimiser.param_groups[0]["lr"] = recipe.learning_rate
        self.data = _dataset(pixels, labels, model.grey_mean.cpu(), model.grey_std.cpu(), recipe)
        self.batches = self._batches(0)
        self.take(1)  # the first step of a process is slow
        took = {}
        for workers in WORKERS:
            self.batches = self._batches(workers)
            self.take(1)  # starts the workers
            took[workers] = self.run()
        self.workers = min(took, key=took.get)
        self.batches = self._batches(self.workers)
        self.take(1)

    def _batches(self, workers: int) -> Iterator:
        return _endless(
            DataLoader(
                self.data,
                self.recipe.batch,
                shuffle=True,
                drop_last=True,
                num_workers=workers,
                persistent_workers=workers > 0,
            )
        )

    def take(self, steps: int) -> None:
        """Take so many steps."""
        for _ in range(steps):
            x, y = (values.to(self.device) for values in next(self.batches))
            self.optimiser.zero_grad()
            loss = F.cross_entropy(self.model(x), y)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
            self.optimiser.step()
            loss.item()

    def run(self) -> float:
        """Return the seconds of `steps` steps."""
        start = time.perf_counter()
        self.take(self.steps)
        return time.perf_counter() - start


class Embedding:
    """Fields through the network in float32; `run` sends all of them."""

    def __init__(self, model, pixels: np.ndarray, batch: int, device: torch.device = CPU):
        self.model, self.batch, self.device = network(model).to(device).eval(), batch, device
        self.data = _dataset(
            pixels, np.zeros(len(pixels), int), model.grey_mean.cpu(), model.grey_std.cpu()
        )
        took = {}
        for self.workers in WORKERS:
            start = time.perf_counter()
            self.run()
            took[self.workers] = time.perf_counter() - start
        self.workers = min(took, key=took.get)

    def run(self) -> np.ndarray:
        """Return the activations, (n, hidden) float32."""
        with torch.no_grad():
            return np.concatenate(
                [
                    self.model.embed(x.to(self.device)).cpu().numpy()
                    for x, _ in DataLoader(self.data, self.batch, num_workers=self.workers)
                ]
            )

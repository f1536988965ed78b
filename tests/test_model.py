import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mcnn_core.errors import InputError
from mcnn_core.model import (
    CONFIGS,
    MCNN,
    NetworkConfig,
    architecture_table,
    macs,
    multiple_of,
    parameters,
    read_yaml,
    scale_weights,
    write_yaml,
)


def fields(model, n=2, seed=0):
    _, _, channels, height, width = model.spec
    return np.random.default_rng(seed).integers(
        0, 256, (n, height, width, channels), dtype=np.uint8
    )


@pytest.mark.parametrize("name, expected", [("published", 11_126_215), ("published-gap", 771_527)])
def test_published_parameters_at_full_resolution(name, expected):
    model = MCNN(CONFIGS[name], 103, 3, 1024, 1280)
    assert parameters(model) == expected == architecture_table(model)["parameters"].sum()


def test_published_cost():
    """25.7 billion multiply-accumulates per field; 18.4 of them at scale 0."""
    assert round(macs(MCNN(CONFIGS["published"], 103, 3, 1024, 1280)) / 1e9, 1) == 25.7
    first = 1024 * 1280 * 25 * (3 * 16 + 16 * 16 + 16 * 16)
    assert round(first / 1e9, 1) == 18.4


def test_published_network_takes_a_full_field():
    model = MCNN(CONFIGS["published"], 103, 3, 1024, 1280).eval()
    with torch.inference_mode():
        x = model.standardise(fields(model, 1))
        features = model.embed(x)
        assert model.classifier(features).shape == (1, 103)
    assert features.shape == (1, 128) and features.min() >= 0 and features.max() > 0


@pytest.mark.parametrize("name", CONFIGS)
def test_every_variant_maps_fields_to_classes(name):
    multiple = multiple_of(CONFIGS[name])
    model = MCNN(CONFIGS[name], 5, 3, multiple, 2 * multiple).eval()
    x = model.standardise(fields(model))
    assert model(x).shape == (2, 5) and model.embed(x).shape == (2, 128)
    assert torch.equal(model(x), model.classifier(model.embed(x)))
    assert multiple == {"published": 128, "published-gap": 128, "default-three-scales": 8}.get(
        name, 32
    )


@pytest.mark.parametrize("channels", range(1, 7))
def test_one_to_six_channels(channels):
    model = MCNN(CONFIGS["default"], 4, channels, 32, 32).eval()
    assert model(model.standardise(fields(model))).shape == (2, 4)


def test_what_does_not_fit_is_refused_all_at_once():
    with pytest.raises(InputError) as error:
        MCNN(CONFIGS["published"], 1, 7, 1000, 1280)
    assert error.value.problems == [
        "height: expected a multiple of 128, got 1000",
        "channels: expected 1 to 6, got 7",
        "classes: expected 2 or more, got 1",
    ]


def test_average_pooling_takes_other_sizes_and_flatten_does_not():
    model = MCNN(CONFIGS["default"], 4, 3, 64, 96).eval()
    assert model(torch.zeros(1, 3, 32, 48)).shape == (1, 4)
    model = MCNN(CONFIGS["published"], 4, 3, 128, 128).eval()
    with pytest.raises(InputError, match="128 x 128"):
        model(torch.zeros(1, 3, 128, 256))


def test_the_published_network_written_out_by_hand():
    """The same weights in plain functions, scale by scale.

    Pool the input, convolve, pool to the common size.
    """
    model = MCNN(CONFIGS["published"], 4, 3, 128, 256).eval()
    x = model.standardise(fields(model))
    outputs = []
    for n, scale in enumerate(model.scales):
        y = F.max_pool2d(x, 2**n)
        for layer in (layer for layer in scale if isinstance(layer, torch.nn.Conv2d)):
            y = F.relu(F.conv2d(y, layer.weight, layer.bias, padding=2))
        outputs.append(F.max_pool2d(y, 2 ** (6 - n)))
    y = F.relu(F.conv2d(torch.cat(outputs, 1), model.fusion[0].weight, model.fusion[0].bias))
    y = F.relu(
        F.linear(F.max_pool2d(y, 2).flatten(1), model.features[0].weight, model.features[0].bias)
    )
    torch.testing.assert_close(model.embed(x), y, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        model(x), F.linear(y, model.classifier.weight, model.classifier.bias), rtol=1e-4, atol=1e-5
    )


def test_grey_levels_become_floats_in_one_place():
    model = MCNN(CONFIGS["default"], 4, 2, 32, 32)
    model.grey_mean.copy_(torch.tensor([10.0, 20.0])[:, None, None])
    model.grey_std.copy_(torch.tensor([2.0, 4.0])[:, None, None])
    batch = fields(model)
    x = model.standardise(batch)
    assert x.dtype == torch.float32 and x.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(x[1, 1, 3, 5], (float(batch[1, 3, 5, 1]) - 20) / 4)
    torch.testing.assert_close(model.standardise(batch[:, ::-1]), x.flip(2))


def test_dropout_is_for_training_only():
    model = MCNN(CONFIGS["published"], 4, 1, 128, 128)
    x = model.standardise(fields(model))
    assert not torch.equal(model.train()(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


def test_bfloat16_agrees_with_float32():
    """Features agree within 2 % of the largest one; angles between fields hardly move."""
    torch.manual_seed(0)
    model = MCNN(CONFIGS["default"], 4, 3, 64, 96).eval()
    x = model.standardise(fields(model, 8))
    with torch.inference_mode():
        exact, rounded = model.embed(x), model.embed(x, bf16=True)
    assert rounded.dtype == torch.float32
    assert (exact - rounded).abs().max() < 0.02 * exact.abs().max()
    assert F.cosine_similarity(exact, rounded).min() > 0.9995


def test_architecture_table_names_every_layer():
    table = architecture_table(MCNN(CONFIGS["published"], 103, 3, 1024, 1280))
    assert list(table) == ["layer", "type", "kernel", "stride", "output", "parameters"]
    convolutions = table[table["type"] == "Conv2d"]
    assert len(convolutions) == 22 and set(convolutions["kernel"]) == {"5", "1"}
    assert (
        convolutions["output"].iloc[0] == "16 x 1024 x 1280"
        and convolutions["output"].iloc[-1] == "1024 x 16 x 20"
    )
    pooled = table[table["layer"] == "scale 6, input"].iloc[0]
    assert (pooled["output"], pooled["kernel"]) == ("3 x 16 x 20", "2")
    assert table["output"].iloc[-1] == "103" and (table["layer"] == "fusion").sum() == 3


def test_yaml_and_back(tmp_path):
    model = MCNN(CONFIGS["default-three-scales"], 7, 2, 64, 32)
    write_yaml(tmp_path / "network.yml", model, {"epochs": 3, "max_steps": None})
    again, solver = read_yaml(tmp_path / "network.yml")
    assert again.spec == model.spec and solver == {"epochs": 3, "max_steps": None}
    assert isinstance(again.config, NetworkConfig)


@pytest.mark.parametrize(
    "text",
    ["[1, 2]", "network: {scales: 3}", "a: [", "network: {scales: [16], colour: red}\ninput: {}"],
)
def test_damaged_yaml_is_refused(tmp_path, text):
    (tmp_path / "network.yml").write_text(text)
    with pytest.raises(InputError, match="does not describe a network"):
        read_yaml(tmp_path / "network.yml")


def test_fields_that_lie_transposed_in_memory_are_standardised_alike():
    model = MCNN(CONFIGS["default"], 3, 2, 32, 32)
    fields = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 2), dtype=np.uint8)
    # NumPy keeps the order in memory.
    turned = np.stack([field.transpose(1, 0, 2) for field in fields])
    assert not turned.flags.c_contiguous
    x = model.standardise(torch.from_numpy(turned))
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(x, model.standardise(np.ascontiguousarray(turned)))


@pytest.mark.parametrize("name", ["published", "default"])
def test_scaled_weights_give_every_unit_spread_1(name):
    torch.manual_seed(0)
    model = MCNN(CONFIGS[name], 4, 3, 128, 128).eval()
    x = 1 + torch.randn(6, 3, 128, 128).cumsum(3).cumsum(2) / 50  # smooth and of any brightness
    scale_weights(model, x)
    units = []
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            layer.register_forward_hook(
                lambda layer, _, y: units.append((layer, y.transpose(0, 1).flatten(1).clone()))
            )
    with torch.no_grad():
        model(x)
    assert len(units) == 3 * len(model.config.scales) + 3
    for layer, answers in units:
        wanted = 0.1 if layer is model.classifier else 1
        varied = answers.std(1)[answers.std(1) > 1e-3 * wanted]
        torch.testing.assert_close(varied, torch.full_like(varied, wanted), rtol=1e-3, atol=0)
        assert len(varied) > 0.9 * len(answers)
        assert layer.bias is None or answers.mean(1).abs().max() < 1e-3

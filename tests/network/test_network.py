"""Backbones, heads and devices."""

import math

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from deepnoise.errors import InputError
from deepnoise.network.batch_norm import reestimate_batch_norm
from deepnoise.network.device import choose_device
from deepnoise.network.heads import HEADS, ArcFace
from deepnoise.network.network import Network, NetworkSpec

SPEC = NetworkSpec("test_resnet", 6, 9, "arcface", 30.0, 0.1)


@pytest.mark.parametrize("margin", [0.0, 0.1, 0.5])
def test_arcface_agrees_with_the_formula_in_double_precision(margin):
    torch.manual_seed(0)
    head = ArcFace(4, 3, 30.0, margin)
    features = torch.randn(40, 4)
    features[0] = -head.weight[1].detach()  # t = pi: t + m passes pi
    target = torch.randint(0, 3, (40,))
    target[0] = 1
    logits = head(features, target)
    for i in range(40):
        for k in range(3):
            z, w = features[i].double(), head.weight[k].detach().double()
            cosine = float(z @ w / z.norm() / w.norm())
            angle = math.acos(max(-1.0, min(1.0, cosine)))
            expected = cosine
            if k == target[i]:
                expected = math.cos(angle + margin) if angle + margin < math.pi else cosine - margin * math.sin(margin)
            assert float(logits[i, k].detach()) == pytest.approx(30 * expected, abs=0.02)


def test_arcface_without_target_is_the_scaled_cosine_and_its_gradient_is_finite_at_cosine_1():
    head = ArcFace(4, 3, 30.0, 0.1)
    features = head.weight.detach()[:1].clone().requires_grad_()
    assert float(head(features).detach()[0, 0]) == pytest.approx(30.0, abs=1e-3)
    head(features, torch.tensor([0])).sum().backward()
    assert torch.isfinite(features.grad).all()


def test_an_unknown_backbone_offers_the_closest_name():
    with pytest.raises(InputError, match="resnet10x.*Did you mean 'resnet1"):
        Network(NetworkSpec("resnet10x", 6, 3, "arcface", 20.0, 0.1))


@pytest.mark.parametrize("backbone", ["legacy_xception", "mobilenetv4_conv_small_050", "test_resnet"])
def test_backbones_take_six_channels_and_give_their_features(backbone):
    """The published backbone, one with a hidden layer after pooling, and the default."""
    network = Network(NetworkSpec(backbone, 6, 9, "arcface", 30.0, 0.1)).eval()
    with torch.inference_mode():
        assert network(torch.randn(2, 6, 64, 64)).shape == (2, 9)
        assert network.embed(torch.randn(2, 6, 64, 64)).shape == (2, network.features)


def test_the_softmax_head_is_a_linear_layer():
    head = HEADS["softmax"](4, 3, 1.0, 0.0)
    x = torch.randn(5, 4)
    torch.testing.assert_close(
        head(x, torch.zeros(5, dtype=torch.long)), F.linear(x, head.linear.weight, head.linear.bias)
    )


def test_an_unavailable_device_is_refused():
    assert choose_device("cpu").type == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="'cuda' is not available here; allowed: cpu"):
            choose_device("cuda")


@pytest.mark.parametrize("channels", [3, 6])
def test_pretrained_weights_come_from_a_safetensors_file(tmp_path, channels):
    source = Network(NetworkSpec("test_resnet", 3, 9, "softmax", 1.0, 0.0))
    file = tmp_path / "weights.safetensors"
    save_file(source.backbone.state_dict(), file)
    network = Network(NetworkSpec("test_resnet", channels, 9, "softmax", 1.0, 0.0), str(file))
    for name, value in source.backbone.state_dict().items():
        loaded = network.backbone.state_dict()[name]
        if loaded.shape == value.shape:
            assert torch.equal(loaded, value), name
        else:  # timm spreads the three channels of the first layer over six
            assert "conv" in name and loaded.shape[1] == channels and not torch.equal(loaded, torch.zeros_like(loaded))


def test_pretrained_weights_that_cannot_be_downloaded_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # as if offline, wherever the test runs
    with pytest.raises(InputError, match="is 'timm', but the weights of test_resnet could not be downloaded"):
        Network(SPEC, "timm")
    with pytest.raises(InputError, match="pretrained_weights is 'imagenet'; allowed: none, timm, or the path"):
        Network(SPEC, "imagenet")
    broken = tmp_path / "weights.safetensors"
    broken.write_bytes(b"half")
    with pytest.raises(InputError, match="weights.safetensors does not fit test_resnet"):
        Network(SPEC, str(broken))
    pickled = tmp_path / "weights.pth"
    torch.save({}, pickled)
    with pytest.raises(InputError, match="allowed: none, timm, or the path of an existing .safetensors file"):
        Network(SPEC, str(pickled))


def test_batch_norm_cannot_be_reestimated_in_a_network_without_it():
    with pytest.raises(InputError, match="the backbone has no BatchNorm"):
        reestimate_batch_norm(Network(NetworkSpec("test_vit", 6, 3, "softmax", 1.0, 0.0)), [])

"""Where PyTorch is installed: the same logits there, before and after pruning."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.graph import paths

torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")
nn = torch.nn

VGG16 = (2, 2, 3, 3, 3)
NARROW = (6, 8, 10, 12, 14)


def vgg(depths, widths, pools, hidden=(), classes=10):
    """torchvision's, where the layers of a stage are equally wide."""
    layers, given = [], 3
    for s, (depth, width) in enumerate(zip(depths, widths, strict=True), start=1):
        for _ in range(depth):
            layers += [nn.Conv2d(given, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            given = width
        if s <= pools:
            layers.append(nn.MaxPool2d(2))
    net = nn.Module()
    net.features = nn.Sequential(*layers)
    if hidden:
        given *= 49
        parts = []
        for width in hidden:
            parts += [nn.Linear(given, width), nn.ReLU(), nn.Dropout()]
            given = width
        net.classifier = nn.Sequential(*parts, nn.Linear(given, classes))
    else:
        net.classifier = nn.Linear(given, classes)

    def forward(x):
        x = net.features(x)
        if hidden:
            x = nn.functional.adaptive_avg_pool2d(x, 7)
        return net.classifier(x.flatten(1) if hidden else x.mean((2, 3)))

    net.forward = forward
    return net


class Block(nn.Module):
    """A residual block of `pytorch_resnet_cifar10` or of torchvision."""

    def __init__(self, given, inner, width, stride, bottleneck, shortcut):
        super().__init__()
        plan = [(inner, 3, stride), (width, 3, 1)]
        if bottleneck:
            plan = [(inner, 1, 1), (inner, 3, stride), (width, 1, 1)]
        self.count, self.stride = len(plan), stride
        before = given
        for i, (out, size, step) in enumerate(plan, start=1):
            conv = nn.Conv2d(before, out, size, step, size // 2, bias=False)
            self.add_module(f"conv{i}", conv)
            self.add_module(f"bn{i}", nn.BatchNorm2d(out))
            before = out
        self.zeros, self.projection = (0, 0), None
        if stride > 1 or given != width:
            if shortcut is None:
                self.zeros = ((width - given) // 2, width - given - (width - given) // 2)
            else:
                conv = nn.Conv2d(given, width, 1, stride, bias=False)
                self.add_module(shortcut, nn.Sequential(conv, nn.BatchNorm2d(width)))
                self.projection = shortcut  # by its name, since a module has one name alone

    def forward(self, x):
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = torch.relu(y) if i < self.count else y
        if self.zeros != (0, 0):
            x = x[:, :, :: self.stride, :: self.stride]
            x = nn.functional.pad(x, (0, 0, 0, 0, *self.zeros))
        return torch.relu(y + (getattr(self, self.projection)(x) if self.projection else x))


def resnet(blocks, widths, *, bottleneck=False, imagenet=False, shortcut="downsample", head="fc"):
    net, given = nn.Module(), widths[0]
    size, stride = (7, 2) if imagenet else (3, 1)
    net.conv1 = nn.Conv2d(3, given, size, stride, size // 2, bias=False)
    net.bn1 = nn.BatchNorm2d(given)
    for s, (count, inner) in enumerate(zip(blocks, widths, strict=True)):
        width = inner * (4 if bottleneck else 1)
        stage = []
        for b in range(count):
            step = 2 if s and not b else 1
            stage.append(Block(given, inner, width, step, bottleneck, shortcut))
            given = width
        net.add_module(f"layer{s + 1}", nn.Sequential(*stage))
    net.add_module(head, nn.Linear(given, 10))

    def forward(x):
        x = torch.relu(net.bn1(net.conv1(x)))
        x = nn.functional.max_pool2d(x, 3, 2, 1) if imagenet else x
        for s in range(len(blocks)):
            x = getattr(net, f"layer{s + 1}")(x)
        return getattr(net, head)(x.mean((2, 3)))

    net.forward = forward
    return net


CIFAR = {"shortcut": None, "head": "linear"}
NETWORKS = {
    "vgg16": (32, lambda: vgg(VGG16, NARROW, 4)),
    "vgg16_imagenet": (224, lambda: vgg(VGG16, NARROW, 5, hidden=(20, 18))),
    "resnet20": (32, lambda: resnet((3, 3, 3), (6, 12, 24), **CIFAR)),
    "resnet56": (32, lambda: resnet((9, 9, 9), (4, 8, 16), shortcut="shortcut", head="linear")),
    "resnet18": (65, lambda: resnet((2, 2, 2, 2), (6, 8, 10, 12), imagenet=True)),
    "resnet50": (64, lambda: resnet((3, 4, 6, 3), (4, 5, 6, 7), bottleneck=True, imagenet=True)),
}
"""The side of the images, and a narrow network of the model's form."""


def lively(net):
    """The network with weights and BatchNorm statistics at random, in evaluation mode."""
    torch.manual_seed(0)
    for name, value in net.state_dict().items():
        if value.ndim == 1:
            spread = torch.rand_like(value)
            value.copy_(0.5 + spread if name.endswith(("weight", "var")) else 0.4 * spread - 0.2)
        elif value.ndim > 1:
            nn.init.kaiming_normal_(value)
    return net.eval()


def logits_there(net, images):
    with torch.no_grad():
        return net(torch.from_numpy(images)).numpy()


def module_of(model, variables, side):
    projects = any("shortcut" in path for path, _ in paths.leaves(variables))
    options = {"shortcut": "B"} if projects else {}
    classes = variables["params"]["classifier"]["bias"].size
    module = jp.models.build(model, num_classes=classes, input_shape=(side, side, 3), **options)
    return jp.models.from_variables(module, variables)


def fitted(net, state, record):
    """The network with layers as narrow as these weights, as `jaxprune.interop` does it."""
    state = {name: torch.from_numpy(array) for name, array in state.items()}
    for name, value in state.items():
        layer, _, leaf = name.rpartition(".")
        layer = net.get_submodule(layer)
        learned = isinstance(getattr(layer, leaf), nn.Parameter)
        setattr(layer, leaf, nn.Parameter(value) if learned else value)
    net.load_state_dict(state, strict=True)
    for name, width in record["widths"].items():
        assert len(net.get_submodule(name).weight) == width
    for name, zeros in record.get("zeros", {}).items():
        net.get_submodule(name).zeros = tuple(zeros)
    for name, said in record.get("groups", {}).items():
        layer, (reads, writes) = net.get_submodule(name), map(said.get, ("reads", "writes"))
        layer.groups = said["groups"]
        if reads:
            layer.register_forward_pre_hook(lambda _, x, reads=reads: x[0][:, reads])
        if writes:
            layer.register_forward_hook(lambda _, x, y, writes=writes: y[:, writes])
    return net.eval()


def assert_close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("model", NETWORKS)
def test_the_same_logits_before_and_after_pruning(model, tmp_path):
    side, make = NETWORKS[model]
    net = lively(make())
    images = np.random.default_rng(0).normal(size=(2, 3, side, side)).astype(np.float32)
    x = jnp.asarray(images.transpose(0, 2, 3, 1))
    variables = jp.interop.from_torch(net.state_dict(), model)
    module = module_of(model, variables, side)
    assert_close(jax.jit(module.apply)(variables, x), logits_there(net, images))

    graph = jp.trace(module.apply, variables, x[:1])
    rng = np.random.default_rng(1)
    drops = {n: rng.permutation(g.size)[: g.size // 3].tolist() for n, g in graph.groups.items()}
    pruned = graph.slice(variables, graph.masks(drops))
    jp.interop.write(tmp_path / "small.safetensors", *jp.interop.to_torch(pruned))
    state, record = jp.interop.to_torch(pruned)
    small = fitted(make(), dict(jp.interop.read(tmp_path / "small.safetensors")), record)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in net.parameters())
    wanted = pruned.wrap(module.apply)(pruned.variables, x)
    assert_close(logits_there(small, images), np.asarray(wanted))
    assert set(small.state_dict()) == set(state)


@pytest.mark.parametrize("model", ["vgg16", "resnet20"])
def test_a_pivoted_network_is_one_of_groups(model):
    side, make = NETWORKS[model]
    net = lively(make())
    images = np.random.default_rng(0).normal(size=(2, 3, side, side)).astype(np.float32)
    x = jnp.asarray(images.transpose(0, 2, 3, 1))
    variables = jp.interop.from_torch(net.state_dict(), model)
    module = module_of(model, variables, side)
    pruned = jp.prune(
        module.apply, variables, [(x, jnp.zeros(2, int))], budget="macs/1.7",
        method=jp.Pivoting(tile=2, rounds=1), key=jax.random.key(0),
    )  # fmt: skip
    state, record = jp.interop.to_torch(pruned)
    small = fitted(make(), state, record)
    assert len(record["groups"]) == sum(b.kept.size > 1 for b in pruned.blocks.values()) > 9
    wanted = pruned.wrap(module.apply)(pruned.variables, x)
    assert_close(logits_there(small, images), np.asarray(wanted))


@pytest.mark.parametrize(
    ("model", "name", "side"),
    [
        ("resnet18", "resnet18", 65),
        ("resnet34", "resnet34", 64),
        ("resnet50", "resnet50", 64),
        ("resnet101", "resnet101", 64),
        ("vgg16_imagenet", "vgg16_bn", 224),
    ],
)
def test_torchvision_s_own(model, name, side):
    torchvision = pytest.importorskip("torchvision", reason="compares with torchvision's models")
    net = lively(getattr(torchvision.models, name)(weights=None))
    images = np.random.default_rng(0).normal(size=(1, 3, side, side)).astype(np.float32)
    variables = jp.interop.from_torch(net.state_dict(), model)
    module = module_of(model, variables, side)
    x = jnp.asarray(images.transpose(0, 2, 3, 1))
    assert_close(jax.jit(module.apply)(variables, x), logits_there(net, images))
    back, _ = jp.interop.to_torch(variables)
    wanted = net.state_dict()
    assert back.keys() == wanted.keys()
    for at, value in wanted.items():
        assert at.endswith("num_batches_tracked") or np.array_equal(back[at], value.numpy()), at


def test_pickled_files_hold_weights_and_nothing_else(tmp_path):
    net = lively(vgg((1, 1, 1), (4, 5, 6), 2))
    state = {n: v.bfloat16() if v.ndim == 4 else v for n, v in net.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "weights.pth")
    held = jp.interop.read(tmp_path / "weights.pth")
    assert held["epoch"] == 3 and held["state_dict"].keys() == state.keys()
    with pytest.raises(ValueError, match=r"features\.15\.weight: missing") as caught:
        jp.interop.from_torch(tmp_path / "weights.pth", "vgg_small")
    assert "bfloat16" not in str(caught.value)
    torch.save(net.features, tmp_path / "module.pt")
    with pytest.raises(ValueError, match=r"module\.pt cannot be read: .*save model\.state_dict"):
        jp.interop.read(tmp_path / "module.pt")
    torch.save([1.0], tmp_path / "list.pt")
    with pytest.raises(ValueError, match=r"list\.pt holds a list; save model\.state_dict"):
        jp.interop.read(tmp_path / "list.pt")
    (tmp_path / "damaged.pt").write_bytes((tmp_path / "weights.pth").read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"damaged\.pt cannot be read: it is damaged"):
        jp.interop.read(tmp_path / "damaged.pt")

"""Weights of other libraries in, pruned networks out.

>>> import jax
>>> import jaxprune as jp
>>> module = jp.models.build("vgg_small", num_classes=10, input_shape=(8, 8, 1))
>>> variables = jp.models.init(module, (8, 8, 1), jax.random.key(0))
>>> state_dict, record = jp.interop.to_torch(variables)         # or a pruned network; NumPy arrays
>>> jp.interop.write("small.safetensors", state_dict, record)   # and small.json
>>> variables = jp.interop.from_torch("small.safetensors", "vgg_small")
>>> module = jp.models.from_variables(module, variables)        # as wide as the weights are
>>> module.apply(variables, jax.numpy.zeros((1, 8, 8, 1))).shape
(1, 10)

The names are torchvision's, and for the ResNets of CIFAR also those with `linear` and `shortcut`.
All names that are missing, unknown or of another shape are in one error. `.safetensors` needs no
PyTorch; `.pt` and `.pth` do, and are read with `weights_only=True`.

In PyTorch, the network of the usual widths takes the narrow weights in the place of its own:

    state = safetensors.torch.load_file("small.safetensors")
    for name, value in state.items():
        layer, _, leaf = name.rpartition(".")
        layer = net.get_submodule(layer)
        learned = isinstance(getattr(layer, leaf), nn.Parameter)
        setattr(layer, leaf, nn.Parameter(value) if learned else value)
    for name, said in record.get("groups", {}).items():       # kernels that are block-diagonal
        layer, (reads, writes) = net.get_submodule(name), map(said.get, ("reads", "writes"))
        layer.groups = said["groups"]
        if reads:
            layer.register_forward_pre_hook(lambda _, x, reads=reads: x[0][:, reads])
        if writes:
            layer.register_forward_hook(lambda _, x, y, writes=writes: y[:, writes])
    net.load_state_dict(state, strict=True)

- The record says how wide each convolution and linear layer of the PyTorch network has to be, by
  its name, and how many zeros a shortcut without weights adds before and after the channels.
- A CIFAR VGG averages the map that its last stage leaves; one of three linear layers is
  `vgg16_imagenet` or `vgg19_imagenet`, whatever its sizes. A VGG's convolutions may lack biases.
- Shortcuts without weights put half of their zeros before the channels, as
  `pytorch_resnet_cifar10` does; `from_torch(..., zeros="after")` reads the other kind.
- A convolution whose blocks lie on a diagonal is one of `groups` there. Where its channels have an
  order of their own the record has `reads`, the index by which they are gathered before it. Other
  blocks, and those of linear layers, go out as dense weights with zeros. `from_torch` reads the
  record beside a file, and `unpruned(variables, record=record)` has the blocks again.

A VGG-16 from PyTorch with 87.92 % on CIFAR-10's test images has the same accuracy here, and the
same logits to 1e-5 (16 images, float32). The other families are compared with PyTorch in
`tests/interop`, whole and pruned, with random weights.
"""

from jaxprune.interop.files import read, read_record, write
from jaxprune.interop.pytorch import from_torch, to_torch, unpruned

__all__ = ["from_torch", "read", "read_record", "to_torch", "unpruned", "write"]

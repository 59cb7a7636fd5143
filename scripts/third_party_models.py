"""Models by others, cut at random to half of each group's units: does every one slice and run?

    pip install keras dm-haiku equinox flaxmodels equimo "transformers<5" nanodl
    python scripts/third_party_models.py --out third_party.json

Each model, with random weights and in evaluation mode, is traced, and the network sliced compared
to the masked one on a random input. A model whose package is not installed is skipped, one
that the output file holds already is not run again; the table is printed in Markdown. `--only`
takes glob patterns of names, such as `keras/*`; `--laws` holds the laws on each as well, gradients
included, and prints what is fixed in it and why. Those of transformers (version 4 is the last
with Flax) and nanodl are built with few and narrow layers.

40 models of four packages at 96 × 96 pixels (flaxmodels' VGG16: 224 × 224), one run on two shared
CPU cores, JAX 0.10.2. "Prunable" is the share of the channels; what is not are mainly images,
classes, and the channels that a LayerNorm normalises over (`allow_inexact=True` opens those). The
difference is the largest between the sliced and the masked network's outputs, in parts of the
largest output, in float32; "run" is to slice, compile and run it:

| model                    | groups | prunable | parameters | MACs   | difference | trace | run   |
|--------------------------|--------|----------|------------|--------|------------|-------|-------|
| keras/VGG16              | 15     | 97 %     | ÷ 3.72     | ÷ 3.97 | 7e-07      | 0.3 s | 0.3 s |
| keras/VGG19              | 18     | 97 %     | ÷ 3.74     | ÷ 3.98 | 8e-07      | 0.3 s | 0.3 s |
| keras/ResNet50           | 37     | 98 %     | ÷ 3.69     | ÷ 3.87 | 4e-07      | 0.9 s | 1.6 s |
| keras/ResNet101          | 71     | 99 %     | ÷ 3.81     | ÷ 3.93 | 3e-07      | 2.0 s | 4.8 s |
| keras/ResNet152          | 105    | 99 %     | ÷ 3.85     | ÷ 3.95 | 4e-07      | 3.1 s | 5.3 s |
| keras/ResNet50V2         | 37     | 98 %     | ÷ 3.69     | ÷ 3.86 | 4e-07      | 1.0 s | 1.5 s |
| keras/ResNet101V2        | 71     | 99 %     | ÷ 3.81     | ÷ 3.93 | 5e-07      | 1.9 s | 3.2 s |
| keras/InceptionV3        | 94     | 98 %     | ÷ 3.68     | ÷ 3.95 | 2e-07      | 1.1 s | 2.8 s |
| keras/InceptionResNetV2  | 204    | 100 %    | ÷ 3.89     | ÷ 3.98 | 4e-07      | 3.1 s | 5.2 s |
| keras/Xception           | 28     | 99 %     | ÷ 3.63     | ÷ 3.92 | 6e-08      | 0.8 s | 1.7 s |
| keras/MobileNet          | 14     | 94 %     | ÷ 3.18     | ÷ 3.78 | 1e-07      | 0.5 s | 1.0 s |
| keras/MobileNetV2        | 25     | 96 %     | ÷ 2.87     | ÷ 3.55 | 1e-07      | 1.2 s | 1.4 s |
| keras/MobileNetV3Small   | 27     | 95 %     | ÷ 2.79     | ÷ 3.12 | 1e-07      | 0.6 s | 1.3 s |
| keras/MobileNetV3Large   | 30     | 97 %     | ÷ 3.18     | ÷ 3.54 | 2e-07      | 1.0 s | 1.4 s |
| keras/DenseNet121        | 120    | 98 %     | ÷ 3.51     | ÷ 3.83 | 1e-07      | 2.0 s | 4.4 s |
| keras/DenseNet169        | 168    | 99 %     | ÷ 3.54     | ÷ 3.85 | 2e-07      | 3.7 s | 5.0 s |
| keras/DenseNet201        | 200    | 99 %     | ÷ 3.61     | ÷ 3.88 | 1e-07      | 4.3 s | 6.9 s |
| keras/NASNetMobile       | 128    | 98 %     | ÷ 3.17     | ÷ 3.46 | 2e-07      | 2.3 s | 7.3 s |
| keras/EfficientNetB0     | 40     | 98 %     | ÷ 3.11     | ÷ 3.53 | 7e-08      | 1.8 s | 3.6 s |
| keras/EfficientNetB1     | 53     | 99 %     | ÷ 3.31     | ÷ 3.57 | 9e-08      | 2.3 s | 4.4 s |
| keras/EfficientNetB2     | 53     | 99 %     | ÷ 3.35     | ÷ 3.60 | 1e-07      | 2.0 s | 2.6 s |
| keras/EfficientNetV2B0   | 44     | 99 %     | ÷ 3.32     | ÷ 3.85 | 1e-07      | 1.1 s | 3.1 s |
| keras/EfficientNetV2S    | 75     | 99 %     | ÷ 3.69     | ÷ 3.94 | 2e-07      | 2.2 s | 2.9 s |
| keras/ConvNeXtTiny       | 18     | 69 %     | ÷ 1.83     | ÷ 1.88 | 6e-07      | 0.6 s | 2.6 s |
| keras/ConvNeXtSmall      | 36     | 71 %     | ÷ 1.89     | ÷ 1.92 | 5e-07      | 1.1 s | 3.6 s |
| haiku/ResNet18           | 12     | 90 %     | ÷ 3.83     | ÷ 3.75 | 2e-07      | 0.2 s | 0.8 s |
| haiku/ResNet34           | 20     | 94 %     | ÷ 3.90     | ÷ 3.87 | 2e-07      | 0.7 s | 1.3 s |
| haiku/ResNet50           | 37     | 98 %     | ÷ 3.69     | ÷ 3.88 | 2e-07      | 1.0 s | 1.5 s |
| haiku/ResNet101          | 71     | 99 %     | ÷ 3.81     | ÷ 3.93 | 4e-07      | 2.9 s | 2.7 s |
| haiku/MobileNetV1        | 14     | 94 %     | ÷ 3.18     | ÷ 3.78 | 1e-07      | 0.6 s | 0.8 s |
| flaxmodels/ResNet18      | 12     | 90 %     | ÷ 3.83     | ÷ 3.75 | 2e-07      | 0.4 s | 0.4 s |
| flaxmodels/ResNet50      | 37     | 98 %     | ÷ 3.69     | ÷ 3.88 | 3e-07      | 0.9 s | 1.1 s |
| flaxmodels/VGG16         | 15     | 98 %     | ÷ 3.88     | ÷ 3.98 | 8e-07      | 0.2 s | 0.4 s |
| equimo/convnext_t        | 18     | 69 %     | ÷ 1.83     | ÷ 1.88 | 4e-07      | 0.5 s | 1.2 s |
| equimo/mobilenetv3_small | 29     | 95 %     | ÷ 3.02     | ÷ 3.41 | 7e-07      | 0.8 s | 2.1 s |
| equimo/mobilenetv3_large | 34     | 97 %     | ÷ 3.50     | ÷ 3.67 | 9e-07      | 0.8 s | 1.7 s |
| equimo/reduceformer_b1   | 23     | 70 %     | ÷ 2.74     | ÷ 2.98 | 5e-07      | 1.1 s | 1.9 s |
| equimo/attnet_xxs        | 21     | 70 %     | ÷ 1.65     | ÷ 1.85 | 5e-07      | 0.5 s | 1.5 s |
| equimo/iformer_t         | 26     | 75 %     | ÷ 1.91     | ÷ 2.93 | 2e-07      | 0.7 s | 2.8 s |
| equimo/vit_tiny          | 24     | 72 %     | ÷ 1.71     | ÷ 1.75 | 2e-07      | 0.6 s | 2.4 s |
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
import importlib
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from jaxprune.graph.compiled import quick_options

Built = tuple[Callable[..., Any], Any, Any]
"""A function, its variables and the structs of its input."""


def image(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def tokens(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def keras_model(name: str, size: int = 96) -> Built:
    applications = importlib.import_module("keras").applications
    model = getattr(applications, name)(
        weights=None, input_shape=(size, size, 3), classifier_activation=None
    )
    return *jp.functional(model), image(1, size, size, 3)


def haiku_model(name: str, size: int = 96) -> Built:
    hk = importlib.import_module("haiku")

    def forward(x: jax.Array, is_training: bool = False) -> jax.Array:
        return getattr(hk.nets, name)(num_classes=1000)(x, is_training)

    transformed = hk.transform_with_state(forward)
    inputs = image(1, size, size, 3)
    initial = functools.partial(transformed.init, is_training=True)
    return *jp.functional(transformed, drawn(initial, inputs)), inputs


def flaxmodels_model(name: str, size: int = 96) -> Built:
    model = getattr(importlib.import_module("flaxmodels"), name)(
        output="logits", pretrained=None, normalize=False
    )
    inputs = image(1, size, size, 3)
    fn, variables = jp.functional(model, drawn(functools.partial(model.init, train=False), inputs))
    return functools.partial(fn, train=False), variables, inputs


def transformers_model(name: str, config: str, inputs: dict[str, Any], **fields: Any) -> Built:
    package = importlib.import_module("transformers")
    try:
        build = getattr(package, f"Flax{name}")
    except AttributeError as error:
        raise ImportError(f"transformers {package.__version__} has no Flax{name}") from error
    model = build(getattr(package, f"{config}Config")(**fields), _do_init=False)
    # Without a key and an example: the shapes of `init_weights` do not depend on the inputs.
    variables = drawn(lambda key: model.init_weights(key, model.input_shape))

    def fn(variables: Any, inputs: dict[str, jax.Array]) -> jax.Array:
        out = model(**inputs, params=variables, train=False)
        return out["logits_per_image" if "logits_per_image" in out else "logits"]

    return fn, variables, inputs


def nanodl_model(name: str, *inputs: Any, **fields: Any) -> Built:
    module = getattr(importlib.import_module("nanodl"), name)(**fields)

    def initial(key: jax.Array, *inputs: jax.Array) -> Any:
        return module.init({"params": key, "dropout": key}, *inputs)

    fn = module.apply
    return lambda variables, inputs: fn(variables, *inputs), drawn(initial, *inputs), inputs


def drawn(init: Callable[..., Any], *inputs: Any, seed: int = 0) -> Any:
    """Random variables without compiling `init`: vectors, such as variances, are positive."""
    rng = np.random.default_rng(seed)

    def draw(struct: Any) -> np.ndarray:
        fan_in = math.prod(struct.shape[:-1])
        if not jnp.issubdtype(struct.dtype, jnp.floating):
            return np.zeros(struct.shape, struct.dtype)
        if fan_in == 1:
            return np.asarray(rng.uniform(0.5, 1.5, struct.shape), struct.dtype)
        return np.asarray(rng.normal(size=struct.shape) / math.sqrt(fan_in), struct.dtype)

    structs = jax.eval_shape(init, jax.random.key(0), *inputs)
    return jax.tree.map(lambda struct: jnp.asarray(draw(struct)), structs)


def equimo_model(module: str, build: str, size: int = 96, **fields: Any) -> Built:
    models = importlib.import_module(f"equimo.models.{module}")
    return equinox_model(getattr(models, build)(**fields), size, key=True)


def equinox_model(made: Any, size: int, key: bool) -> Built:
    fn, variables = jp.functional(*made) if isinstance(made, tuple) else jp.functional(made)
    keys = {"key": jax.random.key(0)} if key else {}
    return lambda v, x: fn(v, x, **keys), variables, image(3, size, size)


_KERAS = """
VGG16 VGG19 ResNet50 ResNet101 ResNet152 ResNet50V2 ResNet101V2 InceptionV3 InceptionResNetV2
Xception MobileNet MobileNetV2 MobileNetV3Small MobileNetV3Large DenseNet121 DenseNet169 DenseNet201
NASNetMobile EfficientNetB0 EfficientNetB1 EfficientNetB2 EfficientNetV2B0 EfficientNetV2S
ConvNeXtTiny ConvNeXtSmall
""".split()
_HAIKU = ("ResNet18", "ResNet34", "ResNet50", "ResNet101", "MobileNetV1")
_FLAXMODELS = {"ResNet18": 96, "ResNet50": 96, "VGG16": 224}
_EQUIMO = {
    "convnext_t": ("convnext", "convnext_t"),
    "mobilenetv3_small": ("mobilenet", "mobilenetv3_small"),
    "mobilenetv3_large": ("mobilenet", "mobilenetv3_large"),
    "reduceformer_b1": ("reduceformer", "reduceformer_backbone_b1"),
    "attnet_xxs": ("attnet", "attnet_xxs"),
    "iformer_t": ("iformer", "iformer_t"),
}

_SMALL: dict[str, Any] = {
    "vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 48, "max_position_embeddings": 32,
}  # fmt: skip
_SEQ2SEQ: dict[str, Any] = {
    "vocab_size": 60, "d_model": 24, "encoder_layers": 1, "decoder_layers": 1, "pad_token_id": 1,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32, "max_position_embeddings": 32, "eos_token_id": 2,
    "decoder_start_token_id": 2,
}  # fmt: skip
_VISION: dict[str, Any] = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
_STAGES: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2]}
_TEXT = {"input_ids": tokens(2, 8)}
_PAIR = {"input_ids": tokens(2, 8), "decoder_input_ids": tokens(2, 6)}
_SPEECH = {"input_features": image(2, 8, 16), "decoder_input_ids": tokens(2, 6)}
_PIXELS = {"pixel_values": image(2, 3, 32, 32)}
_TRANSFORMERS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "bert": ("BertForMaskedLM", "Bert", _TEXT, _SMALL),
    "roberta": ("RobertaForMaskedLM", "Roberta", _TEXT, _SMALL),
    "albert": ("AlbertForMaskedLM", "Albert", _TEXT, _SMALL),
    "electra": ("ElectraForMaskedLM", "Electra", _TEXT, _SMALL),
    "roformer": ("RoFormerForMaskedLM", "RoFormer", _TEXT, _SMALL),
    "distilbert": ("DistilBertForMaskedLM", "DistilBert", _TEXT,
                   {"vocab_size": 60, "dim": 24, "n_layers": 2, "n_heads": 4, "hidden_dim": 32}),
    "gpt2": ("GPT2LMHeadModel", "GPT2", _TEXT, _SMALL),
    "gpt_neo": ("GPTNeoForCausalLM", "GPTNeo", _TEXT,
                {"vocab_size": 60, "hidden_size": 24, "num_layers": 2, "num_heads": 4,
                 "attention_types": [[["global", "local"], 1]], "window_size": 4}),
    "gptj": ("GPTJForCausalLM", "GPTJ", _TEXT, _SMALL | {"rotary_dim": 4}),
    "bloom": ("BloomForCausalLM", "Bloom", _TEXT, _SMALL),
    "xglm": ("XGLMForCausalLM", "XGLM", _TEXT,
             {"vocab_size": 60, "d_model": 24, "num_layers": 2, "attention_heads": 4,
              "ffn_dim": 32, "max_position_embeddings": 32}),
    "llama": ("LlamaForCausalLM", "Llama", _TEXT, _SMALL | {"num_key_value_heads": 4}),
    "llama_grouped": ("LlamaForCausalLM", "Llama", _TEXT, _SMALL | {"num_key_value_heads": 2}),
    "mistral": ("MistralForCausalLM", "Mistral", _TEXT,
                _SMALL | {"num_key_value_heads": 2, "sliding_window": 4}),
    "gemma": ("GemmaForCausalLM", "Gemma", _TEXT,
              _SMALL | {"num_key_value_heads": 1, "head_dim": 8}),
    "bart": ("BartForConditionalGeneration", "Bart", _PAIR, _SEQ2SEQ),
    "marian": ("MarianMTModel", "Marian", _PAIR, _SEQ2SEQ),
    "pegasus": ("PegasusForConditionalGeneration", "Pegasus", _PAIR, _SEQ2SEQ),
    "whisper": ("WhisperForConditionalGeneration", "Whisper", _SPEECH, _SEQ2SEQ
                | {"num_mel_bins": 8, "max_source_positions": 8, "max_target_positions": 16}),
    "wav2vec2": ("Wav2Vec2ForCTC", "Wav2Vec2", {"input_values": image(2, 200)}, _SMALL
                 | {"conv_dim": [12, 12], "conv_stride": [4, 2], "conv_kernel": [5, 3],
                    "feat_extract_norm": "layer", "do_stable_layer_norm": True,
                    "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4}),
    "vit": ("ViTForImageClassification", "ViT", _PIXELS, _VISION),
    "dinov2": ("Dinov2ForImageClassification", "Dinov2", _PIXELS, _VISION),
    "resnet": ("ResNetForImageClassification", "ResNet", _PIXELS, _STAGES),
    "regnet": ("RegNetForImageClassification", "RegNet", _PIXELS, _STAGES | {"groups_width": 4}),
    "clip": ("CLIPModel", "CLIP", _PIXELS | {"input_ids": tokens(2, 8)},
             {"text_config": _SMALL | {"eos_token_id": 2}, "vision_config": _VISION}),
}  # fmt: skip
_NANODL: dict[str, Any] = {
    "num_layers": 1, "hidden_dim": 24, "num_heads": 4, "feedforward_dim": 32, "dropout": 0.1,
    "vocab_size": 60, "embed_dim": 24, "max_length": 8, "start_token": 0, "end_token": 1,
}  # fmt: skip

MODELS: dict[str, Callable[[], Built]] = {
    **{f"keras/{name}": functools.partial(keras_model, name) for name in _KERAS},
    **{f"haiku/{name}": functools.partial(haiku_model, name) for name in _HAIKU},
    **{f"flaxmodels/{name}": functools.partial(flaxmodels_model, name, size)
       for name, size in _FLAXMODELS.items()},
    **{f"equimo/{name}": functools.partial(equimo_model, *m) for name, m in _EQUIMO.items()},
    "equimo/vit_tiny": functools.partial(
        equimo_model, "vit", "vit_tiny_patch16_224", img_size=96
    ),
    **{f"transformers/{name}": functools.partial(transformers_model, flax, config, inputs, **fields)
       for name, (flax, config, inputs, fields) in _TRANSFORMERS.items()},
    **{f"nanodl/{name}": functools.partial(nanodl_model, name, *inputs, **_NANODL)
       for name, inputs in {"LaMDA": [tokens(2, 8)], "T5": [tokens(2, 8), tokens(2, 8)],
                            "Whisper": [image(2, 8, 24), tokens(2, 8)]}.items()},
    "nanodl/Mixtral": functools.partial(
        nanodl_model, "Mixtral", tokens(2, 8), num_groups=2, window_size=4, shift_size=2, **_NANODL
    ),
    "nanodl/UNet": functools.partial(
        nanodl_model, "UNet", image(2, 16, 16, 3), image(2, 1, 1, 1), image_size=(16, 16),
        widths=[8, 12], block_depth=1, embed_dims=8, embed_min_freq=1.0, embed_max_freq=100.0,
    ),
}  # fmt: skip


def example(rng: np.random.Generator, struct: jax.ShapeDtypeStruct) -> jax.Array:
    """A random image, or random tokens that are none of the first, special ones."""
    if jnp.issubdtype(struct.dtype, jnp.integer):
        return jnp.asarray(rng.integers(3, 20, struct.shape), struct.dtype)
    return jnp.asarray(rng.normal(size=struct.shape), struct.dtype)


def cut_in_half(name: str, laws: bool = False, seed: int = 0) -> dict[str, Any]:
    """One row of the table.

    Raises:
      ImportError: the model's package is not installed.
    """
    fn, variables, inputs = MODELS[name]()
    rng = np.random.default_rng(seed)
    variables = jax.tree.map(functools.partial(seen, rng), variables)
    x = jax.tree.map(functools.partial(example, rng), inputs)
    began = time.perf_counter()
    graph = jp.trace(fn, variables, x)
    traced = time.perf_counter() - began
    masks = {n: np.zeros(g.size, np.float32) for n, g in graph.groups.items()}
    for mask in masks.values():
        mask[rng.permutation(len(mask))[: (len(mask) + 1) // 2]] = 1
    began = time.perf_counter()
    pruned = graph.slice(variables, masks)
    small = jax.jit(pruned.wrap(fn), compiler_options=quick_options())
    out = jax.tree.leaves(jax.block_until_ready(small(pruned.variables, x)))[0]
    ran = time.perf_counter() - began
    masked = jax.jit(graph.masked(fn), compiler_options=quick_options())
    expected = jax.tree.leaves(masked(variables, masks, x))[0]
    before, after = graph.cost(), graph.cost(masks)
    if laws:
        print(f"{name}: {graph.check(fn, variables, x)}")
        print("\n".join(f"  {axis}: {reason}" for axis, reason in graph.fixed.items()), flush=True)
    return {
        "groups": len(graph.groups),
        "prunable": prunable(graph, variables),
        "params": before.params / after.params,
        "macs": before.macs / after.macs,
        "difference": float(jnp.abs(out - expected).max() / jnp.abs(expected).max()),
        "trace": traced,
        "run": ran,
    }


def seen(rng: np.random.Generator, leaf: Any) -> Any:
    """A zero or almost zero weight (last layer, layer scale) hides mistakes: it is drawn anew."""
    # In NumPy: JAX would compile this for every shape.
    if not jnp.issubdtype(leaf.dtype, jnp.floating) or np.abs(np.asarray(leaf)).max() > 1e-3:
        return leaf
    return jnp.asarray(np.abs(rng.normal(size=leaf.shape)) / 4, leaf.dtype)


def prunable(graph: jp.ChannelGraph, variables: Any) -> float:
    """The share of the input and output channels of all kernels that lie in a group."""
    from jaxprune.graph import paths

    shapes = {path: leaf.shape for path, leaf in paths.leaves(variables)}
    # A bias or a scale can have axes of size 1 beside its own.
    shapes = {path: shape for path, shape in shapes.items() if sum(n > 1 for n in shape) > 1}
    inside = sum(
        len(np.unique(m.positions))
        for group in graph.groups.values()
        for m in group.members
        if m.path in shapes
    )
    outside = 0
    for axis, reason in graph.fixed.items():
        path, _, number = axis.removesuffix("]").rpartition("[")
        if path in shapes and "a window slides" not in reason:
            outside += shapes[path][int(number)]
    return inside / max(1, inside + outside)


def main() -> None:
    parser = argparse.ArgumentParser(description="Cuts models of other packages in half.")
    parser.add_argument("--out", type=Path, default=Path("third_party.json"))
    parser.add_argument("--only", nargs="*", default=["*"])
    parser.add_argument("--laws", action="store_true", help="gradients too, and what is fixed")
    arguments = parser.parse_args()
    rows = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    for name in MODELS:
        if name in rows or not any(fnmatch.fnmatch(name, only) for only in arguments.only):
            continue
        try:
            rows[name] = cut_in_half(name, arguments.laws)
        except ImportError as problem:
            print(f"{name}: skipped, {problem}", flush=True)
            continue
        except Exception as problem:  # the next model can still be run
            print(f"{name}: FAILED, {type(problem).__name__}: {problem}"[:2000], flush=True)
            continue
        print(f"{name}: {rows[name]}", flush=True)
        arguments.out.write_text(json.dumps(rows, indent=2))
        jax.clear_caches()
    print(table(rows))


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = [
        "| model | groups | channels prunable | parameters | MACs | largest difference | trace "
        "| slice, compile, run |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in MODELS:
        if name in rows:
            r = rows[name]
            lines.append(
                f"| {name} | {r['groups']} | {100 * r['prunable']:.0f} % | ÷ {r['params']:.2f} | "
                f"÷ {r['macs']:.2f} | {r['difference']:.0e} | {r['trace']:.1f} s | "
                f"{r['run']:.1f} s |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()

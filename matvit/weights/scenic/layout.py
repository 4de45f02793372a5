"""What Scenic calls the parameters of a MatViT, what shapes they have, and what timm calls them.

The numbers agree because timm is told of Flax's habits: GELU in its tanh form, LayerNorm with eps 1e-6 (the
default of timm's ViT too) and, where the model pools over all tokens, no second norm after the pooling.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from matvit.errors import CheckpointError, UnknownModelError
from matvit.weights.scenic.msgpack_file import Leaves

_BLOCK = "Transformer/encoderblock_{}"
_ATTENTION = "MultiHeadDotProductAttention_0"
_QKV = ("query", "key", "value")
_EMBEDDING = "embedding/kernel"
_POSITIONS = "Transformer/posembed_input/pos_embedding"
_HEAD = "output_projection"
_FOREIGN = {
    "MAPHead_0": "an attention-pooling head (classifier 'map')",
    "pre_logits": "a hidden layer before its classifier (representation_size)",
}


@dataclass(frozen=True)
class Layout:
    """The sizes from which everything else follows.

    Attributes:
        width: Of the tokens.
        depth: Number of layers.
        heads: Of each attention.
        hidden: FFN hidden units of each layer.
        patch: Side of a patch in pixels.
        channels: Of an image.
        grid: Patches along a side of the image.
        classes: 0 without a classifier.
        class_token: Whether there is one; without, the model pools over all tokens.
    """

    width: int
    depth: int
    heads: int
    hidden: int
    patch: int
    channels: int
    grid: int
    classes: int
    class_token: bool

    @classmethod
    def of(cls, leaves: Leaves) -> "Layout":
        """Read the sizes off the parameters, and check that these are all there and nothing else is.

        Raises:
            UnknownModelError: They are those of another kind of model.
            CheckpointError: One is missing or has another shape than the rest says.
        """

        def shape(name: str, dimensions: int) -> tuple[int, ...]:
            if name not in leaves:
                raise CheckpointError(f"it has no {name}")
            if leaves[name].ndim != dimensions:
                raise CheckpointError(f"{name} has shape {leaves[name].shape}, not {dimensions} dimensions")
            return leaves[name].shape

        if not any(name.startswith(("embedding/", "Transformer/")) for name in leaves):
            raise UnknownModelError("it holds no Vision Transformer of Scenic's")
        height, patch, channels, width = shape(_EMBEDDING, 4)
        if height != patch:
            raise UnknownModelError(f"its patches have {height} x {patch} pixels: only squares are known")
        _, heads, head_width = shape(f"{_BLOCK.format(0)}/{_ATTENTION}/query/kernel", 3)
        if heads * head_width != width:
            raise UnknownModelError(f"{heads} heads of {head_width} do not make up its width of {width}")
        class_token = "cls" in leaves
        patches = shape(_POSITIONS, 3)[1] - class_token
        grid = math.isqrt(patches)
        if not grid or grid**2 != patches:
            raise CheckpointError(f"its positions are for {patches} patches, which make no square")
        layers = re.compile(rf"{_BLOCK.format('([0-9]{1,4})')}/")  # Numbers, so that 10 comes after 2.
        layout = cls(
            width=width,
            depth=1 + max(int(found[1]) for name in leaves if (found := layers.match(name))),
            heads=heads,
            hidden=shape(f"{_BLOCK.format(0)}/MlpBlock_0/Dense_0/kernel", 2)[1],
            patch=patch,
            channels=channels,
            grid=grid,
            classes=shape(f"{_HEAD}/kernel", 2)[1] if f"{_HEAD}/kernel" in leaves else 0,
            class_token=class_token,
        )
        layout._check(leaves)
        return layout

    @property
    def classifier(self) -> str:
        """Scenic's name of the pooling, as far as the parameters tell: gmp and gsp have those of gap."""
        return "token" if self.class_token else "gap"

    @property
    def image_size(self) -> int:
        """Side of an image in pixels."""
        return self.patch * self.grid

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Scenic's name of every parameter -> its shape."""
        width, hidden, heads = self.width, self.hidden, (self.heads, self.width // self.heads)
        block: dict[str, tuple[int, ...]] = {
            **{f"LayerNorm_{n}/{part}": (width,) for n in (0, 1) for part in ("scale", "bias")},
            **{f"{_ATTENTION}/{of}/kernel": (width, *heads) for of in _QKV},
            **{f"{_ATTENTION}/{of}/bias": heads for of in _QKV},
            f"{_ATTENTION}/out/kernel": (*heads, width),
            f"{_ATTENTION}/out/bias": (width,),
            "MlpBlock_0/Dense_0/kernel": (width, hidden),
            "MlpBlock_0/Dense_0/bias": (hidden,),
            "MlpBlock_0/Dense_1/kernel": (hidden, width),
            "MlpBlock_0/Dense_1/bias": (width,),
        }
        head = {f"{_HEAD}/kernel": (width, self.classes), f"{_HEAD}/bias": (self.classes,)}
        return {
            _EMBEDDING: (self.patch, self.patch, self.channels, width),
            "embedding/bias": (width,),
            **({"cls": (1, 1, width)} if self.class_token else {}),
            _POSITIONS: (1, self.grid**2 + self.class_token, width),
            **{f"{_BLOCK.format(i)}/{name}": size for i in range(self.depth) for name, size in block.items()},
            **{f"Transformer/encoder_norm/{part}": (width,) for part in ("scale", "bias")},
            **(head if self.classes else {}),
        }

    def _check(self, leaves: Leaves) -> None:
        expected = self.shapes()
        for name in sorted(leaves.keys() - expected.keys()):
            foreign = _FOREIGN.get(name.partition("/")[0], f"{name}, which is no part of a MatViT")
            raise UnknownModelError(f"it is another kind of model: it has {foreign}")
        for name, size in expected.items():
            if name not in leaves:
                raise CheckpointError(f"it has no {name}")
            if leaves[name].shape != size:
                raise CheckpointError(f"{name} has shape {leaves[name].shape}; by the others it is {size}")

    def model_args(self) -> dict[str, Any]:
        """The model in timm's words."""
        ratio = self.hidden / self.width
        return {
            "embed_dim": self.width,
            "depth": self.depth,
            "num_heads": self.heads,
            # timm truncates the product.
            "mlp_ratio": ratio if int(ratio * self.width) == self.hidden else math.nextafter(ratio, math.inf),
            "patch_size": self.patch,
            "img_size": self.image_size,
            "in_chans": self.channels,
            "num_classes": self.classes,
            "act_layer": "gelu_tanh",
            **({} if self.class_token else {"class_token": False, "global_pool": "avg", "fc_norm": False}),
        }

    def preprocessing(self) -> dict[str, Any]:
        """How Scenic prepares images for evaluation (`projects/matvit/classification_eval_main.py`).

        B/16: ``resize_small(256)|central_crop(224)``, which averages areas. L/16: ``resize(384)``, which
        squashes, bilinear without antialiasing. Pillow has neither; its bilinear filter antialiases. On
        photographs of ImageNet's usual 500 x 375 pixels none of its filters is clearly nearer to averaging
        areas: mean difference about one grey level of 255, two to three for ``box`` (all-or-nothing weights).
        """
        squash = self.image_size > 224
        return {
            "input_size": (self.channels, self.image_size, self.image_size),
            "num_classes": self.classes,
            "mean": (0.5,) * self.channels,
            "std": (0.5,) * self.channels,
            "interpolation": "bilinear",
            "crop_mode": "squash" if squash else "center",
            "crop_pct": 1.0 if squash else 0.875,
        }

    def state_dict(self, leaves: Leaves) -> dict[str, Tensor]:
        """The parameters under timm's names; they leave `leaves` one by one, so that each is held once.

        Raises:
            CheckpointError: One is not finite.
        """

        def take(name: str, change: Callable[[NDArray[Any]], NDArray[Any]] = np.asarray) -> Tensor:
            leaf = leaves.pop(name)
            if not np.isfinite(leaf).all():
                raise CheckpointError(f"{name} holds values that are not finite")
            return torch.from_numpy(np.array(change(leaf), order="C"))  # A copy: the leaf is read only.

        def linear(name: str, into: str) -> dict[str, Tensor]:
            weight = take(f"{name}/kernel", np.transpose)
            return {f"{into}.weight": weight, f"{into}.bias": take(f"{name}/bias")}

        def norm(name: str, into: str) -> dict[str, Tensor]:
            return {f"{into}.weight": take(f"{name}/scale"), f"{into}.bias": take(f"{name}/bias")}

        state = {
            # From height, width, in, out.
            "patch_embed.proj.weight": take(_EMBEDDING, lambda kernel: kernel.transpose(3, 2, 0, 1)),
            "patch_embed.proj.bias": take("embedding/bias"),
            **({"cls_token": take("cls")} if self.class_token else {}),
            "pos_embed": take(_POSITIONS),
            **norm("Transformer/encoder_norm", "norm"),
            **(linear(_HEAD, "head") if self.classes else {}),
        }
        for i in range(self.depth):
            block, into = _BLOCK.format(i), f"blocks.{i}"
            attention = f"{block}/{_ATTENTION}"
            kernels = [take(f"{attention}/{of}/kernel", lambda k: k.reshape(self.width, -1).T) for of in _QKV]
            biases = [take(f"{attention}/{of}/bias").flatten() for of in _QKV]
            out = take(f"{attention}/out/kernel", lambda kernel: kernel.reshape(-1, self.width).T)
            state |= {
                **norm(f"{block}/LayerNorm_0", f"{into}.norm1"),
                f"{into}.attn.qkv.weight": torch.cat(kernels),
                f"{into}.attn.qkv.bias": torch.cat(biases),
                f"{into}.attn.proj.weight": out,
                f"{into}.attn.proj.bias": take(f"{attention}/out/bias"),
                **norm(f"{block}/LayerNorm_1", f"{into}.norm2"),
                **linear(f"{block}/MlpBlock_0/Dense_0", f"{into}.mlp.fc1"),
                **linear(f"{block}/MlpBlock_0/Dense_1", f"{into}.mlp.fc2"),
            }
        return state

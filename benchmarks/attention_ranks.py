"""What narrower attention heads lose for what they save, in closed form (CORP, arXiv 2602.05243).

    python benchmarks/attention_ranks.py DINO clothing/train > benchmarks/results/knob/attention_ranks.txt

Scores of a head are x_i' M x_j for tokens x behind a norm, with M = Wq' Wk, biases included; the M of rank r
that changes them least, over pairs of tokens drawn independently, comes from the singular values of
C^1/2 M C^1/2, where C is the tokens' second moment. What a head adds is Wo Wv x; of rank r, and with the mean
put right, from the singular values of Wo Wv S^1/2, where S is their covariance. A loss is the mean squared
distance of unit embeddings, as in `matvit.submodels.frontier`, of other images than those that gave C.
"""

import argparse
import timeit
from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import matvit
from retrieval import Encoder
from retrieval.encoding.drawn_images import DrawnImages

SHARES = (3 / 4, 1 / 2)
"""Of a head's width that are kept."""


def main() -> None:
    """Print one line an axis, layer and strength."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="checkpoint, pooled by token, with timm's own attention")
    parser.add_argument("images", help="folder or shards")
    options = parser.parse_args()
    model = matvit.load(options.model)
    encoder = Encoder(model, device=torch.device("cpu"), dtype=torch.float32, location=options.model)
    images = DrawnImages.read(options.images, encoder, fit=48, check=32)
    full, checked = encoder.cost(encoder.space.full).macs, torch.cat(images.check)
    wanted = torch.from_numpy(encoder.embed(checked))

    def show(axis: str, layer: int, saved: float, loss: float) -> None:
        a_percent = loss / saved / 100
        print(
            f"{axis:18} layer {layer:2}: loss {loss:.5f}, saves {saved:6.2%}: {a_percent:.5f} a %",
            flush=True,
        )

    for number, (block, moments) in enumerate(zip(model.blocks, moments_of(model, images), strict=True)):
        attn, tokens = block.attn, encoder.space.tokens.patches(None) + 1
        kept = {name: tensor.clone() for name, tensor in attn.state_dict().items()}
        for axis, narrow in (("query-key", narrow_scores), ("value-output", narrow_answers)):
            for share in SHARES:
                narrow(attn, moments, round(share * attn.head_dim))
                loss = float((torch.from_numpy(encoder.embed(checked)) - wanted).square().sum(1).mean())
                # Two projections, and one of the two products of attention.
                whole = tokens * attn.attn_dim * (2 * attn.attn_dim + tokens)
                show(f"{axis} {share:.0%}", number, (1 - share) * whole / full, loss)
                attn.load_state_dict(kept)
    print(*times(model.blocks[0].attn, encoder.space.tokens.patches(None) + 1), sep="\n")


@torch.no_grad()
def moments_of(model: nn.Module, images: DrawnImages) -> list[Tensor]:
    """Of each layer, the second moments of what its attention reads, and of a 1 behind it, (D + 1, D + 1)."""
    sums: list[Tensor] = [torch.zeros(()) for _ in model.blocks]
    counts = [0] * len(sums)

    def add(number: int, tokens: Tensor) -> None:
        x = F.pad(tokens.flatten(0, 1), (0, 1), value=1).double()
        sums[number] = sums[number] + x.T @ x
        counts[number] += len(x)

    hooks = [
        block.norm1.register_forward_hook(lambda _, __, tokens, number=number: add(number, tokens))
        for number, block in enumerate(model.blocks)
    ]
    for batch in images.fit.batches():
        model.forward_features(batch)
    for hook in hooks:
        hook.remove()
    return [total / count for total, count in zip(sums, counts, strict=True)]


def roots(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The square root of a matrix of moments, and its inverse."""
    values, vectors = torch.linalg.eigh(matrix)
    values = values.clamp_min(values.max() * 1e-10)
    return (vectors * values.sqrt()) @ vectors.T, (vectors / values.sqrt()) @ vectors.T


def heads(attn: nn.Module) -> Iterator[tuple[slice, Tensor, Tensor, Tensor, Tensor]]:
    """Of each head: its columns of the projection, queries, keys and values with their biases, and Wo."""
    weights = torch.cat([attn.qkv.weight, attn.qkv.bias[:, None]], 1).detach().double()
    q, k, v = weights.view(3, attn.num_heads, attn.head_dim, -1)
    for head in range(attn.num_heads):
        columns = slice(head * attn.head_dim, (head + 1) * attn.head_dim)
        yield columns, q[head], k[head], v[head], attn.proj.weight[:, columns].detach().double()


@torch.no_grad()
def narrow_scores(attn: nn.Module, moments: Tensor, rank: int) -> None:
    """Give queries and keys that rank; the rest of their units become zero."""
    root, inverse = roots(moments)
    narrow = torch.zeros(2, attn.attn_dim, len(moments), dtype=torch.double)
    for columns, q, k, _, _ in heads(attn):
        left, values, right = torch.linalg.svd(root @ q.T @ k @ root)
        kept = slice(columns.start, columns.start + rank)
        narrow[0, kept] = (left[:, :rank] * values[:rank].sqrt()).T @ inverse
        narrow[1, kept] = (right[:rank] * values[:rank, None].sqrt()) @ inverse
    attn.qkv.weight[: 2 * attn.attn_dim] = narrow[..., :-1].flatten(0, 1).float()
    attn.qkv.bias[: 2 * attn.attn_dim] = narrow[..., -1].flatten().float()


@torch.no_grad()
def narrow_answers(attn: nn.Module, moments: Tensor, rank: int) -> None:
    """Give values and projection that rank; the rest of their units become zero."""
    mean = moments[-1, :-1]
    root, inverse = roots(moments[:-1, :-1] - mean[:, None] * mean)
    values_of = torch.zeros(attn.attn_dim, len(moments), dtype=torch.double)
    projection, bias = torch.zeros_like(attn.proj.weight).double(), attn.proj.bias.double()
    for columns, _, _, v, out in heads(attn):
        left, values, right = torch.linalg.svd(out @ v[:, :-1] @ root, full_matrices=False)
        kept = slice(columns.start, columns.start + rank)
        values_of[kept, :-1] = right[:rank] @ inverse
        values_of[kept, -1] = -values_of[kept, :-1] @ mean
        projection[:, kept] = left[:, :rank] * values[:rank]
        bias = bias + out @ (v[:, :-1] @ mean + v[:, -1])
    attn.qkv.weight[2 * attn.attn_dim :] = values_of[:, :-1].float()
    attn.qkv.bias[2 * attn.attn_dim :] = values_of[:, -1].float()
    attn.proj.weight.copy_(projection)
    attn.proj.bias.copy_(bias)


@torch.inference_mode()
def times(attn: nn.Module, tokens: int) -> Iterator[str]:
    """How long attention takes for one image, with heads of each width for queries and keys."""
    for share in (1, *SHARES):
        q, k, v = (
            torch.randn(1, attn.num_heads, tokens, round(each * attn.head_dim)) for each in (share, share, 1)
        )
        attention = partial(F.scaled_dot_product_attention, q, k, v)
        median = sorted(timeit.repeat(attention, number=20, repeat=9))[4] / 20
        yield f"queries and keys of {q.shape[-1]}, values of {v.shape[-1]}: {1000 * median:.2f} ms an image"


if __name__ == "__main__":
    main()

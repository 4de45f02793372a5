# %% [markdown]
# # What nests in what
#
# A MatViT is a Vision Transformer whose feed-forward layers were trained so that their first hidden units
# do useful work on their own. To run a smaller encoder is to use fewer of them: a slice of a matrix in
# place of the whole. This notebook opens one up: the slices, the encoders made of them, what they cost, and
# how a budget picks one.
#
# The idea is MatFormer's (*MatFormer: Nested Transformer for Elastic Inference*, arXiv 2310.07707).

# %% [markdown]
# What you may want to change: the model whose costs are shown further down, and the budgets put to it. The
# environment variables `MATVIT_NOTEBOOK_ARCHITECTURE` and `MATVIT_NOTEBOOK_BUDGETS` do it from outside.

# %% tags=["parameters"]
import os

ARCHITECTURE = os.environ.get("MATVIT_NOTEBOOK_ARCHITECTURE", "matvit_base_patch16_224")
BUDGETS = os.environ.get("MATVIT_NOTEBOOK_BUDGETS", "S 60% 9gmacs 18gflops 50mparams S*5+M*7").split()

# %%
from copy import deepcopy

import matplotlib.pyplot as plt
import numpy as np
import timm
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import matvit
from matvit.weights.checkpoint import SHIPPED

# %% [markdown]
# ## A trained model
#
# The model of handwritten digits that comes with the package is small enough to look at: four layers, each
# with a feed-forward layer of 64 -> 256 -> 64 numbers.

# %%
model = matvit.load(SHIPPED / "digits").eval()
print(model.blocks[0].mlp)

# %% [markdown]
# ## Submodels are values
#
# A *submodel* says how many hidden units each layer keeps, counted from the first. It is a value like a
# number or a tuple: it can be printed, compared and used as a key, and no model is ever switched into it.

# %%
small = model.submodel("S")
print(small, small.widths)
print(matvit.Submodel((32, 32, 64, 64)) == model.submodel("S*2+M*2"))

# %% [markdown]
# S, M, L and XL are the *granularities*: an eighth, a quarter, a half and all of the hidden units, in every
# layer.

# %%
for name, share in model.granularities.items():
    print(f"{name:>2}  keeps {share:5.1%}: {model.submodel(name).widths}")

# %% [markdown]
# ## A slice, not a copy
#
# `extract(..., copy=False)` cuts a submodel out. Its matrices start at the very address where those of the
# full encoder start: S is the first 32 rows of the first matrix, and the first 32 columns of the second. M
# holds S, and L holds M.

# %%
whole = model.blocks[0].mlp
for name in model.granularities:
    cut = model.extract(model.submodel(name), copy=False).blocks[0].mlp
    same_place = cut.fc1.weight.data_ptr() == whole.fc1.weight.data_ptr()
    same_place &= cut.fc2.weight.data_ptr() == whole.fc2.weight.data_ptr()
    fc1, fc2 = (tuple(layer.weight.shape) for layer in (cut.fc1, cut.fc2))
    print(f"{name:>2}  fc1 {fc1!s:9}  fc2 {fc2!s:9}  same memory: {same_place}")

# %% [markdown]
# ## Less work, the same answer as a mask
#
# Cutting hidden units away must equal computing all of them and zeroing those that are not wanted. The
# submodel is an argument of the call.

# %%
masked = deepcopy(model)
for block, width in zip(masked.blocks, small.widths, strict=True):
    block.mlp.fc2.weight.data[:, width:] = 0  # nobody listens to the units that are left out

images = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
with torch.inference_mode():
    difference = (model(images, small) - masked(images)).abs().max()
print(f"largest difference of the logits: {difference:.1e}")

# %% [markdown]
# ## MACs and FLOPs
#
# One multiply and one add make a multiply-accumulate (MAC), which is two floating-point operations (FLOPs).
# Many papers print MACs and call them FLOPs; here both go by their own name. `model.cost` knows them from
# the shapes alone, and torch's own counter, which watches a real call, agrees. (It knows attention as two
# matrix products; of the fused kernel for CPUs it knows nothing before torch 2.15.)

# %%
for submodel in model.space.uniforms():
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.inference_mode():
        model(images[:1], submodel)
    cost = model.cost(submodel)
    print(
        f"{submodel!s:>2}  {cost.macs:9,} MACs  {cost.flops:9,} FLOPs, counted {counter.get_total_flops():9,}"
    )

# %% [markdown]
# Attention, the embedding of the patches and the norms are the same in every submodel: that is why S, with
# an eighth of the hidden units, costs a good deal more than an eighth.

# %% [markdown]
# ## Mix'n'Match
#
# Four sizes are a coarse knob. Different layers may take different granularities, and Mix'n'Match is a
# simple rule for which: of the two granularities around a budget, the first layers take the smaller and the
# last layers the larger. On 12 layers this gives 37 encoders, ordered by cost. Only their shapes matter
# here, so the model is made without weights.

# %%
with torch.device("meta"):
    large = timm.create_model(ARCHITECTURE, num_classes=0)
curve = large.space.curve
print(len(curve), "submodels, from", curve[0], "by way of", curve[5], "to", curve[-1])

# %% [markdown]
# On the left every row is an encoder and every column a layer, darker where the layer keeps more. On the
# right is what each of them costs. From L to XL the steps are the widest, since each adds half of a layer
# at once.

# %%
widths = np.array([submodel.widths for submodel in curve])
gmacs = [large.cost(submodel).gmacs for submodel in curve]

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
left.imshow(np.log2(widths), aspect="auto", cmap="Blues", origin="lower", vmin=np.log2(widths.min()) - 1)
left.set(xlabel="layer", ylabel="place on the curve", title="hidden units kept")
right.plot(gmacs, range(len(curve)), ".-")
for name in large.granularities:
    place = curve.index(large.space.uniform(name))
    right.annotate(name, (gmacs[place], place), (8, -4), textcoords="offset points", weight="bold")
right.set(xlabel="GMACs an image", title=ARCHITECTURE)
right.margins(x=0.1)
right.grid(alpha=0.25)
plt.show()

# %% [markdown]
# ## Budgets
#
# A budget is what you are ready to pay, in words. The answer is the largest submodel on the curve that
# costs no more.

# %%
for budget in BUDGETS:
    submodel = large.submodel(budget)
    cost = large.cost(submodel)
    price = f"{cost.gmacs:.2f} GMACs = {cost.gflops:.2f} GFLOPs, {cost.mparams:.1f} M parameters"
    print(f"{budget:>9} -> {submodel!s:8}  {price}")

# %% [markdown]
# A budget that nothing fits is refused, and the message says what the smallest encoder costs. `25ms` is a
# budget, too, with a profile: `matvit.runtime.latency.measure` times the curve on your machine, once a month.

# %%
try:
    large.submodel("10%")
except matvit.BudgetError as error:
    print(error)

# %% [markdown]
# ## Out of the nest
#
# `extract` gives one submodel tensors of its own, of just the size it needs. It is a plain model of timm's
# own class, so whatever can run timm can run it, without this library.

# %%
plain = model.extract(small)
print(type(plain).__module__, type(plain).__name__)
own, of = (sum(tensor.numel() for tensor in each.parameters()) for each in (plain, model))
print(f"{own:,} of {of:,} parameters")
with torch.inference_mode():
    print("same logits:", torch.equal(plain(images), model(images, small)))

# %% [markdown]
# A uniform submodel is what timm builds when it is told a smaller `mlp_ratio`, and the weights fit, name by
# name.

# %%
rebuilt = timm.create_model(
    "vit_tiny_patch16_224",
    **{"img_size": 8, "patch_size": 2, "in_chans": 1, "embed_dim": 64, "depth": 4, "num_heads": 4},
    **{"class_token": False, "global_pool": "avg", "num_classes": 10, "mlp_ratio": 0.5},
)
print(rebuilt.load_state_dict(plain.state_dict()))

# %% [markdown]
# # Your own images, with a Vision Transformer as it is
#
# Take a folder of your images and a pretrained Vision Transformer from timm, and you have a search engine
# in a few lines. `matvit.elastic` lets any such model run at any width. It cannot make up for training,
# though: a model whose small widths were never trained gives poor answers there. This notebook builds the
# index, and then looks at how poor.

# %% [markdown]
# Two lines to change, here or in the environment as `MATVIT_NOTEBOOK_IMAGES` and `MATVIT_NOTEBOOK_MODEL`: a
# folder, flat or with one subfolder a class, and the name of a timm Vision Transformer with pretrained
# weights, such as `vit_small_patch16_224.augreg_in21k`, which is downloaded.
#
# Left empty, as in what you see below, both have stand-ins that need no network: pictures of coloured
# shapes, and a small Vision Transformer trained for its full width alone on other pictures of the kind.

# %% tags=["parameters"]
import os

FAST = os.environ.get("MATVIT_NOTEBOOK_FAST") == "1"
IMAGES = os.environ.get("MATVIT_NOTEBOOK_IMAGES", "")
MODEL = os.environ.get("MATVIT_NOTEBOOK_MODEL", "")
EPOCHS = 1 if FAST else 20  # of the stand-in
PER_CLASS = 8 if FAST else 50  # pictures of each kind

# %%
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from IPython.display import Image
from PIL import Image as Picture
from PIL import ImageDraw

import matvit
from indexes import Index
from matvit.runtime.device import pick_device
from matvit.training.train import train
from retrieval import Encoder, Searcher, build_index, open_source
from retrieval.measuring.evaluate import evaluate
from retrieval.showing.contact_sheet import contact_sheet
from retrieval.sources.labelled import open_labelled

scratch = tempfile.TemporaryDirectory()  # removed when the kernel stops
WORK = Path(scratch.name)

# %% [markdown]
# ## The images
#
# The stand-in for your folder: circles, squares and triangles in shades of three colours, of any size and
# slant.

# %%
COLOURS = {"red": (200, 60, 50), "green": (60, 160, 70), "blue": (60, 90, 200)}
CORNERS = {"circle": 60, "square": 4, "triangle": 3}


def draw(folder, seed):
    """Pictures of 32 x 32 pixels, one subfolder a class, such as `red circle`."""
    rng = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        for shape, corners in CORNERS.items():
            place = folder / f"{name} {shape}"
            place.mkdir(parents=True)
            for number in range(PER_CLASS):
                shade = tuple(rng.normal(colour, 25).clip(0, 255).astype(int).tolist())
                picture = Picture.new("RGB", (32, 32), (int(rng.integers(80)),) * 3)
                circle = (*rng.uniform(13, 19, 2), rng.uniform(9, 13))  # where it is, and its radius
                ImageDraw.Draw(picture).regular_polygon(circle, corners, int(rng.integers(360)), shade)
                picture.save(place / f"{number:02}.png")
    return folder


folder = Path(IMAGES) if IMAGES else draw(WORK / "pictures", seed=0)
print(f"{open_source(folder).size} images in {folder.name}")

# %% [markdown]
# ## The model
#
# With a name it is one line, `matvit.elastic(MODEL, pretrained=True)`. The stand-in is trained here
# instead. Its recipe says `granularities = ["XL"]`: the full width and nothing else, as every pretrained
# Vision Transformer was trained.

# %%
RECIPE = f"""
architecture = "matvit_tiny_patch16_224"
epochs = {EPOCHS}
batch_size = 32

[model]
img_size = 32
patch_size = 8
embed_dim = 64
depth = 6
num_heads = 4

[optim]
lr = 2e-3
warmup_epochs = 1

[objective]
granularities = ["XL"]
"""


def stand_in():
    (WORK / "recipe.toml").write_text(RECIPE)
    return train(WORK / "recipe.toml", open_labelled(draw(WORK / "other", seed=1), "RGB"), WORK / "run")


model = matvit.elastic(MODEL, pretrained=True) if MODEL else stand_in()
encoder = Encoder(
    model, device=pick_device(), dtype=torch.float32, location=MODEL or str(WORK / "run" / "checkpoint")
)
print(f"{encoder.space.depth} layers, {encoder.cost(encoder.space.full).gmacs:.3g} GMACs an image")

# %% [markdown]
# ## The index
#
# The full encoder embeds the folder. What cannot be read is set aside with its reason and stops nothing.

# %%
build_index(open_source(folder), encoder, WORK / "mine.index")
searcher = Searcher(Index.open(WORK / "mine.index"), encoder)
print(f"{len(searcher.index)} images embedded")

# %% [markdown]
# ## Neighbours at full width
#
# Some images of the folder, evenly spaced, serve as queries; each is left out of its own results. At full
# width this is an ordinary search with an ordinary Vision Transformer, as good as the model is.

# %%
rows = np.linspace(0, len(searcher.index) - 1, 50).round().astype(int)
entries = searcher.index.entries(["key", "path"]).take(rows).to_pydict()
keys, paths = entries["key"], entries["path"]


def search(budget, k=6):
    """The neighbours of every query, without itself."""
    submodel = searcher.submodel(budget, force=True)  # Below XL nobody trained it: else that is refused.
    answers = searcher.query_batch(paths, budget=submodel, k=k + 1)
    return [
        replace(hits, hits=tuple(hit for hit in hits if hit.key != key)[:k])
        for key, hits in zip(keys, answers, strict=True)
    ]


found = {name: search(name) for name in encoder.space.granularities}
shown = (5, 25, 45)
contact_sheet(WORK / "full.png", [("query", paths[i], found["XL"][i]) for i in shown], columns=6)
Image(WORK / "full.png", width=600)

# %% [markdown]
# ## The same queries at S
#
# Now an eighth of the hidden units in every layer. The same index answers, with lower cosines. The stand-in
# still knows the colour at S, but no longer the shape: squares and triangles find circles.

# %%
contact_sheet(WORK / "small.png", [("query", paths[i], found["S"][i]) for i in shown], columns=6)
Image(WORK / "small.png", width=600)

# %% [markdown]
# ## What is lost
#
# Two measures that need no labels: the cosine between an image's embedding at a budget and at XL, and how
# many of XL's six nearest are among the six nearest at that budget. Where the cosine is low, S might as
# well search for another image.

# %%
images = torch.stack([encoder.preprocess(path) for path in paths])
full = encoder.embed(images)
print("    of XL's MACs   cosine with XL: mean, lowest   of XL's six nearest")
for submodel in encoder.space.uniforms():
    cosine = (encoder.embed(images, submodel) * full).sum(axis=1)
    share = encoder.cost(submodel).macs / encoder.cost(encoder.space.full).macs
    pairs = zip(found[str(submodel)], found["XL"], strict=True)
    kept = np.mean([len({hit.key for hit in a} & {hit.key for hit in b}) / len(b) for a, b in pairs])
    print(f"{submodel!s:>2}  {share:12.0%}   {cosine.mean():20.3f}, {cosine.min():6.3f}   {kept:19.0%}")

# %% [markdown]
# Where the folder has classes, 1-NN accuracy can be measured as well: the share of images whose nearest
# other image is of their class. For the stand-in, guessing gives 11 %.

# %%
if searcher.index.manifest.classes:
    result = evaluate(searcher, open_source(folder), encoder.space.uniforms())
    for point in result.points:
        print(f"{point.submodel!s:>2}  {point.share_of_full:4.0%} of XL's MACs: {point['adaptive_1nn']} %")

# %% [markdown]
# ## What to make of it
#
# The stand-in is a toy, and your model will have other numbers; the fall from XL to S is what to expect of
# it all the same. On Fashion-MNIST, a plain Vision Transformer sliced to S went from 88.7 % to 59.0 %,
# where a MatViT of the same shape kept 87.7 % (the table is in docs/results.md).
#
# With a Vision Transformer as it is, stay at XL, or at the budget where the table above shows no loss that
# you mind. For a knob that can be turned all the way down, use a model trained nested: the published
# MatViTs (`-m matvit-b16-in1k`), or one of your own (`03_adaptive_retrieval`).

# %% [markdown]
# # One index, three budgets
#
# Image search pays twice: once to embed the collection, and again for every query that will ever be asked.
# MatViT makes the second price a choice. One Vision Transformer holds many smaller encoders inside its own
# weights. The full one embeds the collection, and each query says how much of it may run.
#
# Nothing is downloaded here and no GPU is needed: the images are scikit-learn's handwritten digits, 8 x 8
# pixels each, and the model of 0.2 million parameters comes with the package.

# %% [markdown]
# What you may want to change comes first. An environment variable of the same name, with `MATVIT_NOTEBOOK_`
# in front, does it from outside: `MATVIT_NOTEBOOK_DIGITS=079`.

# %% tags=["parameters"]
import os

BUDGETS = os.environ.get("MATVIT_NOTEBOOK_BUDGETS", "S 60% XL").split()
DIGITS = os.environ.get("MATVIT_NOTEBOOK_DIGITS", "24")  # a query of each of these

# %%
import tempfile
from pathlib import Path

from IPython.display import Image

from matvit.weights.checkpoint import SHIPPED
from retrieval import Encoder, Searcher, build_index, open_source
from retrieval.measuring.evaluate import evaluate
from retrieval.showing.contact_sheet import contact_sheet
from retrieval.sources.digits import write_digits

scratch = tempfile.TemporaryDirectory()  # removed when the kernel stops
WORK = Path(scratch.name)

# %% [markdown]
# ## The images
#
# `write_digits` puts the digits on disk as ordinary PNG files, one folder a class: some to search among,
# and others, which the model has never seen, to search with.

# %%
corpus, queries = write_digits(WORK / "digits")
print(f"{open_source(corpus).size} images to search among, {open_source(queries).size} to search with")

# %% [markdown]
# ## The encoder
#
# An `Encoder` is a model with its preprocessing. Its *granularities* S, M, L and XL keep an eighth, a
# quarter, a half or all of the hidden units in every feed-forward layer. XL is the full encoder. Costs are
# counted in multiply-accumulates (MACs) for one image.

# %%
encoder = Encoder.open(SHIPPED / "digits", dtype="fp32")
for submodel in encoder.space.uniforms():
    cost = encoder.cost(submodel)
    print(f"{submodel!s:>2}  {cost.macs / 1e6:.2f} million MACs  {cost.params:7,} parameters")

# %% [markdown]
# ## The index
#
# The full encoder embeds every image once. What comes out is a directory that can be copied, kept and
# checked.

# %%
build_index(open_source(corpus), encoder, WORK / "digits.index")
for path in sorted((WORK / "digits.index").iterdir()):
    print(path.name)

# %% [markdown]
# ## A query at three budgets
#
# A budget may be a granularity, or a share of the full encoder's MACs, or one of the other spellings that
# `02_mixnmatch` lists. It becomes the largest nested encoder that fits, and that encoder embeds the query.
# The index stays as it is: the vectors in it came from XL, and smaller encoders were trained to agree with
# them.

# %%
searcher = Searcher.open(WORK / "digits.index", dtype="fp32")
asked = [next(iter(sorted((queries / digit).iterdir()))) for digit in DIGITS]

for budget in BUDGETS:
    hits = searcher.query(asked[0], budget=budget, k=3)
    found = ", ".join(f"{hit.key} ({hit.score:.3f})" for hit in hits)
    print(f"{budget:>3} -> {hits.submodel!s:8} {hits.macs / 1e6:.2f} million MACs: {found}")

# %% [markdown]
# ## The neighbours
#
# Each row starts with the query and the encoder that read it; its neighbours follow, nearest first, with
# their cosine and their class. The 2 is easy, and every budget finds other 2s. The 4 is hard: the smaller
# encoders take it for an 8, and XL does not. The low cosines give such a query away.

# %%
rows = []
for image in asked:
    for budget in BUDGETS:
        hits = searcher.query(image, budget=budget, k=6)
        rows.append((f"{hits.submodel}\n{hits.macs / 1e6:.2f} M MACs", image, hits))
contact_sheet(WORK / "neighbours.png", rows, columns=6)
Image(WORK / "neighbours.png", width=600)

# %% [markdown]
# ## Counted
#
# A few rows prove nothing, so count: of all held-out digits, how many have a nearest neighbour of their own
# class? In brackets stands the 95 % interval. With 360 queries the intervals overlap, so that this does not
# tell which budget is better; it tells that none of them is bad.

# %%
result = evaluate(searcher, open_source(queries), [encoder.submodel(budget) for budget in BUDGETS])
for point in result.points:
    print(f"{point.submodel!s:8} {point.share_of_full:4.0%} of XL's MACs: {point['adaptive_1nn']} %")

# %% [markdown]
# ## The same on the command line
#
#     matvit index build photos/ -m CHECKPOINT -o photos.index
#     matvit query cat.jpg -i photos.index --budget 60%
#     matvit evaluate photos/test -i photos.index --budget all
#
# Next: `02_mixnmatch` shows what nests in what, `03_adaptive_retrieval` trains a model like this one, and
# `04_your_own_images` starts from a folder of yours.

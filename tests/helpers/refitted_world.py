"""A small encoder made elastic, and images drawn for it: shared by many tests, read only."""

import pytest
import torch
from small_world import random_matvit, write_folder

import matvit
from matvit.refitting.first_pass import elasticize
from retrieval import Encoder
from retrieval.encoding.drawn_images import DrawnImages


def encoder_of(model):
    return Encoder(matvit.elastic(model), device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture(scope="session")
def many(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("many") / "images", 12)


@pytest.fixture(scope="session")
def original():
    return random_matvit(0)


@pytest.fixture(scope="session")
def plain(original):
    return encoder_of(original)


@pytest.fixture(scope="session")
def drawn(many, plain):
    return DrawnImages.read(str(many), plain, fit=40, check=20, submodels=plain.space.smaller_images)


@pytest.fixture(scope="session")
def refitted(original, drawn):
    return elasticize(original, drawn.fit.batches()).model

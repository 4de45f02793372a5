"""The model and the curve that an index remembers, which commands take where nobody says another."""

import shlex
from pathlib import Path

from indexes import Store, WrongEncoderError
from indexes.disk.manifest import read_manifest
from indexes.disk.staging import restore as restore_index
from matvit.files.atomic import restore
from matvit.submodels.submodel import Submodel
from matvit.vision.elastic_vit import Elastic
from matvit.weights.checkpoint import read_curve, tensors_sha256
from matvit.weights.model_names import is_here
from retrieval.errors import MissingModelError


def curve_of(index: str | Path, model: Elastic) -> dict[Submodel, float]:
    """The curve that was measured for an index, of the submodels of a model; empty where there is none.

    Where there is one, the model must have its weights.

    Raises:
        WrongEncoderError: The index was made by a model of another architecture.
        SubmodelError: What the index says is no curve of this model.
        IndexDamagedError: There is no whole index.
    """
    restore_index(Path(index))
    manifest = read_manifest(Path(index))
    curve = manifest.curve
    made_by, architecture = manifest.encoder.architecture, model.pretrained_cfg["architecture"]
    if made_by != architecture:
        raise WrongEncoderError(f"{index} was made by a {made_by}, not by a {architecture}")
    if curve is None or curve["refits"] != (tensors_sha256(model.extras) if model.extras else None):
        return {}
    return read_curve(model, curve["cosines"])


def model_of(index: Store | str | Path) -> str:
    """The model that made a corpus, or an index that need not be opened: its directory, or its name.

    Raises:
        MissingModelError: It is no longer where it was, or is a name that would be downloaded.
        IndexDamagedError: There is no whole index.
    """
    if isinstance(index, str | Path):
        restore_index(Path(index))
        location, manifest = str(index), read_manifest(Path(index))
    else:
        location, manifest = str(index.location), index.manifest
    model = manifest.checkpoint
    restore(Path(model))
    if Path(model).is_absolute() and not Path(model).is_dir():
        raise MissingModelError(f"the model of {location} is no longer at {model}: say with -m where it is")
    # An index may come from a stranger, who must not choose what this machine fetches, and from whom. What is
    # in the cache was asked for here before: taking it again runs nobody's code, pickles are never read, and
    # weights other than those that made the index are refused by their checksum. So an index that was built
    # here is searched without -m, by its maker's name for the model, and a stranger's name reveals no more
    # than that it is known here.
    if not is_here(model):
        raise MissingModelError(
            f"{location} was made with {model!r}, which would be downloaded, and an index may come from a "
            f"stranger: pass -m {shlex.quote(model)} if you want it"
        )
    return model

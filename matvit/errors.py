"""What can go wrong here. A ValueError is the caller's to mend; a RuntimeError is work that failed."""


class SubmodelError(ValueError):
    """Widths that do not fit the encoder they are meant for."""


class BudgetError(ValueError):
    """A budget that cannot be read, or that no submodel meets."""


class RecipeError(ValueError):
    """A training recipe with an unknown key, a wrong type or a value out of range."""


class RefitError(ValueError):
    """A model and images whose submodels cannot be refitted."""


class UnknownModelError(ValueError):
    """A model name or directory that leads to no MatViT."""


class CheckpointError(RuntimeError):
    """A checkpoint that is incomplete, damaged or does not match its own configuration."""


class BusyError(RuntimeError):
    """Another process is writing there."""


class DownloadError(RuntimeError):
    """A file that could not be downloaded."""


class NonsenseError(ValueError):
    """What a file asks of timm or torch, and they cannot do: see `matvit.vision.plain_timm`."""


class TrainingError(RuntimeError):
    """Training that cannot start or go on."""


class DeviceError(ValueError):
    """A device or number format that this machine does not have."""


class CompileError(RuntimeError):
    """A submodel that cannot be compiled on this machine."""


class EngineError(ValueError):
    """An engine that there is not, or that cannot do what is asked of it."""


class MissingEngineError(RuntimeError):
    """An engine whose runtime is not installed. The message says how to install it."""

"""Every error a user may see: what went wrong, the value found, and what to do next."""


class DDSPSegmentationError(Exception):
    """Base of the family; panel, batch and command line each show it their own way.

    Args:
        cause: one sentence naming the cause and the value found.
        next_step: one sentence naming what the user can do.
    """

    def __init__(self, cause: str, next_step: str = ""):
        super().__init__(f"{cause} {next_step}".strip())
        self.cause = cause
        self.next_step = next_step

    def __reduce__(self):
        return type(self), (self.cause, self.next_step)


class InputError(DDSPSegmentationError):
    """The image cannot be segmented as it is."""


class ModelError(DDSPSegmentationError):
    """A model folder is missing, damaged, foreign or made by a newer version."""


class DeviceError(DDSPSegmentationError):
    """The processor or GPU cannot do what was asked."""


_OUT_OF_MEMORY = ("memoryerror", "out of memory", "not enough memory", "allocate memory", "bad allocation", "bad_alloc")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out. CUDA alone has a type of its own for that; MPS, the processor and ITK only have words."""
    return any(words in f"{type(error).__name__} {error}".lower() for words in _OUT_OF_MEMORY)


def not_enough_memory() -> DeviceError:
    """The error for a scan that does not fit."""
    cause = "There is not enough memory to segment this scan."
    return DeviceError(cause, "Close other programs, or use a computer with more memory.")


class TorchMissingError(DDSPSegmentationError):
    """PyTorch is not installed, or too old."""


class StorageError(DDSPSegmentationError):
    """A file cannot be written."""


class WorkerError(DDSPSegmentationError):
    """The engine's own process did not start, ended, or was not understood."""


class DatasetError(DDSPSegmentationError):
    """A folder of training or evaluation cases is not as expected."""


class Canceled(DDSPSegmentationError):
    """The user canceled."""

    def __init__(self, cause: str = "Canceled.", next_step: str = ""):
        super().__init__(cause, next_step)

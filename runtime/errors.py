"""The exception tree. Every message says what was got, what was expected and what to do.

PumiceError                 the root: catch this
├── UsageError              the call itself is wrong (arguments, options)        exit code 2
├── DeviceError             the device asked for cannot be used                  exit code 3
├── CheckpointError         a checkpoint cannot be read, or is not supported
├── ExportError             a bundle cannot be written
├── BundleError             a bundle cannot be trusted or opened
│   ├── SchemaVersionError  it was written for a newer pumice
│   └── HubError            it cannot be fetched from the hub, or pushed there
├── OptimizeError           a copy of a bundle for this machine cannot be made
├── ImageError              an image cannot be read, or is too large
│   └── VideoError          a video cannot be read, or is too large or too long
├── PromptError             a prompt and its images do not fit each other
│   └── ContextLengthError  the prompt is longer than the model's context
├── GenerationError         no answer can be made: logits that are not finite, options that leave no token
│   └── InsufficientMemoryError  what was asked for does not fit into memory
├── QueueFullError          an engine has as many requests waiting as it may
├── EngineClosedError       an engine that takes no more requests
├── DeadlineError           an answer took longer than it was allowed to
└── BatchError              the inputs or the output of a batch cannot be used
"""

LONGEST_MESSAGE = 1000
"""Characters; what a damaged file holds can be as long as it likes."""


class PumiceError(Exception):
    """Root of all errors raised on purpose; the message is one line, fit for a user's eyes.

    Names and values from files are quoted in messages, so whatever would break the line or steer a terminal is escaped.
    """

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        plain = "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)
        if len(plain) > LONGEST_MESSAGE:
            plain = f"{plain[: LONGEST_MESSAGE - 250]} … {plain[-240:]}"
        super().__init__(plain)


class UsageError(PumiceError, ValueError):
    """Arguments that contradict each other or lie outside their interval."""

    exit_code = 2


class DeviceError(PumiceError):
    """A device that was asked for by name is not usable."""

    exit_code = 3


class CheckpointError(PumiceError):
    """A checkpoint that is missing, damaged, or of a kind that is not supported."""


class ExportError(PumiceError):
    """A bundle that cannot be written: destination exists, disk full, tracing failed."""


class BundleError(PumiceError):
    """A bundle that is missing files, was changed, or points outside its folder."""


class SchemaVersionError(BundleError):
    """A bundle whose manifest is of a newer schema than this pumice reads."""


class HubError(BundleError):
    """The hub cannot be reached, refuses, or has something else; or nobody is logged in."""


class OptimizeError(PumiceError):
    """A copy of a bundle for this machine cannot be written or removed: disk full, folder read-only."""


class ImageError(PumiceError):
    """An image that cannot be decoded, is of a refused format, or is too large."""


class VideoError(ImageError):
    """A video that cannot be read, is too large or too long, or has frames that are no images."""


class PromptError(PumiceError, ValueError):
    """A prompt that cannot be rendered, or whose image count differs from its images'."""


class ContextLengthError(PromptError):
    """A prompt that does not fit into the model's context."""


class GenerationError(PumiceError):
    """Logits that are not finite, options that leave no token to choose, or a failure while computing."""


class InsufficientMemoryError(GenerationError):
    """A cache that does not fit into the memory that is left; nothing was allocated."""


class QueueFullError(PumiceError):
    """A request to an engine whose queue is full; it was not accepted."""


class EngineClosedError(PumiceError):
    """An engine that was closed, or has failed."""


class DeadlineError(PumiceError):
    """A request to an engine that was given up, because its deadline passed."""


class BatchError(PumiceError):
    """Inputs or an output of `pumice batch` that cannot be read or written, or belong to another run."""

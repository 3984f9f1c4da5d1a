"""Short import path of `ProbeCallback` for trainers of transformers and TRL; see `probe.recording.callback`."""

from probe.recording.callback import ProbeCallback

__all__ = ["ProbeCallback"]

"""What a model remembers of a sequence, and from where on one can go on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import llama_cpp


@dataclass(frozen=True, slots=True)
class Memory:
    """How llama.cpp keeps the tokens of a sequence.

    Args:
        is_state: some layers remember one state of a sequence and not a cell for each token (recurrent and hybrid models): from no
            position but its last can it go on.
        window: tokens that some layers look back on; 0 = all layers look back on all. These layers may have let go of older ones, so that a
            sequence goes on from those of its positions before which the window is still there.
        is_small: these layers have room for little more than that.
    """

    is_state: bool = False
    window: int = 0
    is_small: bool = False

    @classmethod
    def of(cls, model: Any, *, swa_full: bool) -> Memory:
        is_state = llama_cpp.llama_model_is_recurrent(model) or llama_cpp.llama_model_is_hybrid(model)
        window: int = llama_cpp.llama_model_n_swa(model)
        return cls(is_state, window, window > 0 and not swa_full)

    @property
    def goes_on_anywhere(self) -> bool:
        return not (self.is_state or self.window)

    @property
    def needs_checkpoints(self) -> bool:
        """Whether all but the end of a sequence is soon lost to others."""
        return self.is_state or self.is_small

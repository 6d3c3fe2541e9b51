"""Colours and signs that all pictures of the demo share; Okabe and Ito's colours, distinct for every kind of colour vision."""

from __future__ import annotations

GOOD, BAD, WARNING, IDLE = "#009E73", "#D55E00", "#E69F00", "#56B4E9"
WALL, FAINT, PERSON = "#707070", "#A0A0A0", "#E69F00"

ROBOT = {"driving": GOOD, "waiting": IDLE, "bumped": BAD, "braked": WARNING, "finished": GOOD}
"""The robot's colour by its state."""
ASKING = {"waiting": ("?", WARNING), "in time": ("✓", GOOD), "late": ("✗", BAD)}
"""Sign and colour of somebody who asks, by what became of the question."""

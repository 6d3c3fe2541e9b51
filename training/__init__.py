"""Trains the default model: a small language of a mobile robot with an arm, see docs/model.md."""

"""Traffic, sweeps over it, and what they show."""

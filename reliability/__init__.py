"""Long runs that try to break a server: chaos (faults), soak (load), fuzz (wrong input). ``make chaos``, ``make soak``, ``make fuzz``;
``make door`` does all three to the gateway."""

"""Long runs that try to break a server: chaos (faults), soak (load), fuzz (wrong input), and a fleet: its members are lost.

``make chaos``, ``make soak``, ``make fuzz``, ``make fleet``; ``make door`` does the first three to the gateway.
"""

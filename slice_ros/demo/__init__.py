"""The main job at a glance: a robot on tour and the people who ask it things share one server. Never imported here: ``llama_cpp``."""

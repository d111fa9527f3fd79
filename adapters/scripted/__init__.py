"""A language model that needs none: scripts of agents, what plays them, and the agents that ship."""

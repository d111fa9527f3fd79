"""A telephone on the provider's side: places calls at any engine over a provider's real wire."""

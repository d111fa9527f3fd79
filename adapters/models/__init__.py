"""Language models and scripted agents."""

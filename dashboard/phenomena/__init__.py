"""The parts of the pages of experiments: models and options, numbers, items, tokens; the same for every experiment."""

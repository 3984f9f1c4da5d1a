"""In-context learning: what does a model make of the examples in its prompt, and which heads carry it?"""

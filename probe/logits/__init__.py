"""Logits: what would the model say after each layer, and which part wrote the answer?"""

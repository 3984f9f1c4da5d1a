"""Chain of thought: do written steps help, and does the answer follow from them?"""

"""Rewards: what do a policy's answers earn, what does it cost in KL, and how far is the exact optimum?"""

"""Hallucination: how often does a model make up answers, and is its confidence calibrated?

- the whole experiment: `run`
- questions from a file: `read_questions`
- multiple choice (TruthfulQA): `mc1`, `mc2`
- the model's judgement of its own answers: `p_true`, `p_ik`
- calibration: `reliability`, `calibration_error`, `reliability_part`
- answering only when sure: `risk_coverage`, `aurc`
- a direction and a head that predict what the model knows: `known_direction`, `knowing_head`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]

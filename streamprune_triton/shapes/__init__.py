"""Streaming shapes: generated clips of coloured shapes, questions about them, and a small model that answers.

| | |
|---|---|
| world | what happens, simulated |
| backgrounds, render | what it looks like |
| truth | what is true after each step |
| questions, rules | what can be asked, and how the answers follow |
| clip | one clip, to watch |
| model, words | a small Qwen2.5-VL, its processor and tokenizer |
"""

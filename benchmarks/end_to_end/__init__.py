"""The model layer's benchmark: frames a second, memory, questions and answers of whole sessions beside the model's own.

`python3 -m benchmarks.end_to_end` measures and writes rows; `python3 -m benchmarks.end_to_end.report` makes the tables
and the plot from them.
"""

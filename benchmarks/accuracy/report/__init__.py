"""Tables and plots of the rows: `python3 -m benchmarks.accuracy.report`.

| | |
|---|---|
| results | the rows by table, setting and method |
| statistics | means and intervals over training seeds |
| sections | what the README says of each table |
| card | what the model card says |
| plots | pictures |
"""
